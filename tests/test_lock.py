"""Two jobs, one directory: the second is told who is there; a dead one blocks nobody."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import runs

from trainer.errors import UsageError
from trainer.run import lock

HOLD = """
import signal, sys
from trainer.run import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    signal.pause()
"""


@contextlib.contextmanager
def holder(directory: pathlib.Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_job_says_who_holds_the_directory_and_leaves_with_2(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "run"
    with holder(directory) as process:
        before = runs.snapshot(directory)
        answer = server(f"--data_dir={tiny_dir}", f"--model_dir={directory}", code=2)
        assert runs.snapshot(directory) == before
    who = f"process {process.pid} on {re.escape(socket.gethostname())}"
    since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.match(
        f"{directory} is in use by {who} {since}; wait until it ends, or", answer.message
    )


def test_it_is_refused_before_tensorflow_is_imported(tmp_path: pathlib.Path) -> None:
    with runs.TaskServer(tmp_path) as entry, holder(tmp_path / "run"):
        answer = entry(f"--model_dir={tmp_path}/run", code=2)
    assert "is in use by" in answer.message
    assert not answer.tensorflow


def test_two_jobs_that_start_together_are_told_apart_by_the_lock_itself(
    tmp_path: pathlib.Path,
) -> None:
    """Both have looked before either took it."""
    lock.refuse_if_held(str(tmp_path))
    with holder(tmp_path), pytest.raises(UsageError, match="is in use"), lock.held(str(tmp_path)):
        pass


def test_the_lock_of_a_dead_process_does_not_block(tmp_path: pathlib.Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert os.listdir(tmp_path) == [lock.NAME]
        lock.refuse_if_held(str(tmp_path))
        with lock.held(str(tmp_path)):
            assert f"process {os.getpid()} " in (tmp_path / lock.NAME).read_text()
    assert os.listdir(tmp_path) == []


def test_what_was_made_for_a_run_that_never_began_is_gone(tmp_path: pathlib.Path) -> None:
    with contextlib.suppress(UsageError), lock.held(str(tmp_path / "run")):
        raise UsageError("it does not fit")
    assert os.listdir(tmp_path) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: pathlib.Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("content")
    (tmp_path / lock.NAME).symlink_to(mine)
    with pytest.raises(UsageError, match="cannot write"), lock.held(str(tmp_path)):
        pass
    assert mine.read_text() == "content"


def test_a_path_that_is_not_local_is_not_locked() -> None:
    with lock.held("ram://a/run"), lock.held("ram://a/run"):
        pass
