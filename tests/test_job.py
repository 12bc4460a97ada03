"""What a finished run leaves behind, and how runs end that cannot finish."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re

import conftest
import pytest
import runs

from trainer.run import directory as run_directory

METRICS = {
    **dict.fromkeys(("dataset", "model", "strategy", "precision", "weights_sha256"), str),
    **dict.fromkeys(("parameters", "epochs", "steps", "examples_per_second", "seed"), int),
    **dict.fromkeys(("examples_train", "examples_validation", "examples_test"), int),
    **dict.fromkeys(("replicas", "workers"), int),
    **dict.fromkeys(("test_loss", "test_accuracy", "validation_accuracy"), float),
    **dict.fromkeys(("test_calibration_error", "train_seconds", "wall_seconds"), float),
    "temperature": float,
    "test_accuracy_interval": list,
    "seconds": dict,
    **dict.fromkeys(("jit_compile", "finished"), bool),
    "resumed_from_step": type(None),
}


def test_a_finished_run_leaves_every_promised_file(trained: conftest.Run) -> None:
    names = {"config.json", "checkpoints", "tensorboard", "saved_model"}
    names |= {"predictions.png", "sample.png", "history.csv", "metrics.json"}
    names |= {"report.html", "figures"}
    assert set(os.listdir(trained.directory)) == names | {"model.keras"}
    parts = {path.name for path in (trained.directory / "tensorboard").iterdir() if path.is_dir()}
    assert parts == {"train", "validation", "test"}
    assert os.listdir(trained.directory / "saved_model") == ["30"]


def test_metrics_have_the_promised_names_and_types(trained: conftest.Run) -> None:
    found = runs.metrics(trained.directory)
    assert {name: type(value) for name, value in found.items()} == METRICS
    assert found["finished"]
    assert (found["dataset"], found["model"], found["epochs"]) == ("mnist", "mlp", 3)
    assert (found["steps"], found["replicas"], found["workers"]) == (30, 1, 1)
    assert found["parameters"] == 784 * 128 + 128 + 128 * 10 + 10
    assert found["examples_train"] == runs.TRAIN - runs.VALIDATION
    assert found["examples_validation"] == runs.VALIDATION
    assert found["examples_test"] == runs.TEST
    assert 0.2 < found["test_accuracy"] <= 1
    assert 0 < found["train_seconds"] < found["wall_seconds"]
    assert re.fullmatch("[0-9a-f]{64}", found["weights_sha256"])


def test_config_json_says_everything_that_decided_the_run(trained: conftest.Run) -> None:
    found = json.loads((trained.directory / "config.json").read_text())
    assert None not in {
        found["config"][name] for name in ("batch_size", "learning_rate", "augment")
    }
    assert found["config"]["dataset"] == "mnist"
    assert {"strategy", "devices", "workers", "replicas", "precision"} <= set(found["resolved"])
    assert {"trainer", "python", "tensorflow", "keras"} <= set(found["versions"])
    sums = {f"{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")}
    assert set(found["data"]["sha256"]) == sums


def test_a_diverged_run_is_told_and_keeps_its_last_checkpoint(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = (*runs.FLAGS, "--learning_rate=1e38", "--warmup=0", "--checkpoint_every=1")
    more = ("--jit_compile=off", f"--data_dir={tiny_dir}", f"--model_dir={tmp_path}/run")
    answer = server(*flags, *more, code=2)
    assert "step 2" in answer.message
    assert "--learning_rate=1e+38" in answer.message
    assert run_directory.checkpoint_steps(str(tmp_path / "run")) == [1]
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("place", ["ram://a/run", r"file://TMP/exp[lr=0.1]/back\slash"])
def test_a_run_can_live_anywhere_that_tensorflow_reads(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path, place: str
) -> None:
    """For `ram://` in a new process, which imports TensorFlow while it looks for the run."""
    path = place.replace("TMP", str(tmp_path))
    flags = (*runs.FLAGS, "--jit_compile=off", f"--data_dir={tiny_dir}", f"--model_dir={path}")
    new = runs.TaskServer(tmp_path) if "ram" in place else contextlib.nullcontext(server)
    with new as process:
        assert "saved_model" in process(*flags, "--epochs=1").out
        assert "finished already" in process(*flags, "--epochs=1").out
        more = process(*flags, "--epochs=2")
        assert ("resumed at step 10" in more.out, more.err) == (True, "")
        assert "--seed=2" in process(*flags, "--seed=2", code=2).message


@pytest.mark.parametrize(("rate", "guesses"), [("1000", True), ("0.003", False)])
def test_a_result_of_guessing_is_called_that(
    server: runs.TaskServer,
    tiny_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    rate: str,
    guesses: bool,
) -> None:
    where = (f"--data_dir={tiny_dir}", f"--model_dir={tmp_path / 'run'}")
    answer = server(*runs.FLAGS, *where, "--epochs=2", f"--learning_rate={rate}")
    assert ("hardly better than guessing" in answer.out) is guesses
