"""`--init_from`: a run that begins with another run's weights, and with nothing else of it."""

from __future__ import annotations

import json
import pathlib
import shutil

import conftest
import numpy as np
import pytest
import runs
import tensorflow as tf


def weights(directory: pathlib.Path) -> np.ndarray:
    """The weights of a run's export, in one row."""
    step = runs.metrics(directory)["steps"]
    saved = tf.saved_model.load(str(directory / "saved_model" / str(step)))
    return np.concatenate([variable.numpy().ravel() for variable in saved.weights])


def initial(directory: pathlib.Path) -> tuple[str, int, str]:
    """Path, step and SHA-256 of the weights that the run in `directory / "run"` began with."""
    return tuple(
        json.loads((directory / "run" / "config.json").read_text())["initial_weights"].values()
    )


@pytest.fixture
def begin(
    server: runs.TaskServer, trained: conftest.Run, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
):
    """Starts `tmp_path / "run"` with the weights of `tmp_path / "source"`, a copy of `trained`.

    Its steps are too small to change them.
    """
    shutil.copytree(trained.directory, tmp_path / "source")
    fixed = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path / 'run'}")
    source = f"--init_from={tmp_path / 'source'}"

    def start(*more: str, code: int = 0) -> runs.Answer:
        return server(*fixed, source, "--learning_rate=1e-9", *more, code=code)

    return start


def test_a_run_begins_with_the_weights_alone_and_says_whose(
    begin, trained: conftest.Run, tmp_path: pathlib.Path
) -> None:
    begin("--epochs=1", "--seed=5")
    source = runs.metrics(trained.directory)["weights_sha256"]
    assert initial(tmp_path) == (str(tmp_path / "source"), 30, source)
    np.testing.assert_allclose(weights(tmp_path / "run"), weights(trained.directory), atol=1e-6)
    assert [row["step"] for row in runs.history(tmp_path / "run")] == ["10"]
    assert runs.metrics(tmp_path / "run")["resumed_from_step"] is None


def test_the_newest_weights_are_those_that_can_be_read(
    begin, trained: conftest.Run, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "source" / "checkpoints" / "step-30.index").write_bytes(b"cut")
    begin("--epochs=1")
    assert initial(tmp_path)[1] == 20
    assert np.abs(weights(tmp_path / "run") - weights(trained.directory)).max() > 1e-3
    for step in (10, 20):
        (tmp_path / "source" / "checkpoints" / f"step-{step}.index").write_bytes(b"cut")
    shutil.rmtree(tmp_path / "run")
    assert "no weights" in begin("--epochs=1", code=2).message


def test_a_run_goes_on_without_its_source_until_it_has_to_begin_again(
    begin, tmp_path: pathlib.Path
) -> None:
    begin("--epochs=1")
    shutil.rmtree(tmp_path / "source")
    before = initial(tmp_path)
    begin("--epochs=2")
    assert runs.metrics(tmp_path / "run")["resumed_from_step"] == 10
    assert initial(tmp_path) == before
    assert "holds another run" in begin("--init_from=elsewhere", code=2).message
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "holds no run" in begin("--epochs=3", code=2).message
