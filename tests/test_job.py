"""What a finished run leaves behind, and how runs end that cannot finish."""

from __future__ import annotations

import json
import os
import re
import types
from collections.abc import Callable

import conftest
import pytest
import runs

from trainer import data, job
from trainer.cluster.environment import Cluster
from trainer.config import Config
from trainer.process.clock import Clock
from trainer.process.console import Console
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


# In a call of several steps; between two checkpoints; in an epoch's last update, whose own loss is
# finite, to weights that are not finite, or to such that only the logits are not.
DIVERGING = {
    "call": ("--learning_rate=1e38 --warmup=0 --batch_size=50", [2]),
    "checkpoints": (
        "--learning_rate=200 --weight_decay=0.5 --warmup=0 --batch_size=50 --checkpoint_every=1"
        " --keep_checkpoints=1",  # each step multiplies the weights by -99
        range(3, 10),
    ),
    "weights": ("--learning_rate=1e25 --warmup=0 --batch_size=500", [1]),
    "logits": ("--learning_rate=1e9 --warmup=0 --batch_size=500 --model=cnn", [1]),
}


@pytest.mark.parametrize("where", DIVERGING)
def test_a_diverged_run_is_told_and_nothing_of_it_is_recorded(server, tiny_dir, tmp_path, where):
    directory, (flags, steps) = tmp_path / "run", DIVERGING[where]
    more = ("--jit_compile=off", f"--data_dir={tiny_dir}", f"--model_dir={directory}")
    answer = server(*flags.split(), *more, "--validation_examples=100", code=2)
    step = int(re.search(r"at step (\d+)", answer.message)[1])
    assert step in steps
    assert "--learning_rate=" in answer.message
    saved = run_directory.checkpoint_steps(str(directory))
    assert saved == ([step - 1] if where == "checkpoints" else [])
    assert not {"metrics.json", "history.csv"} & set(os.listdir(directory))


def test_a_run_can_live_anywhere_that_tensorflow_reads(tiny_dir, tmp_path) -> None:
    """In a new process, which imports TensorFlow while it looks for the run."""
    flags = (*runs.FLAGS, "--jit_compile=off", f"--data_dir={tiny_dir}", "--model_dir=ram://a/run")
    with runs.TaskServer(tmp_path) as process:
        assert "saved_model" in process(*flags, "--epochs=1").out
        more = process(*flags, "--epochs=2")
        assert ("resumed at step 10" in more.out, more.err) == (True, "")
        assert "finished already" in process(*flags, "--epochs=2").out
        assert "--seed=2" in process(*flags, "--seed=2", code=2).message


def test_a_result_of_guessing_is_called_that(server, trained, tiny_dir, tmp_path) -> None:
    where = (f"--data_dir={tiny_dir}", f"--model_dir={tmp_path / 'run'}", "--jit_compile=off")
    answer = server(*runs.FLAGS, *where, "--epochs=1", "--learning_rate=1000")
    assert "hardly better than guessing" in answer.out
    assert "hardly better than guessing" not in trained.answer.out


def test_only_the_chief_tells_what_happens_to_the_data(monkeypatch, capsys) -> None:
    def load(*args: object, notify: Callable[[str], None]) -> types.SimpleNamespace:
        notify("synthetic digits")
        return types.SimpleNamespace(name="synthetic", train_labels=[])

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(data, "load", load)
    for index, told in enumerate(("synthetic digits\n", "")):
        cluster, console = Cluster(("a:1", "b:1"), index), Console(quiet=index > 0)
        job._get_ready(Config(model_dir="run"), cluster, console, Clock())
        assert capsys.readouterr() == ("", told)
