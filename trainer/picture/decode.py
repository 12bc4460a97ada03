"""Decodes PNG and JPEG files into grey pictures."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from trainer.errors import DataError

MAX_PIXELS = 64_000_000  # a phone's largest photo has about 50 million; decoded: 256 MB


def read_file(path: str) -> np.ndarray:
    """Returns the picture in the file `path` as `decode` does; raises `DataError` alike."""
    try:
        # Asked before it is opened: a named pipe would block, a device never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError("is not a regular file; name an image file")
        with open(path, "rb") as file:
            return decode(file)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be opened ({reason}); check the path") from error


def decode(file: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the PNG or JPEG image in `file`, upright as its Exif data says.

    Args:
      file: what transparent pixels of it hide is white; 16 bits a pixel become 8.
      max_pixels: checked in the header, before anything is decoded.

    Returns uint8 [height, width], 0 black to 255 white. Raises `DataError`, one line without the
    file's name, for anything else than a whole image of at most `max_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about odd files: what matters is raised
        try:
            image = Image.open(file, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            raise DataError(f"has more than {max_pixels:,} pixels; scale it down") from error
        except Exception as error:  # damaged headers raise almost any type
            raise DataError("is not a PNG or JPEG image; save it as one of these") from error
        if image.width * image.height > max_pixels:
            raise DataError(f"has more than {max_pixels:,} pixels; scale it down")
        try:
            image.draft("L", (1024, 1024))  # JPEG: decodes no finer than twice this, and faster
            image.load()
            with contextlib.suppress(Exception):  # damaged Exif data: taken as it lies
                ImageOps.exif_transpose(image, in_place=True)
            return _gray(image)
        except Exception as error:  # so do damaged bodies
            reason = type(error).__name__
            raise DataError(f"is damaged or cut short ({reason}); save it anew") from error


def _gray(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return (np.asarray(image, np.uint32) // 257).astype(np.uint8)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("L"))
