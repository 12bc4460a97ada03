"""Whole files or none: every output is written under a temporary name and renamed.

Apart from the outputs themselves because they all rest on it. Local paths are handled without
TensorFlow, so that a run directory can be looked at before it is imported; any other path (`gs://`,
`ram://`) goes through `tf.io.gfile`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence

from trainer.errors import StorageError
from trainer.process.startup import import_tensorflow

# In front of the name, since `tf.io.gfile` takes a path on `ram://` for a directory if another one
# begins with it.
_TEMPORARY = re.compile(r"\.partial-[0-9a-f]{8}-")
# What TensorFlow calls the parts of a checkpoint that it has not finished.
_UNFINISHED = re.compile(r"step-\d+.*(_temp|\.tempstate\d+)$")

# What only a write can meet; such an error does not name the file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def is_local(path: str) -> bool:
    """Whether `path` is one of this machine's file system, not of `tf.io.gfile`'s others."""
    return "://" not in path


def join(directory: str, *names: str) -> str:
    """Returns the path of `names` below `directory`."""
    return os.path.join(directory, *names) if is_local(directory) else "/".join((directory, *names))


def _gfile():
    return import_tensorflow().io.gfile


def make_directory(path: str) -> None:
    """Makes `path` and its parents; that it exists already is fine."""
    if is_local(path):
        os.makedirs(path, exist_ok=True)
    else:
        _gfile().makedirs(path)


def names_in(directory: str) -> list[str]:
    """Returns the names in `directory`, sorted; none if it does not exist."""
    if is_local(directory):
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(directory))
    elif _gfile().isdir(directory):
        return sorted(name.rstrip("/") for name in _gfile().listdir(directory))
    return []


def exists(path: str) -> bool:
    """Whether a file or directory is at `path`."""
    return os.path.lexists(path) if is_local(path) else _gfile().exists(path)


def read_text(path: str) -> str | None:
    """Returns the text of the file at `path`, None if there is none."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            return pathlib.Path(path).read_text(encoding="utf-8")
    elif _gfile().exists(path):
        with _gfile().GFile(path) as file:
            return file.read()
    return None


def write_bytes(path: str, content: bytes) -> None:
    """Writes `content` as the file `path`: a reader sees the old file or the new one, whole."""
    with replacing(path) as temporary:
        if is_local(path):
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        else:
            with _gfile().GFile(temporary, "wb") as file:
                file.write(content)


def write_text(path: str, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary path beside `path`; what the block made there then becomes `path`.

    If the block raises it is removed instead.
    """
    temporary, old = _beside(path), _beside(path)
    try:
        yield temporary
        # A directory is not replaced by a rename, and is not to be seen half removed.
        if replaced := _is_directory(path):
            _rename(path, old)
        _rename(temporary, path)
    except BaseException:
        with contextlib.suppress(Exception):
            remove(temporary)
        raise
    if replaced:
        remove(old)


@contextlib.contextmanager
def publishing(path: str, endings: Sequence[str]) -> Iterator[str]:
    """Yields a temporary path beside `path`, for several files that the block makes of it.

    With these endings, and in this order, they then become files of `path`.
    """
    temporary = _beside(path)
    try:
        yield temporary
        for ending in endings:
            if is_local(temporary):
                with open(temporary + ending, "rb") as file:
                    os.fsync(file.fileno())
            _rename(temporary + ending, path + ending)
    except BaseException:
        for ending in endings:
            with contextlib.suppress(Exception):
                remove(temporary + ending)
        raise


def _beside(path: str) -> str:
    directory, _, name = path.rpartition("/")
    part = f".partial-{uuid.uuid4().hex[:8]}-{name}"
    return f"{directory}/{part}" if directory else part


def _is_directory(path: str) -> bool:
    if is_local(path):
        return os.path.isdir(path) and not os.path.islink(path)
    with contextlib.suppress(import_tensorflow().errors.NotFoundError):
        return _gfile().stat(path).is_directory
    return False


def _rename(path: str, new: str) -> None:
    if is_local(path):
        os.replace(path, new)
    elif not _is_directory(path):
        _gfile().rename(path, new, overwrite=True)
    else:  # object stores have no directories to rename; the files on top come last
        for place, _, names in _gfile().walk(path, topdown=False):
            there = new + place[len(path) :]
            _gfile().makedirs(there)
            for name in names:
                _gfile().rename(f"{place}/{name}", f"{there}/{name}", overwrite=True)
        _gfile().rmtree(path)


def remove(path: str) -> None:
    """Removes the file or the whole directory at `path`."""
    if is_local(path):
        (shutil.rmtree if _is_directory(path) else os.remove)(path)
    else:
        (_gfile().rmtree if _is_directory(path) else _gfile().remove)(path)


def failure(error: Exception, directory: str) -> StorageError | None:
    """Returns what to say of an error if it is that `directory` cannot be written or read.

    Args:
      error: an `OSError`, or one of TensorFlow's, which has the path and the reason in its text.
      directory: of the run.
    """
    if isinstance(error, OSError):
        inside = str(error.filename or "").startswith(directory)
        reason = error.strerror if inside or error.errno in FULL else None
    else:
        found = re.search(re.escape(directory) + r"[^;\n]*; ([^\[\n]+)", str(error))
        reason = found and found[1].strip()
    if not reason:
        return None
    return StorageError(
        f"cannot write in {directory}: {reason}; mend that, and the same command goes on from the"
        " last checkpoint"
    )


def remove_leftovers(directory: str) -> None:
    """Removes the temporary files that a killed process left in `directory`."""
    for name in names_in(directory):
        if _TEMPORARY.match(name) or _UNFINISHED.match(name):
            remove(join(directory, name))
