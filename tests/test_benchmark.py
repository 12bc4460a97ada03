"""scripts/benchmark.py as a process: tables, the JSON file, peers. No time is judged here."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

import pytest
import runs

# A peer that needs no time: two epochs of 2 and 3 seconds by its own account.
PEER = """
import json, sys
for seconds in (2.0, 5.0):
    print(json.dumps({"train_seconds": seconds}))
sys.exit(int("fail" in sys.argv))
"""

# A trainer that needs none: it leaves the files of a run.
TASK = """
import json, os, pathlib, sys
flags = dict(flag.removeprefix("--").split("=") for flag in sys.argv[1:])
config = json.loads(os.environ.get("TF_CONFIG", "{}"))
workers = len(config["cluster"]["worker"]) if config else 1
if not config or config["task"]["index"] == 0:
    run = pathlib.Path(flags["model_dir"])
    run.mkdir()
    (run / "history.csv").touch()
    (run / "metrics.json").write_text(json.dumps({
        "test_accuracy": 0.9 + int(flags.get("seed", 0)) / 100, "test_calibration_error": 0.01,
        "train_seconds": 1.0, "parameters": 7, "precision": "float32",
        "examples_per_second": 500 * workers**0.5}))
"""


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    """A project with the scripts, that trainer and that peer."""
    shutil.copytree(runs.ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "trainer").mkdir()
    shutil.copy(runs.ROOT / "trainer/errors.py", tmp_path / "trainer")
    (tmp_path / "trainer/__init__.py").touch()
    (tmp_path / "trainer/task.py").write_text(TASK)
    (tmp_path / "peer.py").write_text(PEER)
    return tmp_path


def benchmark(
    project: pathlib.Path, *arguments: str, code: int = 0, **env: str
) -> tuple[subprocess.CompletedProcess, dict]:
    """Runs a benchmark of a project; returns how it ended and what its JSON file holds."""
    path = project / "new/found.json"
    done = subprocess.run(
        [sys.executable, project / "scripts/benchmark.py", *arguments, f"--json={path}"],
        env=runs.environment(**env),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done, json.loads(path.read_text()) if path.exists() else {}


def test_results_are_means_over_the_seeds_in_the_table_and_in_the_file(project: pathlib.Path):
    done, found = benchmark(project, "results", "--epochs=1", "--seeds=3")
    accuracies = [run["test_accuracy"] for run in found["runs"]]
    (row,) = found["table"]
    assert [run["seed"] for run in found["runs"]] == [1, 2, 3]
    assert row["test_accuracy"] == statistics.mean(accuracies)
    assert row["standard_deviation"] == statistics.stdev(accuracies)
    assert row["peak_bytes"] > 1e6
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    heading, cells = (lines[number].strip("| ").split(" | ") for number in (0, -1))
    assert dict(zip(heading, cells, strict=True))["test accuracy"] == "92.00%"
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["tensorflow"].startswith("2.")


def test_steps_tells_peers_the_batch_and_leaves_their_first_epoch_out(tiny_dir, tmp_path):
    """The real trainer; an epoch of five single steps takes more than a millisecond."""
    path, peer = tmp_path / "found.json", tmp_path / "peer.py"
    peer.write_text(PEER)
    ours = ("--validation_examples=550", "--steps_per_loop=1", "--jit_compile=off")
    flags = [f"--flag={flag}" for flag in ours]
    done = subprocess.run(
        [
            *(sys.executable, runs.ROOT / "scripts/benchmark.py", "steps", f"--json={path}"),
            *("--batch_size", "10", "--repeats=1", "--epochs=3", *flags),
            f"--peer=other={sys.executable} {peer} {{batch_size}} {{epochs}}",
        ],
        env=runs.environment(MNIST_DATA_DIR=str(tiny_dir)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ours, its = json.loads(path.read_text())["table"]
    assert (ours["program"], its["program"]) == ("mlp, float32", "other")
    assert its["digits_per_second"] == 60_000 / 3
    assert its["step_seconds"] == 10 / 20_000
    assert its["times_as_fast"] == pytest.approx(ours["digits_per_second"] / 20_000)


def test_jobs_take_turns_with_peers_and_other_checkouts(project: pathlib.Path):
    peer = f"--peer=x={sys.executable} {project}/peer.py"
    before = f"--peer=before={sys.executable} -m trainer.task --model_dir={{model_dir}}"
    _, found = benchmark(project, "jobs", "--repeats=2", peer, before)
    assert [run["program"] for run in found["runs"]] == ["trainer.task", "x", "before"] * 2
    ours, its, old = found["table"]
    assert ours["time_ratio"] == 1
    assert its["time_ratio"] == pytest.approx(ours["wall_seconds"] / its["wall_seconds"])
    assert (its["digits_per_second"], old["digits_per_second"]) == (None, 500)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_workers_share_the_steps_of_one(project: pathlib.Path):
    _, found = benchmark(project, "workers", "--repeats=1", "--counts", "1", "4")
    one, four = found["table"]
    assert (one["workers"], four["workers"], one["ratio"], four["ratio"]) == (1, 4, 1, 2)


def test_a_peer_that_fails_is_named_and_what_was_measured_before_is_kept(project: pathlib.Path):
    command = f"{sys.executable} {project}/peer.py fail"
    done, found = benchmark(project, "jobs", "--repeats=1", f"--peer=x={command}", code=1)
    assert done.stderr == f"error: exit code 1 of: {command}\n"
    assert [run["program"] for run in found["runs"]] == ["trainer.task"]


@pytest.mark.parametrize(
    ("argument", "message"), [("--peer=other", "NAME=COMMAND"), ("--repeats=0", "whole number")]
)
def test_a_wrong_command_line_is_refused_before_anything_runs(argument, message, project):
    done, found = benchmark(project, "jobs", argument, code=2)
    assert message in done.stderr.splitlines()[-1]
    assert not found


# A reader for which every picture shows a 7.
READER = {
    "data.py": """
