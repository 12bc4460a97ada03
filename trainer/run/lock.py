"""One process writes a run directory: the lock that says which, and that ends with the process.

Apart from the directory's records because it is about who runs now, not about what has run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator

from trainer.errors import UsageError
from trainer.run import files

NAME = ".lock"
_LOOK_S = 1.0  # another process that only looks (`refuse_if_held`) has it for microseconds


def refuse_if_held(directory: str) -> None:
    """Raises `UsageError`, which names the holder, if another process holds the lock."""
    path = os.path.join(directory, NAME)
    with contextlib.suppress(OSError):  # there is none, or `held` will say what is wrong with it
        _close(_taken(path, os.O_RDWR))


@contextlib.contextmanager
def held(directory: str) -> Iterator[None]:
    """Holds the lock of a run directory, which is made if it is not there, while the block runs.

    The kernel lets go of it when the process ends, however that happens (flock(2)): a file that a
    dead process left does not block. Where the file system has no locks, and on paths that are not
    local, nothing is locked; the run itself is the same.

    Raises:
      UsageError: another process holds it, or the directory cannot be written.
    """
    if not files.is_local(directory):
        yield
        return
    path, new = os.path.join(directory, NAME), not os.path.isdir(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        descriptor = _taken(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise UsageError(
            f"cannot write to --model_dir={directory}: {error.strerror}; give another one"
        ) from None
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
        os.truncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        os.write(
            descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode()
        )
    try:
        yield
    finally:
        # First the name: whoever opened the file before finds it gone once the lock is theirs.
        with contextlib.suppress(OSError):
            os.remove(path)
        _close(descriptor)
        if new:
            with contextlib.suppress(OSError):  # only a run that wrote nothing leaves it empty
                os.rmdir(directory)


def _taken(path: str, how: int) -> int:
    """Returns a descriptor of the file `path`, locked."""
    deadline = time.monotonic() + _LOOK_S
    while True:
        # Not through a link, whose target would be emptied.
        descriptor = os.open(path, how | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            _close(descriptor)
            if time.monotonic() > deadline:
                raise UsageError(
                    f"{os.path.dirname(path)} is in use by {holder or 'another process'};"
                    " wait until it ends, or give another --model_dir"
                ) from None
            time.sleep(0.02)
            continue
        except OSError:  # a file system without locks
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        _close(descriptor)  # removed by the process that held it


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
