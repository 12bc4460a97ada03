"""The file formats of a data set: IDX, plain or gzip, and Keras's archive `mnist.npz`."""

import gzip
import math
import os
import zlib

import numpy as np

from trainer.errors import DataError

# Training and test set, in the order of `trainer.data.Dataset`; keras/src/datasets/mnist.py.
NPZ_MEMBERS = ("x_train", "y_train", "x_test", "y_test")


def read_idx(path: str | os.PathLike, example_shape: tuple[int, ...]) -> np.ndarray:
    """Returns a file's examples, uint8 [n, *example_shape], read-only; unpacks `.gz`."""
    try:
        with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as stream:
            content = stream.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a sound gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    # Two zero bytes, 0x08 for unsigned bytes, the number of dimensions, then each dimension
    # (http://yann.lecun.com/exdb/mnist/, "The IDX file format").
    start = 8 + 4 * len(example_shape)
    count, rest = divmod(max(len(content) - start, 0), math.prod(example_shape))
    header = np.array([0x0801 + len(example_shape), count, *example_shape], ">u4").tobytes()
    if rest or content[:start] != header:
        expected = ", ".join(map(str, ("n", *example_shape)))
        raise DataError(f"{path}: not an IDX file of uint8 [{expected}], or of another length")
    return np.frombuffer(content, np.uint8, offset=start).reshape(count, *example_shape)


def read_npz(path: str | os.PathLike) -> list[np.ndarray]:
    """Returns the arrays `NPZ_MEMBERS` of an archive, of any dtypes and shapes, never pickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [np.ascontiguousarray(archive[name]) for name in NPZ_MEMBERS]
    # numpy and zipfile meet defective bytes with errors of every kind, MemoryError among them.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a sound .npz archive ({reason})") from error
