"""Decodes PNG and JPEG images into grey pictures."""

from __future__ import annotations

import contextlib
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from trainer.errors import DataError

MAX_PIXELS = 64_000_000  # a phone's largest photo has about 50 million; decoded: 256 MB


def decode(source: str | BinaryIO, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns a PNG or JPEG image as uint8 [height, width], 0 black to 255 white.

    It is turned upright as its Exif data says, and on white where it is transparent.

    Args:
      source: the path of a file, or an open binary file.
      max_pixels: compared with the header, before anything is decoded.

    Raises `DataError`, one line without the file's name, for anything but a whole image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about odd files: what matters is raised
        try:
            image = Image.open(source, formats=("PNG", "JPEG"))
            too_large = image.width * image.height > max_pixels
        except Image.DecompressionBombError:
            too_large = True
        except Exception as error:  # damaged headers raise almost any type
            if reason := getattr(error, "strerror", None):
                raise DataError(f"cannot be opened ({reason}); check the path") from error
            raise DataError("is not a PNG or JPEG image; save it as one of these") from error
        if too_large:
            raise DataError(f"has more than {max_pixels:,} pixels; scale it down")
        try:
            image.draft("L", (1024, 1024))  # JPEG: decodes no finer than twice this, and faster
            image.load()
            with contextlib.suppress(Exception):  # damaged Exif data
                ImageOps.exif_transpose(image, in_place=True)
            return _gray(image)
        except Exception as error:  # so do damaged bodies
            reason = type(error).__name__
            raise DataError(f"is damaged or cut short ({reason}); save it anew") from error


def _gray(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits a pixel
        return (np.asarray(image, np.uint32) // 257).astype(np.uint8)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("L"))
