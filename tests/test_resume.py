"""Runs as processes: killed, stopped and started again they end as one that was left alone."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
import runs
from cluster import temporary_files

from trainer.process.startup import available_cpus
from trainer.run import files

# 90 steps, a checkpoint every third: wherever a run is killed, it is between two of them.
FLAGS = (
    *("--epochs=9", "--checkpoint_every=3", "--jit_compile=off", "--keep_checkpoints=2"),
    *runs.FLAGS,
)
LAST = 90

NOISE = re.compile(r"(?i)warning|cuda|onednn|Traceback|[IWE]0000|TF-TRT")


def start(directory: pathlib.Path, data: pathlib.Path, *more: str, **options) -> subprocess.Popen:
    """Starts the run of FLAGS as a process of its own."""
    flags = (*FLAGS, f"--data_dir={data}", f"--model_dir={directory}", *more)
    return runs.task(*flags, **options)


@pytest.fixture(scope="module")
def log(tiny_dir: pathlib.Path, tmp_path_factory) -> tuple[pathlib.Path, str]:
    """A run with FLAGS that nobody disturbed, and what it wrote into its log."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(directory, tiny_dir, stderr=subprocess.STDOUT)
    out = process.communicate()[0]
    assert process.returncode == 0, out
    return directory, out


@pytest.fixture(scope="module")
def undisturbed(log: tuple[pathlib.Path, str]) -> pathlib.Path:
    """The directory of a run with FLAGS that nobody disturbed."""
    return log[0]


