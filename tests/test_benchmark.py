"""scripts/benchmark.py as a process: tables, the JSON file, peers. No time is judged here."""

from __future__ import annotations

import json
import pathlib
import runpy
import statistics
import subprocess
import sys

import pytest
import runs

from trainer.model import networks

SCRIPT = runs.ROOT / "scripts/benchmark.py"

# A peer that needs no time: two epochs of 2 and 3 seconds, it says.
PEER = """
import json, sys
for seconds in (2.0, 5.0):
    print(json.dumps({"train_seconds": seconds, "arguments": sys.argv[1:]}))
print(json.dumps({"wall_seconds": 6.0}))
sys.exit(int("fail" in sys.argv))
"""


# What a run does until its first loop is done.
BEFORE = ["imports", "data", "devices", "model", "pipeline", "graph", "summaries", "first_loop"]


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
    assert done.stdout.splitlines()[-1].endswith("found.json")


def test_start_compares_with_a_bare_import(mnist_dir: pathlib.Path, tmp_path: pathlib.Path):
    path = tmp_path / "found.json"
    done = benchmark("start", "--repeats=1", f"--json={path}", data=mnist_dir)

    assert (done.returncode, done.stderr) == (0, "")
    (run,) = json.loads(path.read_text())["runs"]
    shown = {row[0]: row[1:] for row in table(done.stdout)}
    assert shown["graph"] == [f"{run['graph']:.2f} s"]
    bare = run["import_tensorflow"]
    assert bare > 0.3  # it takes longer, and Python alone a tenth of that
    assert shown["import tensorflow, and nothing else"] == [f"{bare:.2f} s", "1.00"]
    compiled = sum(seconds for phase, seconds in list(run.items())[2:] if phase in BEFORE)
    assert shown["the first loop is compiled and done"] == [
        f"{compiled:.2f} s",
        f"{compiled / bare:.2f}",
    ]


def test_the_file_says_where_and_with_what_it_was_measured(
    tiny_dir: pathlib.Path, tmp_path: pathlib.Path
):
    path = tmp_path / "found.json"
    done = benchmark("floor", f"--json={path}", data=tiny_dir)

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(path.read_text())
    assert found["arguments"] == ["floor", f"--json={path}"]
    assert found["machine"]["processor"]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["tensorflow"].startswith("2.")
    rates = [row["operations_per_second"] for row in found["table"] if "precision" in row]
    assert min(rates) > 1e9


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
    assert 0 < ours["floor"] < 1


def test_jobs_take_turns(mnist_dir: pathlib.Path, tmp_path: pathlib.Path, peer: str):
    path = tmp_path / "found.json"
    done = benchmark("jobs", "--repeats=1", f"--json={path}", f"--peer=x={peer}", data=mnist_dir)

    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert [run["program"] for run in found["runs"]] == ["trainer.task", "x"]
    ours, its = found["table"]
    assert ours["time_ratio"] == 1
    assert its["time_ratio"] == pytest.approx(ours["wall_seconds"] / its["wall_seconds"])
    assert its["peak_bytes"] < ours["peak_bytes"]


def test_target_is_the_shortest_schedule_whose_mean_is_good_enough(
    tiny_dir: pathlib.Path, tmp_path: pathlib.Path, peer: str
):
    path = tmp_path / "found.json"
    flags = ["--flag=--validation_examples=100", "--flag=--batch_size=20"]
    done = benchmark(
        "target",
        *("--model=mlp", "--accuracy=0.4", "--seeds=2", f"--json={path}", *flags),
        f"--peer=other={peer}",
        data=tiny_dir,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    ours = [run for run in found["runs"] if run["program"] == "mlp"]
    means = [
        statistics.mean(run["test_accuracy"] for run in ours if run["epochs"] == epochs)
        for epochs in range(1, ours[-1]["epochs"] + 1)
    ]
    assert means[-1] >= 0.4 > max(means[:-1])
    last = ours[-2:]
    assert [run["seed"] for run in last] == [1, 2]
    row, its = found["table"]
    assert (row["epochs"], row["test_accuracy"]) == (len(means), means[-1])
    assert row["train_seconds"] == statistics.median(run["train_seconds"] for run in last)
    assert [run["program"] for run in found["runs"]] == ["mlp", "other"] * len(ours)
    assert its["train_seconds"] == 2.0  # its first epoch
    assert its["time_ratio"] == row["train_seconds"] / 2.0


def test_a_peer_that_fails_is_named_and_what_was_measured_before_is_kept(
    mnist_dir: pathlib.Path, tmp_path: pathlib.Path, peer: str
):
    path = tmp_path / "found.json"
    done = benchmark(
        "jobs", "--repeats=1", f"--json={path}", f"--peer=x={peer} fail", data=mnist_dir
    )

    assert done.returncode == 1
    assert done.stderr == f"error: exit code 1 of: {peer} fail\n"
    (run,) = json.loads(path.read_text())["runs"]
    assert run["program"] == "trainer.task"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jobs", "--peer=other"], "'other' is not NAME=COMMAND"),
        (["jobs", "--peer=a=b", "--peer=a=c"], "every --peer needs a name of its own"),
        (["steps", "--peer=mlp=b"], "every --peer needs a name of its own"),
        (["jobs", "--repeats=0"], "'0' is not a whole number above 0"),
        (["jobs", "--json=/dev/null/x"], "cannot write /dev/null/x: "),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_runs(
    arguments: list[str], message: str, tmp_path: pathlib.Path
):
    done = benchmark(*arguments, data=tmp_path)

    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_the_floor_counts_every_product_of_a_step():
    operations = runpy.run_path(str(SCRIPT))["operations"]
    dense = 784 * 128
    assert operations(networks.build("mlp")) == 2 * (2 * dense + 3 * 128 * 10)
    # Height x width of what a convolution gives, times its kernel.
    first = 28 * 28 * (5 * 5 * 1 * 16)
    rest = 12 * 12 * (3 * 3 * 16 * 48) + 6 * 6 * (3 * 3 * 48 * 96) + 3 * 3 * 96 * 128 + 128 * 10
    assert operations(networks.build("cnn")) == 2 * (2 * first + 3 * rest)
    first = 28 * 28 * (5 * 5 * 1 * 24)
    rest = 12 * 12 * 9 * (24 * 48 + 48 * 48) + 6 * 6 * 9 * (48 * 96 + 96 * 96)
    rest += 3 * 3 * 96 * 192 + 192 * 10
    assert operations(networks.build("convnet")) == 2 * (2 * first + 3 * rest)
