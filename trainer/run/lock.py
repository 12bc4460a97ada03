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
    """Raises `UsageError` if another process holds the lock of the local `directory`."""
    path = pathlib.Path(directory, NAME)
    if path.exists():
        with contextlib.suppress(OSError):  # it cannot be opened: `held` says so
            _acquire(path).release()


@contextlib.contextmanager
def held(directory: str) -> Iterator[None]:
    """Holds the lock of a run directory, which is made, and removed if it is left empty.

    Raises `UsageError` if another process holds it. File systems without locks have none.
    """
    if not files.is_local(directory):
        yield
        return
    path = pathlib.Path(directory, NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _acquire(path)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the release: whoever has opened it notices, and opens anew
            path.parent.rmdir()
        lock.release()


def _acquire(path: pathlib.Path) -> filelock.FileLock:
    lock = filelock.FileLock(path, timeout=_WAIT_S, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        holder = (files.read_text(str(path)) or "another process").strip()
        raise UsageError(
            f"{path.parent} is in use by {holder}; wait until it ends, or give another --model_dir"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return lock
