"""`mnist.npz`, the archive in which Keras keeps MNIST, read without pickle and without trusting its
sizes.

Apart from `numpy.load` because that allocates what an array's header asks for before looking at the
data.
"""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib

import numpy as np

from trainer.data import idx
from trainer.errors import DataError

# In the order of the fields of `trainer.data.Dataset`. The names are Keras's:
# keras/src/datasets/mnist.py.
MEMBERS = ("x_train", "y_train", "x_test", "y_test")


def read(path: str | os.PathLike) -> list[np.ndarray]:
    """Reads the four arrays of an archive made by `numpy.savez` or `numpy.savez_compressed`.

    Returns:
      Training images, training labels, test images, test labels: uint8 [n, 28, 28] and uint8 [n],
      read-only.

    Raises:
      DataError: the file cannot be read or is not such an archive. The message names the file and
        the defect.
    """
    with idx.open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                missing = {f"{name}.npy" for name in MEMBERS} - set(archive.namelist())
                if missing:
                    raise DataError(f"{path}: there is no {' and no '.join(sorted(missing))} in it")
                return [_member(archive, name, f"{path}, {name}.npy") for name in MEMBERS]
        # RuntimeError: a member is encrypted. ValueError: not a .npy header.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            raise DataError(f"{path}: not a sound .npz archive ({error})") from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _member(archive: zipfile.ZipFile, name: str, where: str) -> np.ndarray:
    packing = archive.getinfo(f"{name}.npy").compress_type
    if packing not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # what numpy writes
        raise DataError(f"{where}: packed by zip method {packing}, not stored or deflated")
    with archive.open(f"{name}.npy") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            # Later versions only differ in having room for longer headers, of up to 4 GiB.
            if version != (1, 0):
                raise ValueError(f"version {version[0]}.{version[1]}, not 1.0")
            with warnings.catch_warnings():  # NumPy remarks on headers that Python 2 wrote
                warnings.simplefilter("ignore")
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        except Exception as error:  # numpy evaluates the header as Python: errors of every kind
            reason = " ".join(str(error).split())
            raise DataError(f"{where}: not a sound .npy header ({reason})") from error
        if name.startswith("x_"):
            idx.check_images(shape, dtype, where)
        else:
            if dtype != np.uint8 or len(shape) != 1:
                raise DataError(f"{where}: labels are {dtype} {list(shape)}, not uint8 [n]")
            idx.check_count(shape[0], where)
        if fortran_order:
            raise DataError(f"{where}: in Fortran order; save it with numpy.ascontiguousarray")
        promised = int(np.prod(shape, dtype=object))
        data = stream.read(promised)
        if len(data) < promised or stream.read(1):
            raise DataError(f"{where}: not as long as the {promised:,} bytes its header promises")
    array = np.frombuffer(data, np.uint8).reshape(shape)
    if name.startswith("y_"):
        idx.check_labels(array, where)
    return array
