"""Decodes PNG and JPEG images into grey pictures."""

import contextlib
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.errors import DataError


def decode(source: str | BinaryIO) -> np.ndarray:
    """Returns a PNG or JPEG image as uint8 [height, width], 0 black to 255 white.

    It is turned upright as its Exif data says, and on white where it is transparent. Raises
    `DataError` for all but a whole image of at most `PIL.Image.MAX_IMAGE_PIXELS` (90 million; a
    phone's largest photo has 50), which its header decides.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd files that can be read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(source, formats=("PNG", "JPEG"))
            image.draft("L", (1024, 1024))  # JPEG: decodes no finer than twice this, and faster
            image.load()
            with contextlib.suppress(Exception):  # damaged Exif data
                ImageOps.exif_transpose(image, in_place=True)
            return _gray(image)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise DataError("has too many pixels; scale it down") from error
        except UnidentifiedImageError as error:
            raise DataError("is not a PNG or JPEG image; save it as one of these") from error
        except Exception as error:  # damaged files raise almost any type
            reason = getattr(error, "strerror", None) or repr(error)
            raise DataError(
                f"cannot be read ({reason}); check the path, or save it anew"
            ) from error


def _gray(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits a pixel
        return (np.asarray(image, np.uint32) // 257).astype(np.uint8)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("L"))