import types
import numpy as np
digits = {"images": np.full((9, 28, 28), 255, np.uint8), "labels": np.full(9, 7)}
def load(name):
    names = [(f"{split}_{part}", digits[part]) for split in ("train", "test") for part in digits]
    return types.SimpleNamespace(**dict(names))
""",
    "predict.py": "find_export = load_classifier = lambda path: path",
    "picture.py": """
import types
decode = lambda file: len(file.read())
def read_numbers(size, classify):
    return [types.SimpleNamespace(number="7", unsure=False)]
""",
}


def test_pictures_are_counted_by_kind(project: pathlib.Path):
    for name, text in READER.items():
        (project / "trainer" / name).write_text(text)
    options = ("--model_dir=run", "--pictures=4", "--kinds", "plain", "several", "blank")
    _, found = benchmark(project, "pictures", *options, PYTHONPATH=str(project))
    plain, several, means, blank, _ = found["table"]
    numbers = [run["mistakes"] for run in found["runs"]]
    longer = [mistake["true"] for mistake in numbers[0]]
    assert plain["single_digits_read"] == 1
    assert plain["numbers_read"] == pytest.approx(1 - len(longer) / 4)
    assert all(len(number) > 1 and {*number} == {"7"} for (number,) in longer)
    assert plain["digits_in_place"] == pytest.approx(4 / (4 + sum(len(n) - 1 for (n,) in longer)))
    assert 0 < several["single_digits_read"] < 0.5  # one of four or more
    assert means["numbers_read"] == pytest.approx(
        (plain["numbers_read"] + several["numbers_read"]) / 2
    )
    assert blank["nothing_read"] == 0
    assert plain["unsure"] == 0


def test_a_python_without_tensorflow_is_one_line() -> None:
    script = str(runs.ROOT / "scripts" / "benchmark.py")
    command = [sys.executable, "-S", script, "results"]  # -S: no packages
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
