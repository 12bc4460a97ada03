"""What ends a process early: signals as errors with their exit codes, and a guard on calls."""

import os
import pathlib
import re
import signal
import subprocess

import pytest
import runs
from cluster import wait_until

from trainer.process.console import Console
from trainer.process.signals import StopSignals

NATIVE = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes'


@pytest.mark.parametrize(
    ("number", "code", "name", "call"),
    [
        (signal.SIGTERM, 143, "SIGTERM", NATIVE),
        (signal.SIGINT, 130, "Ctrl-C", "while True: pass"),
    ],
)
def test_a_signal_ends_the_process_at_once_with_a_line_and_its_code(number, code, name, call):
    process = runs.python(f"""
        import hashlib
        from trainer.process.console import Console
        from trainer.process.signals import StopSignals
        with StopSignals(Console()):
            print("ready", flush=True)
            {call}
    """)
    assert ended(process, number) == code
    assert re.fullmatch(f"stopped by {name}: .*\n", process.stderr.read())


def ended(process: subprocess.Popen, number: signal.Signals) -> int:
    """Sends a signal once the process has printed a line; returns its exit code."""
    try:
        process.stdout.readline()
        process.send_signal(number)
        return process.wait(60)  # a failure is not a hang
    finally:
        process.kill()


def test_a_deferred_signal_is_only_noted_and_the_handlers_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals(Console()) as stop:
        stop.deferred = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as TensorFlow's cluster does
        stop.install()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        wait_until(lambda: stop.received, "it is noted", 60)
        assert stop.error("saved").exit_code == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_first_modules_are_imported_leaves_with_its_code_and_no_word(
    tmp_path: pathlib.Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "filelock.py").write_text(
        "import time; print('ready', flush=True); time.sleep(600)"
    )
    path = os.pathsep.join((str(tmp_path), str(runs.ROOT)))
    process = runs.task("--epochs=1", env=runs.environment(PYTHONPATH=path), cwd=tmp_path)
    assert ended(process, number) == code
    assert process.stderr.read() == ""


@pytest.mark.parametrize("call", ["native", "python"])
def test_a_second_ctrl_c_leaves_at_once_whatever_is_going_on(call: str) -> None:
    """Python's own handlers wait until a native call returns."""
    process = runs.python(f"""
        import hashlib, time
        from trainer.process.console import Console
        from trainer.process.signals import StopSignals
        with StopSignals(Console()) as stop:
            stop.deferred = True
            print("ready", flush=True)
            if {call == "native"}:
                {NATIVE}
            while True:
                time.sleep(0.01)
    """)
    with process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 130
        finally:
            process.kill()


def test_a_call_that_never_returns_leaves_stacks_on_standard_error_and_exit_code_1() -> None:
    """Also one that holds the interpreter's lock, and while TensorFlow's messages are discarded."""
    process = runs.python("""
        import ctypes
        from trainer.process import signals, startup
        startup.open_standard_streams()

        def all_reduce():
            ctypes.PyDLL(None).sleep(600)  # does not release the lock

        with startup.quiet_stderr(), signals.stall_guard(0.2):
            all_reduce()
    """)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "in all_reduce" in err


def test_a_call_that_returns_in_time_is_left_alone() -> None:
    done = runs.python("""
        import time
        from trainer.process.signals import stall_guard
        for _ in range(3):
            with stall_guard(0.4):
                time.sleep(0.01)
        time.sleep(1)
    """)
    assert (*done.communicate(), done.returncode) == ("", "", 0)
