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


@pytest.fixture
def begun(
    server: runs.TaskServer, trained: conftest.Run, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
):
    """Starts a run of an epoch with the weights of a copy of `trained`, `tmp_path / "source"`."""
    shutil.copytree(trained.directory, tmp_path / "source")
    fixed = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path / 'run'}")
    source = f"--init_from={tmp_path / 'source'}"

    def begin(*more: str, code: int = 0) -> runs.Answer:
        return server(*fixed, source, "--learning_rate=1e-9", *more, code=code)

    return begin


def test_a_run_begins_with_the_weights_alone_and_says_whose(
    begun, trained: conftest.Run, tmp_path: pathlib.Path
) -> None:
    for step in (20, 30):  # the newest checkpoint that is whole is that of step 10
        (tmp_path / "source" / "checkpoints" / f"step-{step}.index").write_bytes(b"cut")
    begun("--epochs=1", "--seed=5")
    record = json.loads((tmp_path / "run" / "config.json").read_text())["initial_weights"]
    assert (record["path"], record["step"]) == (str(tmp_path / "source"), 10)
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(tmp_path / "source")
    shutil.copytree(trained.directory, tmp_path / "source")
    begun("--epochs=1", "--seed=5")
    record = json.loads((tmp_path / "run" / "config.json").read_text())["initial_weights"]
    assert record["weights_sha256"] == runs.metrics(trained.directory)["weights_sha256"]
    np.testing.assert_allclose(weights(tmp_path / "run"), weights(trained.directory), atol=1e-6)
    assert [row["step"] for row in runs.history(tmp_path / "run")] == ["10"]
    assert runs.metrics(tmp_path / "run")["resumed_from_step"] is None


def test_a_run_goes_on_without_its_source_until_it_has_to_begin_again(
    begun, tmp_path: pathlib.Path
) -> None:
    begun("--epochs=1")
    shutil.rmtree(tmp_path / "source")
    begun("--epochs=2")
    assert runs.metrics(tmp_path / "run")["resumed_from_step"] == 10
    assert "holds another run" in begun("--init_from=elsewhere", code=2).message
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "holds no run" in begun("--epochs=3", code=2).message


def test_a_source_that_changed_meanwhile_is_not_mixed_in(
    begun, server: runs.TaskServer, trained: conftest.Run, tmp_path: pathlib.Path
) -> None:
    begun("--epochs=1")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.json").unlink()
    server(*trained.flags, "--epochs=4", f"--model_dir={tmp_path / 'source'}")
    assert "has changed" in begun("--epochs=1", code=2).message
