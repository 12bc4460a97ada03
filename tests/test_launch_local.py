"""scripts/launch_local.py, for real, with a `trainer.task` that does as its flags say.

The real task is started by it in test_workers.py.
"""

from __future__ import annotations

import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import runs
from cluster import wait_until

# Flags are INDEX:CODE,CODE,...: what the worker leaves with at its first start, its second ...;
# `wait` waits for a signal and `stubborn` waits for none.
TASK = """
import json, os, pathlib, signal, sys, time

config = json.loads(os.environ["TF_CONFIG"])
index = config["task"]["index"]
starts = pathlib.Path(f"starts-{index}")
number = len(starts.read_text().split()) if starts.exists() else 0
plan = dict(flag.split(":") for flag in sys.argv[1:])[str(index)].split(",")
what = plan[min(number, len(plan) - 1)]
for sent in (signal.SIGINT, signal.SIGTERM):
    ignore = what == "stubborn"
    signal.signal(sent, signal.SIG_IGN if ignore else lambda n, _: os._exit(128 + n))
with starts.open("a") as file:
    file.write(f"{os.getpid()}\\n")
print("of", len(set(config["cluster"]["worker"])), "as", config["task"]["type"], flush=True)
print("words on standard error", file=sys.stderr)
if what in ("wait", "stubborn"):
    time.sleep(1000)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(what))
"""


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    """A project with the launcher and that task."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "trainer").mkdir()
    shutil.copy(runs.ROOT / "scripts" / "launch_local.py", tmp_path / "scripts")
    shutil.copy(runs.ROOT / "trainer" / "errors.py", tmp_path / "trainer")
    (tmp_path / "trainer" / "__init__.py").touch()
    (tmp_path / "trainer" / "task.py").write_text(TASK)
    return tmp_path


def launch(project: pathlib.Path, *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(project / "scripts/launch_local.py"), *args],
        cwd=project,
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launched(project: pathlib.Path, *args: str) -> tuple[int, list[str]]:
    """Returns exit code and lines; the launcher has to end by itself."""
    process = launch(project, *args)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out.splitlines()


def pids(project: pathlib.Path, index: int) -> list[int]:
    """Returns the processes that were worker `index`, in their order."""
    path = project / f"starts-{index}"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def wait_for_both(project: pathlib.Path) -> None:
    wait_until(lambda: pids(project, 0) and pids(project, 1), "both have started", 60)


def gone(pid: int) -> bool:
    return subprocess.run(["kill", "-0", str(pid)], check=False, capture_output=True).returncode > 0


def test_each_worker_gets_its_place_and_its_lines_say_whose_they_are(project) -> None:
    code, lines = launched(project, "--workers=3", "--", "0:0", "1:0", "2:0")
    assert code == 0
    words = ("of 3 as worker", "words on standard error")
    assert sorted(lines) == [f"[{index}] {line}" for index in range(3) for line in words]


def test_without_restart_the_first_failure_is_the_exit_code(project: pathlib.Path) -> None:
    assert launched(project, "--workers=2", "--", "0:0", "1:138")[0] == 138
    assert len(pids(project, 1)) == 1


def test_workers_that_left_with_a_retryable_code_are_started_again(project: pathlib.Path) -> None:
    code, _ = launched(project, "--workers=2", "--restart", "--", "0:138,143,0", "1:killed,0")
    assert code == 0
    assert [len(pids(project, index)) for index in (0, 1)] == [3, 2]


@pytest.mark.parametrize("failure", [1, 2])
def test_what_another_start_cannot_mend_ends_all_workers(project, failure: int) -> None:
    code, _ = launched(project, "--workers=2", "--restart", "--", "0:wait", f"1:{failure}")
    assert code == failure
    assert all(map(gone, pids(project, 0)))
    assert len(pids(project, 1)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_workers_and_none_is_started_again(project, number: int) -> None:
    process = launch(project, "--workers=2", "--restart", "--", "0:wait", "1:wait")
    wait_for_both(project)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    for index in (0, 1):
        (pid,) = pids(project, index)
        assert gone(pid)


def test_a_second_ctrl_c_kills_workers_that_do_not_leave(project: pathlib.Path) -> None:
    process = launch(project, "--workers=2", "--", "0:stubborn", "1:stubborn")
    wait_for_both(project)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert all(gone(pid) for index in (0, 1) for pid in pids(project, index))


def test_a_reader_that_leaves_stops_no_worker(project: pathlib.Path) -> None:
    process = launch(project, "--workers=2", "--restart", "--", "0:wait,0", "1:0")
    process.stdout.close()
    wait_until(lambda: pids(project, 0), "it has started", 60)
    subprocess.run(["kill", "-KILL", str(pids(project, 0)[0])], check=True)
    process.wait(60)
    assert len(pids(project, 0)) == 2
    assert process.returncode in (0, 120)  # 120: Python's own, for output it could not flush
