"""`mnist.npz`, the archive in which Keras keeps MNIST."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from trainer.errors import DataError

# Training and test set, in the order of `trainer.data.Dataset`; keras/src/datasets/mnist.py.
MEMBERS = ("x_train", "y_train", "x_test", "y_test")

_MAX_BYTES = 1 << 30  # of a member; MNIST's largest has 47 MB


def read(path: str | os.PathLike) -> list[np.ndarray]:
    """Returns the arrays `MEMBERS` of an archive made by `numpy.savez` or `savez_compressed`.

    Their dtypes and shapes are whatever the archive has; nothing is unpickled.

    Raises:
      DataError: the file cannot be read or is no such archive. The message names it and the defect.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [_member(archive, f"{name}.npy") for name in MEMBERS]
    # numpy and zipfile meet hostile bytes with errors of every kind, MemoryError among them.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a sound .npz archive ({reason})") from error


def _member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    about = archive.zip.getinfo(name)
    # Python unpacks other methods without a limit.
    if about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is neither stored nor deflated")
    if about.file_size > _MAX_BYTES:
        raise ValueError(f"{name} has {about.file_size:,} bytes")
    array = archive[name]
    if not isinstance(array, np.ndarray):  # numpy returns the bytes of what is no array
        raise ValueError(f"{name} is no array")
    return np.ascontiguousarray(array)
