"""The places where a data set may lie: a directory that was named, caches, the download."""

import os
import pathlib
from collections.abc import Callable

import numpy as np

from trainer.data import formats
from trainer.data.catalog import FILE_NAMES, PUBLISHED, Published, sha256
from trainer.errors import DataError, NetworkError

# Training images, training labels, test images, test labels; and the path they were read from.
Found = tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], str]


def find(name: str, data_dir: str | None, notify: Callable[[str], None]) -> Found | None:
    """Reads a data set from the place that was named, else from the first sound cache, if any."""
    variable = f"{name.upper()}_DATA_DIR"
    for option, named in (("--data_dir", data_dir), (f"${variable}", os.environ.get(variable))):
        if named:
            return read_directory(named, name, f"{option}={named}")
    # As in keras/src/backend/config.py.
    keras = pathlib.Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"), "datasets")
    for cache in (keras, _cache_directory(name)):
        try:
            if not locate(cache, name)[1]:
                return read_directory(cache, name, str(cache))
        except DataError as error:
            notify(f"warning: passing over a cached copy: {error}")
    return None


def download(name: str, published: Published, notify: Callable[[str], None]) -> Found:
    """Downloads a data set into this project's cache and reads it."""
    from trainer.data.download import fetch  # imports an HTTP client; most runs need none

    cache = _cache_directory(name)
    try:
        fetch(cache, FILE_NAMES, published, notify)
        return read_directory(cache, name, str(cache))
    except (DataError, NetworkError, OSError) as error:
        error_class = NetworkError if isinstance(error, NetworkError) else DataError
        again = "try again when the network is back, " * (error_class is NetworkError)
        raise error_class(
            f"{published.title} is not on this machine: {error}; {again}name the directory with its"
            f" four IDX files or {name}.npz by --data_dir or ${name.upper()}_DATA_DIR, or use"
            " --dataset=synthetic"
        ) from error


def read_directory(directory: str | os.PathLike, name: str, label: str) -> Found:
    """Reads four IDX files, each plain or .gz, or `<name>.npz`; errors call this place `label`."""
    directory = pathlib.Path(os.path.expanduser(directory))
    paths, missing = locate(directory, name)
    if missing:
        lacking = f"neither {', '.join(missing)} (plain or .gz) nor {name}.npz"
        raise DataError(f"{label} has {lacking}")
    if len(paths) == 1:
        arrays, source = formats.read_npz(paths[0]), paths[0]
    else:
        shapes = ((28, 28), ()) * 2
        arrays = [formats.read_idx(path, shape) for path, shape in zip(paths, shapes, strict=True)]
        source = directory
    for other, published in PUBLISHED.items():  # all data sets use the same file names
        if other != name and published.sha256[-1] == sha256(paths[-1]):
            use = f"use --dataset={other} or another directory"
            raise DataError(f"{paths[-1]} is from {published.title}, not from {name}; {use}")
    for images, labels in (arrays[:2], arrays[2:]):
        found = f"{images.dtype} {list(images.shape)}, {labels.dtype} {list(labels.shape)}"
        if not len(images) or found != f"uint8 [{len(images)}, 28, 28], uint8 [{len(images)}]":
            raise DataError(f"{source}: {found} are not n > 0 images uint8 [n, 28, 28] with labels")
        if labels.max() > 9:
            raise DataError(f"{source}: there is a label {labels.max()}, which is not from 0 to 9")
    return tuple(arrays), str(source)


def locate(directory: pathlib.Path, name: str) -> tuple[list[pathlib.Path], list[str]]:
    """Returns the files of a data set that are in a directory, and the names of the missing ones.

    They are in the order of `FILE_NAMES`, or `<name>.npz` alone where the IDX files are incomplete.
    """
    pairs = {plain: (directory / plain, directory / f"{plain}.gz") for plain in FILE_NAMES}
    found = {plain: next(filter(os.path.isfile, pair), None) for plain, pair in pairs.items()}
    missing = [plain for plain, path in found.items() if path is None]
    archive = directory / f"{name}.npz"
    if missing and os.path.isfile(archive):
        return [archive], []
    return [path for path in found.values() if path], missing


def _cache_directory(name: str) -> pathlib.Path:
    """Where downloads are kept (XDG Base Directory Specification)."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(os.path.expanduser(cache), "number-recognition", name)
