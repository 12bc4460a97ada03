"""scripts/benchmark.py as a process: tables, the JSON file, peers. No time is judged here."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest
import runs

SCRIPT = runs.ROOT / "scripts/benchmark.py"

# A peer that needs no time: two epochs of 2 and 3 seconds, it says.
PEER = """
import json, sys
for seconds in (2.0, 5.0):
    print(json.dumps({"train_seconds": seconds, "arguments": sys.argv[1:]}))
print(json.dumps({"wall_seconds": 6.0}))
sys.exit(int("fail" in sys.argv))
"""


def benchmark(*arguments: str, data: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=runs.environment(MNIST_DATA_DIR=str(data)),
        capture_output=True,
        text=True,
    )


@pytest.fixture
def peer(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "peer.py"
    path.write_text(PEER)
    return f"{sys.executable} {path}"


def table(output: str) -> list[list[str]]:
    """The cells of a Markdown table, the heading first."""
    lines = [line for line in output.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines if "---" not in line]


def test_results_are_means_over_the_seeds_in_the_table_and_in_the_file(
    tiny_dir: pathlib.Path, tmp_path: pathlib.Path
):
    path = tmp_path / "new/found.json"
    flags = [f"--flag={flag}" for flag in runs.FLAGS]
    done = benchmark("results", "--epochs=1", "--seeds=3", f"--json={path}", *flags, data=tiny_dir)

    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    accuracies = [run["test_accuracy"] for run in found["runs"]]
    (row,) = found["table"]
    assert [run["seed"] for run in found["runs"]] == [1, 2, 3]
    assert row["test_accuracy"] == statistics.mean(accuracies)
    assert row["standard_deviation"] == statistics.stdev(accuracies)
    assert row["peak_bytes"] > 1e8  # TensorFlow alone takes more
    assert row["parameters"] == 101_770
    heading, cells = table(done.stdout)
    shown = dict(zip(heading, cells, strict=True))
    assert shown["test accuracy"] == f"{statistics.mean(accuracies):.2%}"
    assert shown["model"] == "mlp"
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["tensorflow"].startswith("2.")
    assert done.stdout.splitlines()[-1].endswith("found.json")


def test_steps_tells_peers_the_batch_and_leaves_their_first_epoch_out(
    tiny_dir: pathlib.Path, tmp_path: pathlib.Path, peer: str
):
    path = tmp_path / "found.json"
    # Batches of 10 and a step a loop, so that an epoch of 500 digits takes more than a millisecond.
    flags = ("--flag=--validation_examples=100", "--flag=--steps_per_loop=1")
    done = benchmark(
        "steps",
        *("--batch_size", "10", "--repeats=1", "--epochs=3", f"--json={path}", *flags),
        f"--peer=other={peer} {{batch_size}} {{epochs}} ",
        data=tiny_dir,
    )

    assert done.returncode == 0, done.stderr
    ours, its = json.loads(path.read_text())["table"]
    assert its["program"] == "other"
    assert its["digits_per_second"] == 60_000 / 3
    assert its["step_seconds"] == 10 / 20_000
    assert its["times_as_fast"] == pytest.approx(ours["digits_per_second"] / 20_000)
    assert ours["program"] == "mlp, float32"


def test_jobs_take_turns_with_peers_and_other_checkouts(
    tiny_dir: pathlib.Path, tmp_path: pathlib.Path, peer: str
):
    path = tmp_path / "found.json"
    other = f"{sys.executable} -m trainer.task --model_dir={{model_dir}} --data_dir={tiny_dir}"
    done = benchmark(
        *("jobs", "--repeats=2", f"--json={path}", *(f"--flag={flag}" for flag in runs.FLAGS)),
        *(f"--peer=x={peer}", f"--peer=before={other} {' '.join(runs.FLAGS)}"),
        data=tiny_dir,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert [run["program"] for run in found["runs"]] == ["trainer.task", "x", "before"] * 2
    ours, its, before = found["table"]
    assert ours["time_ratio"] == 1
    assert its["time_ratio"] == pytest.approx(ours["wall_seconds"] / its["wall_seconds"])
    assert its["peak_bytes"] < ours["peak_bytes"]
    assert before["digits_per_second"] > 0
    assert its["digits_per_second"] is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_workers_share_the_steps_of_one(tiny_dir: pathlib.Path, tmp_path: pathlib.Path):
    path = tmp_path / "found.json"
    sizes = ("--model=mlp", "--batch_size=20", "--flag=--steps_per_loop=4")
    arguments = ("workers", "--repeats=1", "--counts", "1", "2", *sizes, f"--json={path}")
    done = benchmark(*arguments, data=tiny_dir)

    assert done.returncode == 0, done.stderr
    one, two = json.loads(path.read_text())["table"]
    assert (one["workers"], two["workers"], one["ratio"]) == (1, 2, 1)
    assert two["ratio"] == pytest.approx(two["digits_per_second"] / one["digits_per_second"])


def test_a_peer_that_fails_is_named_and_what_was_measured_before_is_kept(
    tiny_dir: pathlib.Path, tmp_path: pathlib.Path, peer: str
):
    path = tmp_path / "found.json"
    flags = [f"--flag={flag}" for flag in runs.FLAGS]
    arguments = ("jobs", "--repeats=1", f"--json={path}", f"--peer=x={peer} fail", *flags)
    done = benchmark(*arguments, data=tiny_dir)

    assert done.returncode == 1
    assert done.stderr == f"error: exit code 1 of: {peer} fail\n"
    (run,) = json.loads(path.read_text())["runs"]
    assert run["program"] == "trainer.task"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jobs", "--peer=other"], "'other' is not NAME=COMMAND"),
        (["jobs", "--repeats=0"], "'0' is not a whole number above 0"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_runs(
    arguments: list[str], message: str, tmp_path: pathlib.Path
):
    done = benchmark(*arguments, data=tmp_path)

    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
