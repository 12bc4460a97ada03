"""Where a data set may lie on this machine, and in which order the places are tried before the download.

Apart from the formats (`idx`, `npz`) and from the network (`download`), which it brings together.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from trainer.data import download, idx, npz
from trainer.data.published import FILE_NAMES, PUBLISHED, Published
from trainer.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class NowhereError(DataError):
    """No place on this machine has the data set and it cannot be downloaded; `remedy` is what to do about it."""

    def __init__(self, message: str, remedy: str):
        super().__init__(message)
        self.remedy = remedy


def find(
    name: str,
    data_dir: str | None,
    *,
    environ: Mapping[str, str],
    published: Mapping[str, Published] | None = None,
    notify: Callable[[str], None],
) -> tuple[Arrays, str]:
    """Returns the arrays of a published data set and the directory or file they were read from.

    Arguments and places are those of `trainer.data.load`.

    Raises:
      NowhereError: no place has the data set, and it cannot be downloaded.
      DataError: a place that a person named is missing, empty or defective.
    """
    about = (published or PUBLISHED)[name]
    variable = f"{name.upper()}_DATA_DIR"
    if data_dir is not None:
        return read_directory(_expand(data_dir), name, f"--data_dir={data_dir}")
    if environ.get(variable):
        return read_directory(_expand(environ[variable]), name, f"${variable}={environ[variable]}")

    own_cache = cache_directory(name, environ)
    for place in [*_shared_caches(about, environ), *([own_cache] if own_cache else [])]:
        if not _files(place, name)[0]:
            continue
        try:
            return read_directory(place, name, str(place))
        except DataError as error:
            notify(f"warning: passing over a cached copy of {about.title}: {error}")

    remedy = f"to train on {about.title}, pass --data_dir=DIR (or set ${variable}) with its four IDX files or {name}.npz"
    if own_cache is None:
        raise NowhereError(
            f"{about.title} is not on this machine, and neither $HOME nor $XDG_CACHE_HOME says where to keep a download",
            remedy,
        )
    try:
        download.fetch(own_cache, about.files, about.mirrors, notify=notify)
    except DataError as error:
        raise NowhereError(f"{about.title} is not on this machine, and {error}", remedy) from error
    return read_directory(own_cache, name, str(own_cache))


def read_directory(directory: pathlib.Path, name: str, called: str) -> tuple[Arrays, str]:
    """Reads a data set from a directory that holds the four IDX files, each plain or .gz, or else `<name>.npz`.

    Args:
      directory: where to look.
      name: of the data set.
      called: how error messages call the directory.

    Returns:
      The four arrays in the order of `Dataset`'s fields, and the path of what was read.

    Raises:
      DataError: missing, empty, incomplete or defective.
    """
    if not directory.exists():
        raise DataError(f"{called}: there is no such directory")
    if not directory.is_dir():
        raise DataError(f"{called} is not a directory; name the one that holds the files")
    paths, missing = _files(directory, name)
    if missing:
        raise DataError(
            f"{called}: no {', no '.join(missing)} (plain or .gz) there, and no {name}.npz either"
        )
    if len(paths) == 1:
        arrays = npz.read(paths[0])
        source = paths[0]
    else:
        readers = (idx.read_images, idx.read_labels) * 2
        arrays = [reader(path) for reader, path in zip(readers, paths, strict=True)]
        source = directory
    for part, images, labels in zip(("train", "test"), arrays[::2], arrays[1::2], strict=True):
        if len(images) != len(labels):
            raise DataError(
                f"{source}: {len(images):,} {part} images but {len(labels):,} {part} labels"
            )
    return tuple(arrays), str(source)


def cache_directory(name: str, environ: Mapping[str, str]) -> pathlib.Path | None:
    """Returns where downloads of a data set are kept, or None where there is no home directory.

    XDG Base Directory Specification: `$XDG_CACHE_HOME` if it is set to an absolute path, else `~/.cache`.
    """
    cache = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        if not environ.get("HOME"):
            return None
        cache = os.path.join(environ["HOME"], ".cache")
    return pathlib.Path(cache, "number-recognition", name)


def _shared_caches(about: Published, environ: Mapping[str, str]) -> list[pathlib.Path]:
    """Where other programs leave the files.

    Keras: `$KERAS_HOME` or `~/.keras`, as in keras/src/backend/config.py. torchvision has no default place, its
    caller names a root: those of the tutorials and of pytorch/examples (`data`, `../data`) and `~/data` are tried.
    """
    home = environ.get("HOME")
    keras = environ.get("KERAS_HOME") or (home and os.path.join(home, ".keras"))
    roots = ["data", os.path.join("..", "data"), *([os.path.join(home, "data")] if home else [])]
    return [
        *([pathlib.Path(keras, "datasets", about.keras)] if keras else []),
        *(pathlib.Path(root, about.torchvision, "raw") for root in roots),
    ]


def _expand(path: str) -> pathlib.Path:
    return pathlib.Path(os.path.expanduser(path))


def _files(directory: pathlib.Path, name: str) -> tuple[list[pathlib.Path], list[str]]:
    """What there is to read: the IDX files in the order of `FILE_NAMES`, or the archive alone; and what is missing.

    A plain file goes before its .gz: it is read faster. The archive counts if the IDX files are incomplete.
    """
    paths, missing = [], []
    for file_name in FILE_NAMES:
        for path in (directory / file_name, directory / f"{file_name}.gz"):
            if _exists(path):
                paths.append(path)
                break
        else:
            missing.append(file_name)
    if missing and _exists(archive := directory / f"{name}.npz"):
        return [archive], []
    return paths, missing


def _exists(path: pathlib.Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no right to look into the directory, or a name that no file can have
        return False
