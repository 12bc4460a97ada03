"""The IDX file format, plain or gzip, read strictly: a file is either exactly what its header says
or an error.

Apart from the search for files because nothing here depends on where a file came from.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from typing import BinaryIO

import numpy as np

from trainer.errors import DataError

IMAGE_SIDE = 28
CLASSES = 10
# More than any set in this format that is in use; a header that promises more is wrong or hostile.
MOST_EXAMPLES = 1_000_000

# Magic numbers: two zero bytes, 0x08 for unsigned bytes, then the number of dimensions. The format
# is described on http://yann.lecun.com/exdb/mnist/ ("The IDX file format").
_MAGIC = {3: 0x0803, 1: 0x0801}
# Deflate cannot pack more than this many bytes into one (zlib's technical notes, "Maximum
# Compression Factor").
_DEFLATE_LIMIT = 1032


def read_images(path: str | os.PathLike) -> np.ndarray:
    """Reads a file of images.

    Args:
      path: an IDX file; gzip if its name ends in `.gz`.

    Returns:
      uint8 [n, 28, 28], n >= 1, read-only.

    Raises:
      DataError: the file cannot be read or is not exactly such a file. The message names the file
        and the defect.
    """
    images = _read(path, dimensions=3)
    check_images(images.shape, images.dtype, path)
    return images


def read_labels(path: str | os.PathLike) -> np.ndarray:
    """Reads a file of labels; like `read_images`, but returns uint8 [n], every label from 0 to
    9.
    """
    labels = _read(path, dimensions=1)
    check_labels(labels, path)
    return labels


def check_images(shape: tuple[int, ...], dtype: np.dtype, where: object) -> None:
    """Raises `DataError`, naming `where`, unless this is uint8 [n, 28, 28] with n from 1 to
    `MOST_EXAMPLES`.
    """
    if dtype != np.uint8:
        raise DataError(f"{where}: the images are {dtype}, not uint8")
    if len(shape) != 3 or shape[1:] != (IMAGE_SIDE, IMAGE_SIDE):
        raise DataError(f"{where}: the images have the shape {list(shape)}, not [n, 28, 28]")
    check_count(shape[0], where)


def check_count(examples: int, where: object) -> None:
    """Raises `DataError`, naming `where`, for no examples or more than `MOST_EXAMPLES`."""
    if not 1 <= examples <= MOST_EXAMPLES:
        raise DataError(
            f"{where}: {examples:,} examples, where 1 to {MOST_EXAMPLES:,} are possible"
        )


def check_labels(labels: np.ndarray, where: object) -> None:
    """Raises `DataError`, naming `where` and the first offender, if a label is above 9."""
    if labels.max() >= CLASSES:
        first = int(np.argmax(labels >= CLASSES))
        raise DataError(
            f"{where}: label {labels[first]} at index {first}, where the labels go from 0 to 9"
        )


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a file to read. Raises `DataError` if that fails or it is not a regular file (a pipe
    would block).
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path} is not a regular file")
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read(path: str | os.PathLike, dimensions: int) -> np.ndarray:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if not str(path).endswith(".gz"):
                return _parse(file, path, dimensions, at_most=size, exactly=size)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _parse(unpacked, path, dimensions, at_most=size * _DEFLATE_LIMIT)
        except (EOFError, zlib.error) as error:
            raise DataError(f"{path}: the gzip data is cut off or damaged ({error})") from error
        except gzip.BadGzipFile as error:
            raise DataError(f"{path}: not a sound gzip file ({error})") from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error


def _parse(
    stream: BinaryIO | gzip.GzipFile,
    path: str | os.PathLike,
    dimensions: int,
    *,
    at_most: int,
    exactly: int | None = None,
) -> np.ndarray:
    """Reads header and data. Nothing is read or allocated on the word of a header that cannot be
    true.

    `at_most` is how many bytes the stream could hold at all, `exactly` how many it does hold where
    that is known.
    """
    header = stream.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path}: ends within the IDX header, after {len(header)} bytes")
    magic, *shape = np.frombuffer(header, ">u4").tolist()
    if magic != _MAGIC[dimensions]:
        raise DataError(
            f"{path}: the magic number is 0x{magic:08x}, not 0x{_MAGIC[dimensions]:08x}"
            f" (unsigned bytes in {dimensions} dimension{'s' if dimensions > 1 else ''})"
        )
    if dimensions == 3:
        check_images(tuple(shape), np.dtype(np.uint8), path)
    check_count(shape[0], path)
    promised = int(np.prod(shape, dtype=object))
    expected = len(header) + promised
    if exactly is not None and exactly != expected:
        raise DataError(f"{path}: {exactly:,} bytes long, where its header promises {expected:,}")
    if expected > at_most:
        raise DataError(f"{path}: too short for the {expected:,} bytes that its header promises")
    data = stream.read(promised)
    if len(data) < promised:
        raise DataError(
            f"{path}: ends after {len(header) + len(data):,} bytes,"
            f" where its header promises {expected:,}"
        )
    if stream.read(1):  # also what makes gzip check its checksum
        raise DataError(f"{path}: goes on after the {expected:,} bytes that its header promises")
    return np.frombuffer(data, np.uint8).reshape(shape)
