"""What ends a process early: signals as errors with their exit codes, and a guard on calls."""

import signal
import subprocess

import pytest
import runs

from trainer.errors import Interrupted
from trainer.process.signals import StopSignals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_becomes_an_error_with_its_exit_code(number: signal.Signals, code: int) -> None:
    with StopSignals(), pytest.raises(Interrupted, match=number.name) as caught:
        signal.raise_signal(number)
    assert caught.value.exit_code == code


def test_a_deferred_signal_is_only_noted_and_the_handlers_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as stop, stop.deferred():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as TensorFlow's cluster does
        stop.install()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_that_an_import_turns_into_another_error_is_still_a_signal() -> None:
    def callback() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            raise TypeError("unsupported callable") from error

    with pytest.raises(Interrupted) as caught, StopSignals():
        callback()
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("call", ["native", "python"])
def test_a_second_ctrl_c_leaves_at_once_whatever_is_going_on(call: str) -> None:
    """Python's own handlers wait until a native call returns."""
    process = runs.python(f"""
        import hashlib, time
        from trainer.process.signals import StopSignals
        with StopSignals() as stop, stop.deferred():
            print("ready", flush=True)
            if {call == "native"}:
                hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes
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