@pytest.fixture
def again(server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path):
    """Runs the trainer with FLAGS and more in a directory, by default `tmp_path / "run"`."""

    def run(*more: str, directory: pathlib.Path = tmp_path / "run", code: int = 0) -> runs.Answer:
        flags = (*FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={directory}", *more)
        return server(*flags, code=code)

    return run


def steps_saved(directory: pathlib.Path) -> int:
    """The newest checkpoint's step, 0 for none."""
    paths = directory.glob("checkpoints/step-*.index")
    return max((int(re.search(r"\d+", path.stem)[0]) for path in paths), default=0)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits for a condition, while the process lives."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def curve_steps(directory: pathlib.Path) -> list[int]:
    return runs.scalar_steps(directory / "tensorboard" / "train", "loss")


def assert_as_if_undisturbed(directory: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Weights, metrics, history and event files are those of the undisturbed run."""
    assert runs.result(directory) == runs.result(undisturbed)
    # Every curve, picture and histogram once at each step, none missing, none twice.
    for part in ("train", "validation", "test"):
        there = runs.points(undisturbed / "tensorboard" / part)
        assert len(set(there)) == len(there) > 0
        assert sorted(runs.points(directory / "tensorboard" / part)) == sorted(there)
    assert temporary_files(directory) == []
    assert set(os.listdir(directory)) == set(os.listdir(undisturbed))
    assert os.listdir(directory / "saved_model") == [str(LAST)]


@pytest.mark.parametrize(
    "kills", [1, pytest.param(10, id="killed_ten_times", marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_as_if_nothing_had_happened(undisturbed, tiny_dir, tmp_path, kills):
    """The moments are drawn over the steps, and a few milliseconds beyond.

    So they hit training, validation and saving alike, however fast the machine is.
    """
    directory, seed = tmp_path / "run", time.time_ns() % 10_000
    print(f"seed {seed}")
    chance = random.Random(seed)
    for target in sorted(chance.sample(range(1, LAST), kills)):
        process = start(directory, tiny_dir)
        wait_until(lambda target=target: steps_saved(directory) >= target - 2, process)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        saved = steps_saved(directory)
        print(f"killed at {saved}")
    process = start(directory, tiny_dir)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert f"resumed at step {saved}" in out or not saved
    assert runs.metrics(directory)["resumed_from_step"] == (saved or None)
    assert_as_if_undisturbed(directory, undisturbed)


class Stopped(NamedTuple):
    """A process that a signal ended: exit code, output, and the step of its last checkpoint."""

    code: int
    out: str
    step: int


@pytest.fixture(scope="module")
def stopped(tiny_dir: pathlib.Path, tmp_path_factory) -> tuple[pathlib.Path, list[Stopped]]:
    """A run that got a SIGTERM on a terminal, then a Ctrl-C in a log; not finished."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    found = []
    for number, step in ((signal.SIGTERM, 10), (signal.SIGINT, 40)):
        ours, theirs = pty.openpty() if number == signal.SIGTERM else os.pipe()
        process = start(directory, tiny_dir, stdout=theirs, stderr=theirs)
        os.close(theirs)
        wait_until(lambda step=step: steps_saved(directory) >= step, process)
        process.send_signal(number)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal says that the other end is closed
            while content := os.read(ours, 10_000):
                said += content
        os.close(ours)
        text = said.decode().replace("\r\n", "\n")
        found.append(Stopped(process.wait(), text, steps_saved(directory)))
    return directory, found


@pytest.mark.parametrize(("which", "code", "name"), [(0, 143, "SIGTERM"), (1, 130, "Ctrl-C")])
def test_a_signal_saves_the_progress_and_leaves_with_its_code(stopped, which, code, name) -> None:
    directory, found = stopped
    process = found[which]
    assert process.code == code, process.out
    line = process.out.split("\r\x1b[2K")[-1].splitlines()[-1]
    assert re.match(rf"stopped by {name}: .* step {process.step}; .*{directory}", line)
    if which:
        assert f"resumed at step {found[0].step}\n" in process.out
    assert 10 <= process.step < LAST
    assert not (directory / "metrics.json").exists()


@pytest.mark.slow
def test_several_devices_stop_within_a_call_and_a_checkpoint(tiny_dir, tmp_path) -> None:
    directory = tmp_path / "run"
    process = start(directory, tiny_dir, "--virtual_devices=10", "--epochs=100000")
    wait_until(lambda: steps_saved(directory) >= 10, process)
    time.sleep(20)  # a pipeline that tunes itself does so ever more rarely, and is waited for
    process.send_signal(signal.SIGTERM)
    try:
        err = process.communicate(timeout=10)[1]  # a call takes milliseconds
    finally:
        process.kill()
    assert (process.returncode, err.count("\n")) == (143, 1)
    assert f"step {steps_saved(directory):,};" in err


def test_a_stopped_run_ends_as_if_nothing_had_happened(stopped, again, tmp_path, undisturbed):
    shutil.copytree(stopped[0], tmp_path / "run")
    out = again().out
    assert_as_if_undisturbed(tmp_path / "run", undisturbed)
    training, own, whole = map(
        float, re.search(r"\ntime +([\d.]+) s .*?([\d.]+) s .*?([\d.]+) s .*resumed", out).groups()
    )
    assert 0 < own < training
    assert own < whole


def test_a_terminal_shows_a_live_line(stopped: tuple[pathlib.Path, list[Stopped]]) -> None:
    text = stopped[1][0].out
    assert re.search(r"\r\x1b\[2K━+╸? *epoch 1/9  loss [\d.]+.* \d+:\d\d left", text)
    shown = [line.split("\r\x1b[2K")[-1] for line in text.split("\n")]
    epochs = [line for line in shown if line.startswith("epoch ")]
    assert len(epochs) == stopped[1][0].step // runs.STEPS_AN_EPOCH
    assert not NOISE.search(text)


def test_a_log_has_a_line_an_epoch_and_no_noise(log: tuple[pathlib.Path, str]) -> None:
    directory, out = log
    assert set(filter(lambda c: not c.isprintable(), out)) == {"\n"}
    epochs = re.findall(r"^epoch (\d)/9  loss [\d.]+  accuracy [\d.]+%", out, re.M)
    assert epochs == list("123456789")
    assert out.startswith("data    mnist: 500 training, 100 validation, 130 test digits")
    for said in (str(directory), " s in all", " --logdir=", " -m trainer.predict "):
        assert said in out
    assert not NOISE.search(out)


STUCK = """
import sys, time
from trainer import task
from trainer.model.trainer import Trainer
run, calls, last = Trainer.run, [], int(sys.argv.pop())
def stuck(*arguments):
    calls.append(arguments)
    if len(calls) == last:
        print("stuck", flush=True)
        time.sleep(600)
    return run(*arguments)
Trainer.run = stuck
sys.exit(task.main(sys.argv))
"""


def test_a_call_that_never_returns_ends_with_stacks_and_the_run_resumes(again, tiny_dir, tmp_path):
    flags = (*FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path / 'run'}")
    process = runs.python(STUCK, args=[*flags, "--stall_timeout_s=10", "4"])
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "in stuck" in err
    assert "loop.py" in err
    assert "resumed at step 6" in again("--epochs=1").out


def test_a_signal_while_the_first_call_compiles_leaves_at_once(tiny_dir, tmp_path) -> None:
    """For 64 devices XLA takes many minutes, and there is no step to save yet."""
    flags = (*FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path / 'run'}")
    process = runs.python(STUCK, args=[*flags, "1"])
    try:
        assert "stuck\n" in process.stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    finally:
        process.kill()


def test_what_a_killed_process_left_is_cleared_away_and_a_damaged_checkpoint_passed_over(
    again, tmp_path: pathlib.Path, undisturbed: pathlib.Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    (directory / "metrics.json").unlink()  # the end has not come yet
    newest = directory / "checkpoints" / f"step-{LAST}.data-00000-of-00001"
    newest.write_bytes(newest.read_bytes()[:-1000])
    curves = directory / "tensorboard" / "train"
    event_file = next(curves.iterdir())
    left = [
        directory / ".partial-01234567-metrics.json",
        directory / "saved_model" / ".partial-01234567-90" / "variables" / "variables.index",
        curves / f".partial-01234567-{event_file.name}",
        directory / "checkpoints" / ".partial-01234567-step-93_temp" / "part-00000-of-00001.index",
        directory / "checkpoints" / ".partial-01234567-step-93.index.tempstate123",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(event_file.read_bytes())
    with open(event_file, "ab") as file:
        file.write(b"\x18\x00\x00\x00\x00\x00\x00\x00half of a record")
    err = again().err
    assert re.fullmatch(rf"warning: unreadable checkpoint passed over: .*/step-{LAST}.*\n", err)
    assert_as_if_undisturbed(directory, undisturbed)
    assert runs.metrics(directory)["resumed_from_step"] == LAST - 3


def test_a_finished_run_that_lost_results_is_finished_again(again, tmp_path, undisturbed) -> None:
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    for name in (
        "saved_model",
        "figures",
        "history.csv",
        "report.html",
        "predictions.png",
        "model.keras",
    ):
        files.remove(str(directory / name))
    assert f"resumed at step {LAST}" in again().out
    assert_as_if_undisturbed(directory, undisturbed)


def test_more_epochs_continue_a_finished_run_and_fewer_are_refused(again, tmp_path, undisturbed):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    (directory / "metrics.json").rename(tmp_path / "metrics.json")  # not finished
    assert "--epochs=2" in again("--epochs=2", code=2).message
    (tmp_path / "metrics.json").rename(directory / "metrics.json")
    record = json.loads((directory / "config.json").read_text())
    assert record["resolved"]["cpus"] == available_cpus()
    record["resolved"] |= {"cpus": 64, "processor": "Z80"}  # where sums may round otherwise
    (directory / "config.json").write_text(json.dumps(record))
    out = again("--epochs=11").out
    assert f"resumed at step {LAST}" in out
    told = [line.split()[1:4] for line in re.findall("^note: .*", out, re.M)]
    assert told == [["processor", "was", "Z80"], ["cpus", "was", "64"]]
    record = json.loads((directory / "config.json").read_text())
    assert record["resolved"]["cpus"] == available_cpus()  # told once
    found = runs.metrics(directory)
    assert (found["epochs"], found["steps"], found["resumed_from_step"]) == (11, 110, LAST)
    assert found["weights_sha256"] != runs.metrics(undisturbed)["weights_sha256"]
    rows = runs.history(directory)
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 12)]
    assert rows[:9] == runs.history(undisturbed)
    assert curve_steps(directory) == sorted(set(curve_steps(directory)))
    assert sorted(os.listdir(directory / "saved_model")) == ["110", str(LAST)]


def test_a_run_goes_on_with_other_devices_and_outlives_its_reader(
    stopped, tiny_dir: pathlib.Path, tmp_path: pathlib.Path, undisturbed: pathlib.Path
) -> None:
    """As `| head -1` does, the reader takes a line and leaves."""
    directory = tmp_path / "run"
    shutil.copytree(stopped[0], directory)
    process = start(directory, tiny_dir, "--virtual_devices=2", "--steps_per_loop=7")
    assert process.stdout.readline().startswith("data ")
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), err) == (0, "")
    found, expected = runs.metrics(directory), runs.metrics(undisturbed)
    assert (found["replicas"], found["strategy"]) == (2, "mirrored")
    # Sums over two devices round differently; what they round is the same.
    assert found["test_loss"] == pytest.approx(expected["test_loss"], abs=1e-3)
    for share, examples in (("test", runs.TEST), ("validation", runs.VALIDATION)):
        right = found[f"{share}_accuracy"] * examples
        assert right == pytest.approx(round(right), abs=1e-9)  # every example counts once
