"""The lock of a run directory: one process at a time writes it."""

import contextlib
import errno
import os
import pathlib
import socket
from collections.abc import Iterator

import filelock

from trainer.errors import UsageError
from trainer.run import files

NAME = ".lock"
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # by the file system
_WAIT_S = 1.0  # another process's `refuse_if_held` takes the lock for a moment


def refuse_if_held(directory: str) -> None:
    """Raises `UsageError` if another process holds the lock of `directory`."""
    path = os.path.join(directory, NAME)
    if files.is_local(directory) and os.path.exists(path):
        with contextlib.suppress(OSError):  # `held` says what is wrong
            _acquire(path).release()


@contextlib.contextmanager
def held(directory: str) -> Iterator[None]:
    """Holds the lock of a run directory, which is made if need be, while the block runs.

    The kernel releases it when the process ends, however that happens (flock(2)). Where the file
    system has no locks, and on paths that are not local, the block runs without one.

    Raises:
      UsageError: another process holds it, or the directory cannot be written.
    """
    if not files.is_local(directory):
        yield
        return
    path, new = os.path.join(directory, NAME), not os.path.isdir(directory)
    lock = None
    try:
        os.makedirs(directory, exist_ok=True)
        lock = _acquire(path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise UsageError(
                f"cannot write to --model_dir={directory}: {error.strerror}; give another one"
            ) from None
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
        pathlib.Path(path).write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)  # before the release: whoever has opened it notices, and opens anew
        if lock:
            lock.release()
        if new:
            with contextlib.suppress(OSError):  # not empty: the run has begun
                os.rmdir(directory)


def _acquire(path: str) -> filelock.FileLock:
    lock = filelock.FileLock(path, timeout=_WAIT_S, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        holder = "another process"
        with contextlib.suppress(OSError):  # it has just ended
            holder = pathlib.Path(path).read_text().strip() or holder
        raise UsageError(
            f"{os.path.dirname(path)} is in use by {holder}; wait until it ends, or give another"
            " --model_dir"
        ) from None
    return lock
