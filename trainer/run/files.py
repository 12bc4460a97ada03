"""Whole files or none: each output is written under a temporary name, synced and renamed.

Local paths are handled without TensorFlow, all others (`ram://`) by `tf.io.gfile`.
"""

import contextlib
import errno
import functools
import os
import pathlib
import re
import shlex
import shutil
import stat
import tempfile
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
    """Returns the text at `path`, None if nothing is there; `ValueError` if it is no file."""
    if not exists(path):
        return None
    if is_local(path) and not os.path.isfile(path):
        raise ValueError("it is not a file")  # but a pipe or device, whose text may not end
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


@contextlib.contextmanager
def without_pattern(path: str, endings: Sequence[str] = ("",)) -> Iterator[str]:
    """Yields a path at which TensorFlow finds what is at `path`, files or a directory.

    Its checkpoint reader takes paths for patterns: in place of `[` or a backslash it gets a copy.
    """
    if "[" not in path and "\\" not in path:
        yield path
        return
    with tempfile.TemporaryDirectory() as place:
        for ending in endings:
            _copy(path + ending, join(place, "copy") + ending)
        yield join(place, "copy")


def _copy(path: str, new: str) -> None:
    if not _io(path).isdir(path):
        with _io(path).GFile(path, "rb") as source, _io(new).GFile(new, "wb") as target:
            target.write(source.read())
        return
    _io(new).makedirs(new)
    # The files on top come last: `saved_model.pb` makes it a model.
    for name in sorted(names_in(path), key=lambda name: not _io(path).isdir(join(path, name))):
        _copy(join(path, name), join(new, name))


def remove_leftovers(directory: str) -> None:
    """Removes the temporary files that a killed process left anywhere below `directory`."""
    for place, folders, names in _io(directory).walk(directory):
        for name in filter(_TEMPORARY.match, [*folders, *names]):
            remove(join(place, name))


@contextlib.contextmanager
def replacing(path: str, endings: Sequence[str] = ("",)) -> Iterator[str]:
    """Yields a temporary path; what the block makes of it, with `endings` in order, gets `path`."""
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
    else:  # object stores have no directories to rename
        _copy(path, new)
        gfile.rmtree(path)


def failure(error: Exception, directory: str) -> StorageError | None:
    """Returns what to raise if `error` is that the run `directory` cannot be written any more."""
    if isinstance(error, OSError):
        inside = str(error.filename or "").startswith(directory)
        reason = why(error, directory) if inside or error.errno in _FULL else None
    else:  # one of TensorFlow's, whose text holds the path and the reason
        found = re.search(re.escape(directory) + r"[^;\n]*; ([^\[\n]+)", str(error))
        reason = found and found[1].strip()
    return reason and StorageError(
        f"cannot write in {directory}: {reason}; mend that, and the same command goes on from the"
        " last checkpoint"
    )


def why(error: OSError, directory: str) -> str:
    """Returns the reason, with what gives the permission to use `directory` if it is missing."""
    if not isinstance(error, PermissionError):
        return error.strerror
    found, group, quoted = os.stat(directory), os.getegid(), shlex.quote(directory)
    return (
        f"{error.strerror} ({directory} belongs to {found.st_uid}:{found.st_gid}, mode"
        f" {stat.filemode(found.st_mode)}, this process is {os.geteuid()}:{group}; its owner opens"
        f" it by: chgrp -R {group} {quoted} && chmod -R g+rwXs {quoted})"
    )
