"""The places where a data set may lie: a directory that was named, caches, the download."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from trainer.data import idx, npz
from trainer.data.catalog import FILE_NAMES, PUBLISHED, Published
from trainer.errors import DataError, NetworkError

# Training images, training labels, test images, test labels.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

IMAGE_SHAPE = (28, 28)


def find(
    name: str, data_dir: str | None, environ: Mapping[str, str], notify: Callable[[str], None]
) -> tuple[Arrays, str] | None:
    """Reads a data set from the place that was named, or else from the first sound cache.

    Returns the arrays and their path, or None if no place was named and no cache has them. Raises
    `DataError` if the place that was named is missing, incomplete or defective.
    """
    variable = f"{name.upper()}_DATA_DIR"
    if data_dir is not None:
        return read_directory(os.path.expanduser(data_dir), name, f"--data_dir={data_dir}")
    if named := environ.get(variable):
        return read_directory(os.path.expanduser(named), name, f"${variable}={named}")
    # As in keras/src/backend/config.py.
    keras = environ.get("KERAS_HOME") or os.path.join(environ.get("HOME", ""), ".keras")
    for cache in (pathlib.Path(keras, "datasets"), _cache_directory(name, environ)):
        try:
            if cache is not None and not locate(cache, name)[1]:
                return read_directory(cache, name, str(cache))
        except OSError:  # there is no such directory
            continue
        except DataError as error:
            notify(f"warning: passing over a cached copy: {error}")
    return None


def download(
    name: str, published: Published, environ: Mapping[str, str], notify: Callable[[str], None]
) -> tuple[Arrays, str]:
    """Downloads a data set into this project's cache and reads it, as `find` does.

    Raises `DataError` if the mirrors have other files or there is no place to keep them, and
    `NetworkError` if the network does not bring them.
    """
    try:
        cache = _cache_directory(name, environ)
        if cache is None:
            raise DataError("neither $HOME nor $XDG_CACHE_HOME says where to keep a download")
        from trainer.data.download import fetch  # imports an HTTP client; most runs need none

        try:
            fetch(cache, published.files, published.mirrors, notify)
        except OSError as error:
            raise DataError(f"cannot write {cache}: {error.strerror}") from error
        return read_directory(cache, name, str(cache))
    except (DataError, NetworkError) as error:
        raise type(error)(
            f"{published.title} is not on this machine: {error}; name the directory with its four"
            f" IDX files or {name}.npz by --data_dir or ${name.upper()}_DATA_DIR, or use"
            " --dataset=synthetic"
        ) from error


def read_directory(directory: str | os.PathLike, name: str, label: str) -> tuple[Arrays, str]:
    """Reads a data set from four IDX files, each plain or .gz, or from `<name>.npz`.

    Returns the arrays and the path they were read from. Raises `DataError` if files are missing,
    defective or another data set's; a message calls the directory `label`.
    """
    try:
        paths, missing = locate(directory, name)
    except OSError as error:
        raise DataError(f"cannot read {label}: {error.strerror}") from error
    if missing:
        raise DataError(
            f"{label}: no {', no '.join(missing)} (plain or .gz) there, and no {name}.npz either"
        )
    for other, published in PUBLISHED.items():  # all data sets use the same file names
        if other != name and published.files[-1].matches(paths[-1]):
            raise DataError(
                f"{paths[-1]} is from {published.title}, not from {PUBLISHED[name].title};"
                f" use --dataset={other} or another directory"
            )
    if len(paths) == 1:
        arrays, source = npz.read(paths[0]), paths[0]
    else:
        shapes = (IMAGE_SHAPE, ()) * 2
        arrays = [idx.read(path, shape) for path, shape in zip(paths, shapes, strict=True)]
        source = directory
    for part, (images, labels) in {"training": arrays[:2], "test": arrays[2:]}.items():
        _check(images, labels, f"{source}, {part} set")
    return tuple(arrays), str(source)


def _check(images: np.ndarray, labels: np.ndarray, where: str) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != IMAGE_SHAPE or len(images) == 0:
        shape = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{where}: the images are {shape}, not uint8 [n, 28, 28]")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        shape = f"{labels.dtype} {list(labels.shape)}"
        raise DataError(f"{where}: the labels are {shape}, not uint8 [{len(images)}]")
    if labels.max() > 9:
        raise DataError(f"{where}: there is a label {labels.max()}, which is not from 0 to 9")


def locate(directory: str | os.PathLike, name: str) -> tuple[list[pathlib.Path], list[str]]:
    """Returns the files of a data set that are in a directory, and the names of the missing ones.

    They are the IDX files in the order of `FILE_NAMES`, a plain one before a .gz; or `<name>.npz`
    alone where the IDX files are incomplete. Raises `OSError` if the directory cannot be listed.
    """
    present = set(os.listdir(directory))
    found = {plain: {plain, f"{plain}.gz"} & present for plain in FILE_NAMES}
    missing = [plain for plain in FILE_NAMES if not found[plain]]
    if missing and f"{name}.npz" in present:
        return [pathlib.Path(directory, f"{name}.npz")], []
    return [pathlib.Path(directory, min(names)) for names in found.values() if names], missing


def _cache_directory(name: str, environ: Mapping[str, str]) -> pathlib.Path | None:
    """Where downloads are kept (XDG Base Directory Specification); None without a home."""
    home_cache = os.path.join(environ.get("HOME", ""), ".cache")
    for cache in (environ.get("XDG_CACHE_HOME", ""), home_cache):
        if os.path.isabs(cache):
            return pathlib.Path(cache, "number-recognition", name)
    return None
