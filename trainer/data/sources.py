"""Where a data set may lie on this machine, and in which order the places are tried before the
download.

Apart from the formats (`idx`, `npz`) and from the network (`download`), which it brings together.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from trainer.data import idx, npz
from trainer.data.catalog import FILE_NAMES, PUBLISHED, Published
from trainer.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class NowhereError(DataError):
    """No place on this machine has the data set and it cannot be downloaded; `remedy` is what to do
    about it.
    """

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
        return read_directory(os.path.expanduser(data_dir), name, f"--data_dir={data_dir}")
    if environ.get(variable):
        return read_directory(
            os.path.expanduser(environ[variable]), name, f"${variable}={environ[variable]}"
        )

    own_cache = cache_directory(name, environ)
    for place in [*_shared_caches(about, environ), *([own_cache] if own_cache else [])]:
        try:
            missing = locate(place, name)[1]
        except OSError:
            continue
        if not missing:
            try:
                return read_directory(place, name, str(place))
            except DataError as error:
                notify(f"warning: passing over a cached copy of {about.title}: {error}")

    remedy = (
        f"to train on {about.title}, name the directory with its four IDX files or {name}.npz"
        f" by --data_dir or ${variable}"
    )
    if own_cache is None:
        raise NowhereError(
            f"{about.title} is not on this machine, and is not downloaded because neither $HOME"
            " nor $XDG_CACHE_HOME says where to keep it",
            remedy,
        )
    from trainer.data import download  # brings in the network; most runs need no download

    try:
        download.fetch(own_cache, about.files, about.mirrors, notify=notify)
        return read_directory(own_cache, name, str(own_cache))
    except DataError as error:
        raise NowhereError(f"{about.title} is not on this machine: {error}", remedy) from error


def read_directory(directory: str | os.PathLike, name: str, called: str) -> tuple[Arrays, str]:
    """Reads a data set from a directory with the four IDX files, each plain or .gz, or
    `<name>.npz`.

    Args:
      directory: where to look.
      name: of the data set.
      called: how error messages call the directory.

    Returns:
      The four arrays in the order of `Dataset`'s fields, and the path of what was read.

    Raises:
      DataError: missing, empty, incomplete or defective.
    """
    try:
        paths, missing = locate(directory, name)
    except OSError as error:
        raise DataError(f"cannot read {called}: {error.strerror}") from error
    if missing:
        raise DataError(
            f"{called}: no {', no '.join(missing)} (plain or .gz) there, and no {name}.npz either"
        )
    _refuse_another(paths[-1], name)
    if len(paths) == 1:
        arrays = npz.read(paths[0])
    else:
        readers = (idx.read_images, idx.read_labels) * 2
        arrays = [reader(path) for reader, path in zip(readers, paths, strict=True)]
    parts = (("training", paths[:2]), ("test", paths[2:] or paths))
    for (part, files), images, labels in zip(parts, arrays[::2], arrays[1::2], strict=True):
        if len(images) != len(labels):
            raise DataError(
                f"{' and '.join(map(str, files))}: {len(images):,} {part} images,"
                f" but {len(labels):,} {part} labels"
            )
    return tuple(arrays), str(paths[0] if len(paths) == 1 else directory)


def cache_directory(name: str, environ: Mapping[str, str]) -> pathlib.Path | None:
    """Returns where downloads of a data set are kept, or None where there is no home directory.

    XDG Base Directory Specification: `$XDG_CACHE_HOME` if it is set to an absolute path, else
    `~/.cache`.
    """
    cache = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        if not environ.get("HOME"):
            return None
        cache = os.path.join(environ["HOME"], ".cache")
    return pathlib.Path(cache, "number-recognition", name)


def _shared_caches(about: Published, environ: Mapping[str, str]) -> list[pathlib.Path]:
    """Where other programs leave the files.

    Keras: `$KERAS_HOME` or `~/.keras`, as in keras/src/backend/config.py. torchvision has no
    default place, its caller names a root: those of the tutorials and of pytorch/examples (`data`,
    `../data`) and `~/data` are tried.
    """
    home = environ.get("HOME")
    keras = environ.get("KERAS_HOME") or (home and os.path.join(home, ".keras"))
    roots = ["data", os.path.join("..", "data"), *([os.path.join(home, "data")] if home else [])]
    return [
        *([pathlib.Path(keras, "datasets", about.keras)] if keras else []),
        *(pathlib.Path(root, about.torchvision, "raw") for root in roots),
    ]


def locate(directory: str | os.PathLike, name: str) -> tuple[list[pathlib.Path], list[str]]:
    """Returns what there is to read, and which of `FILE_NAMES` are missing.

    What there is to read are the IDX files in the order of `FILE_NAMES`, a plain file rather than
    its .gz because it is read faster; or `<name>.npz` alone where the IDX files are not complete.

    Raises:
      OSError: the directory cannot be listed.
    """
    there = set(os.listdir(directory))
    paths, missing = [], []
    for plain in FILE_NAMES:
        found = next((entry for entry in (plain, f"{plain}.gz") if entry in there), None)
        if found:
            paths.append(pathlib.Path(directory, found))
        else:
            missing.append(plain)
    if missing and f"{name}.npz" in there:
        return [pathlib.Path(directory, f"{name}.npz")], []
    return paths, missing


def _refuse_another(test_labels: pathlib.Path, name: str) -> None:
    """Raises `DataError` if the file is the published one of another data set: all of them use the
    same names.
    """
    for other, about in PUBLISHED.items():
        if other != name and about.files[-1].matches(test_labels):
            raise DataError(
                f"{test_labels} is from {about.title}, not from {PUBLISHED[name].title};"
                f" use --dataset={other} or another directory"
            )
