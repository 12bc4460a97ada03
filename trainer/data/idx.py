"""The IDX file format, plain or gzip: a file is exactly what its header says, or an error."""

from __future__ import annotations

import gzip
import math
import os
import zlib

import numpy as np

from trainer.errors import DataError

# The most that deflate gets out of a byte (zlib's technical notes, "Maximum Compression Factor").
_MAX_DEFLATE = 1032
_MAX_BYTES = 1 << 30  # EMNIST, the largest set in this format, has 638 MB of images


def read(path: str | os.PathLike, example_shape: tuple[int, ...]) -> np.ndarray:
    """Reads a file, which is gzip if its name ends in `.gz`.

    Args:
      path: of the file.
      example_shape: (28, 28) for images, () for labels.

    Returns:
      uint8 [n, *example_shape], read-only.

    Raises:
      DataError: the file cannot be read or is no such file. The message names it and the defect.
    """
    packed = str(path).endswith(".gz")
    try:
        max_bytes = min(os.path.getsize(path) * (_MAX_DEFLATE if packed else 1), _MAX_BYTES)
        with gzip.open(path) if packed else open(path, "rb") as stream:
            shape = _shape(stream.read(8 + 4 * len(example_shape)), path, example_shape)
            size = math.prod(shape)
            # One byte more than there should be: finds a longer file, and gzip checks its checksum.
            data = stream.read(size + 1) if size < max_bytes else b""
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a sound gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if len(data) != size:
        raise DataError(f"{path}: not as long as the {size:,} bytes of data that its header states")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(header: bytes, path: str | os.PathLike, example_shape: tuple[int, ...]) -> list[int]:
    if len(header) < 8 + 4 * len(example_shape):
        raise DataError(f"{path}: ends within the IDX header, after {len(header)} bytes")
    magic, *shape = np.frombuffer(header, ">u4").tolist()
    # Two zero bytes, 0x08 for unsigned bytes, the number of dimensions
    # (http://yann.lecun.com/exdb/mnist/, "The IDX file format").
    expected = 0x0801 + len(example_shape)
    if magic != expected:
        raise DataError(f"{path}: the magic number is 0x{magic:08x}, not 0x{expected:08x}")
    if tuple(shape[1:]) != example_shape:
        raise DataError(f"{path}: examples of the shape {shape[1:]}, not {list(example_shape)}")
    return shape
