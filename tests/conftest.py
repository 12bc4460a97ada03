"""What several test files share: where the real MNIST files are."""

from __future__ import annotations

import os
import pathlib

import pytest


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
