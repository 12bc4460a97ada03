"""One process writes a run directory: the second is refused, a dead one blocks nobody."""

import contextlib
import errno
import fcntl
import os
import pathlib
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
import runs

from trainer.errors import UsageError
from trainer.run import lock


@contextlib.contextmanager
def holder(directory: pathlib.Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of a directory."""
    with runs.python(
        """
        import signal, sys
        from trainer.run import lock
        with lock.held(sys.argv[1]):
            print("held", flush=True)
            signal.pause()
        """,
        args=[str(directory)],
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_second_job_is_told_who_holds_the_directory_before_tensorflow_is_imported(tmp_path):
    directory = tmp_path / "run"
    with runs.TaskServer(tmp_path) as entry, holder(directory) as process:
        before = runs.snapshot(directory)
        answer = entry(f"--model_dir={directory}", code=2)
        assert runs.snapshot(directory) == before
        with pytest.raises(UsageError, match="in use"), lock.held(str(directory)):
            pass
    assert f"{directory} is in use by" in answer.message
    assert f"{process.pid} on {socket.gethostname()}" in answer.message
    assert not answer.tensorflow


def test_the_lock_of_a_dead_process_does_not_block(tmp_path: pathlib.Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert os.listdir(tmp_path) == [lock.NAME]
        lock.refuse_if_held(str(tmp_path))
        with lock.held(str(tmp_path)), pytest.raises(UsageError, match=f" {os.getpid()} "):
            lock.refuse_if_held(str(tmp_path))


def test_a_run_that_never_began_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with contextlib.suppress(UsageError), lock.held(str(tmp_path / "run")):
        raise UsageError("it does not fit")
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.held(str(tmp_path)):
        lock.refuse_if_held(str(tmp_path))
        assert os.listdir(tmp_path) == [lock.NAME]
