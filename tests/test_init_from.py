"""`--init_from`: a run that begins with another run's weights, and with nothing else of it."""

from __future__ import annotations

import json
import shutil

import pytest
import runs


@pytest.fixture
def begin(server, trained, tiny_dir, tmp_path):
    """Starts `tmp_path / "run"` with the weights of `tmp_path / "source"`, a copy of `trained`.

    Its steps are too small to change an answer. Returns what `config.json` says of the source.
    """
    shutil.copytree(trained.directory, tmp_path / "source")
    fixed = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path / 'run'}")
    fixed += (f"--init_from={tmp_path / 'source'}", "--learning_rate=1e-9", "--jit_compile=off")

    def start(*more: str) -> list[object]:
        server(*fixed, *more)
        record = json.loads((tmp_path / "run" / "config.json").read_text())
        return list(record["initial_weights"].values())

    start.refused = lambda *more: server(*fixed, *more, code=2).message
    return start


def test_a_run_begins_with_the_weights_alone_and_says_whose(begin, trained, tmp_path) -> None:
    source = runs.metrics(trained.directory)
    initial = [str(tmp_path / "source"), 30, source["weights_sha256"]]
    assert begin("--epochs=1", "--seed=5") == initial
    found = runs.metrics(tmp_path / "run")
    assert found["test_accuracy"] == source["test_accuracy"]
    assert (found["steps"], found["resumed_from_step"]) == (10, None)


def test_a_run_goes_on_without_its_source_until_it_has_to_begin_again(begin, tmp_path) -> None:
    (tmp_path / "source" / "checkpoints" / "step-30.index").write_bytes(b"cut")
    before = begin("--epochs=1")
    assert before[1] == 20  # the newest weights that can be read
    shutil.rmtree(tmp_path / "source")
    assert begin("--epochs=2") == before
    assert runs.metrics(tmp_path / "run")["resumed_from_step"] == 10
    assert "holds another run" in begin.refused("--init_from=elsewhere")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "no run with a checkpoint" in begin.refused("--epochs=3")
