"""Whole files or none: each output is written under a temporary name, synced and renamed.

Local paths are handled without TensorFlow, all others (`gs://`, `ram://`) by `tf.io.gfile`.
"""

import contextlib
import errno
import functools
import os
import pathlib
import re
import shutil
import types
import uuid
from collections.abc import Iterator, Sequence

from trainer.errors import StorageError, UsageError
from trainer.process.startup import import_tensorflow

# A prefix: `tf.io.gfile` takes a path on `ram://` for a directory if another begins with it.
_TEMPORARY = re.compile(r"\.partial-[0-9a-f]{8}-")
# What only a write can meet; such an error does not name the file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# The functions of `tf.io.gfile` that are used here, for local paths.
_LOCAL = types.SimpleNamespace(
    exists=os.path.lexists,
    isdir=os.path.isdir,
    listdir=os.listdir,
    makedirs=functools.partial(os.makedirs, exist_ok=True),
    GFile=open,
    remove=os.remove,
    rmtree=shutil.rmtree,
    walk=os.walk,
)
join = os.path.join


def is_local(path: str) -> bool:
    """Whether `path` is one of this machine's file system."""
    return "://" not in path


def _io(path: str):
    if is_local(path):
        return _LOCAL
    gfile, scheme = import_tensorflow().io.gfile, path.partition("://")[0]
    if scheme not in gfile.get_registered_schemes():
        raise UsageError(f"{path}: TensorFlow has no file system {scheme}://; name another path")
    return gfile


def exists(path: str) -> bool:
    """Whether a file or directory is at `path`."""
    return _io(path).exists(path)


def names_in(directory: str) -> list[str]:
    """Returns the names in `directory`, sorted; none if it does not exist."""
    names = _io(directory).listdir(directory) if exists(directory) else []
    return sorted(name.rstrip("/") for name in names)


def read_text(path: str) -> str | None:
    """Returns the text of the file at `path`, None if there is none."""
    if not exists(path):
        return None
    with _io(path).GFile(path, "rb") as file:
        return file.read().decode()


def write_bytes(path: str, content: bytes) -> None:
    """Writes `content` as the file `path`: a reader sees the old file or the new one, whole."""
    with replacing(path) as temporary, _io(path).GFile(temporary, "wb") as file:
        file.write(content)


def write_text(path: str, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode())


def remove(path: str) -> None:
    """Removes the file or the whole directory at `path`."""
    (_io(path).rmtree if _io(path).isdir(path) else _io(path).remove)(path)


def remove_leftovers(directory: str) -> None:
    """Removes the temporary files that a killed process left anywhere below `directory`."""
    for place, folders, names in _io(directory).walk(directory):
        for name in filter(_TEMPORARY.match, [*folders, *names]):
            remove(join(place, name))


@contextlib.contextmanager
def replacing(path: str, endings: Sequence[str] = ("",)) -> Iterator[str]:
    """Yields a temporary path beside `path`; the file or directory the block makes becomes `path`.

    Directories above it are made. If the block makes several files of the temporary path, `endings`
    are theirs, renamed in this order. If it raises, what it made is removed.
    """
    directory, name = os.path.split(path)
    _io(path).makedirs(directory)
    temporary, old = (join(directory, f".partial-{uuid.uuid4().hex[:8]}-{name}") for _ in range(2))
    try:
        yield temporary
        for ending in endings:
            _publish(temporary + ending, path + ending, old)
    except BaseException:
        for ending in endings:
            with contextlib.suppress(Exception):
                remove(temporary + ending)
        raise


def _publish(temporary: str, path: str, old: str) -> None:
    if is_local(path):
        for file in (pathlib.Path(temporary), *pathlib.Path(temporary).rglob("*")):
            if file.is_file():
                with file.open("rb") as content:
                    os.fsync(content.fileno())
    if replaced := _io(path).isdir(path):  # directories cannot be replaced by a rename
        _rename(path, old)
    _rename(temporary, path)
    if replaced:
        remove(old)


def _rename(path: str, new: str) -> None:
    gfile = _io(path)
    if is_local(path):
        os.replace(path, new)
    elif not gfile.isdir(path):
        gfile.rename(path, new, overwrite=True)
    else:  # object stores have no directories to rename; the files on top come last
        gfile.makedirs(new)
        for name in sorted(names_in(path), key=lambda name: not gfile.isdir(join(path, name))):
            _rename(join(path, name), join(new, name))
        gfile.rmtree(path)


def failure(error: Exception, directory: str) -> StorageError | None:
    """Returns what to raise if `error` is that the run `directory` cannot be written any more."""
    if isinstance(error, OSError):
        inside = str(error.filename or "").startswith(directory)
        reason = error.strerror if inside or error.errno in _FULL else None
    else:  # one of TensorFlow's, whose text holds the path and the reason
        found = re.search(re.escape(directory) + r"[^;\n]*; ([^\[\n]+)", str(error))
        reason = found and found[1].strip()
    return reason and StorageError(
        f"cannot write in {directory}: {reason}; mend that, and the same command goes on from the"
        " last checkpoint"
    )
