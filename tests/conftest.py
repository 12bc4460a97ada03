"""What several test files share: where the real MNIST files are, and one tiny trained run."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import pytest
import runs
from browser import browser  # noqa: F401, a fixture

# The files whose tests take longest begin, so that no process ends with one of them alone.
LONGEST = ("test_resume", "test_picture", "test_workers", "test_scripts", "test_finish")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (*LONGEST, item.path.stem).index(item.path.stem))


@pytest.fixture(scope="session")
def mnist_dir() -> pathlib.Path:
    """The directory with the real MNIST files; the test is skipped where there is none."""
    directory = os.environ.get("MNIST_DATA_DIR")
    if not directory:
        pytest.skip("needs the real MNIST files: set MNIST_DATA_DIR to their directory")
    path = pathlib.Path(directory).resolve()
    if not path.is_dir():
        pytest.fail(f"MNIST_DATA_DIR={directory} is not a directory")
    return path


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with `runs.tiny_arrays` as a data set."""
    return runs.write_tiny(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runs.TaskServer]:
    """A process that runs command lines of `trainer.task`, TensorFlow imported once for all."""
    with runs.TaskServer(tmp_path_factory.mktemp("server")) as process:
        yield process


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its directory, the flags that made it, and what it said."""

    directory: pathlib.Path
    flags: tuple[str, ...]
    answer: runs.Answer


@pytest.fixture(scope="session")
def trained(server, tiny_dir, tmp_path_factory) -> Run:
    """A finished run of three epochs on the tiny data set; tests must not change it."""
    directory = tmp_path_factory.mktemp("runs") / "trained"
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", "--epochs=3", f"--model_dir={directory}")
    return Run(directory, flags, server(*flags))
