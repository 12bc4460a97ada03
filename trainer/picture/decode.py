"""Decodes image files into upright pictures."""

import contextlib
import dataclasses
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Other files that people take for pictures: where their first bytes lie, these, what to do.
OTHERS = {
    "is a HEIC photo; export it as JPEG": (4, (b"ftyphe", b"ftypmif1", b"ftypmsf1")),
    "is a PDF document; export the page as PNG": (0, (b"%PDF",)),
}
MAX_SIDE = 4096  # pixels: larger pictures are reduced; a phone's 12 megapixels are not
_UNKNOWN = f"is not an image of a known format; save it as one of {', '.join(FORMATS)}"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as people see it."""

    pixels: np.ndarray  # uint8 [h, w, 3], RGB, upright, reduced to at most MAX_SIDE
    width: int  # of the whole picture, upright, in pixels of the file
    height: int

    @property
    def scale(self) -> float:
        """Pixels of the file for each of `pixels`."""
        return max(self.width, self.height) / max(self.pixels.shape[:2])


def decode(source: str | BinaryIO) -> Picture:
    """Returns the first image of a file of one of FORMATS.

    It is turned upright as its Exif data says; what is transparent becomes black or white,
    whichever contrasts with the rest. Raises `DataError` for all but a whole image of at most
    `PIL.Image.MAX_IMAGE_PIXELS` (90 million; a phone's largest photo has 50).
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # about odd files that can be read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            file = stack.enter_context(open(source, "rb")) if isinstance(source, str) else source
            image = Image.open(file, formats=FORMATS)
            width, height = image.size
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # JPEG: decodes no finer than twice this
            image.load()
            lying = image.size
            with contextlib.suppress(Exception):  # damaged Exif data
                ImageOps.exif_transpose(image, in_place=True)
            if image.size != lying:
                width, height = height, width
            return Picture(_rgb(image), width, height)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise DataError("has too many pixels; scale it down") from error
        except UnidentifiedImageError as error:
            raise DataError(_other(file) if file.seekable() else _UNKNOWN) from error
        except Exception as error:  # damaged files raise almost any type
            reason = getattr(error, "strerror", None) or repr(error)
            raise DataError(
                f"cannot be read ({reason}); check the path, or save it anew"
            ) from error


def _rgb(image: Image.Image) -> np.ndarray:
    """Returns the pixels as uint8 [h, w, 3], reduced to at most MAX_SIDE."""
    if image.mode[0] in "IF":  # 16 or 32 bits a pixel; a float is from 0 to 1
        levels = np.nan_to_num(np.asarray(image, np.float32)) / (
            257 if image.mode[0] == "I" else 1 / 255
        )
        image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    if image.mode == "RGBA":
        opacity = np.asarray(image.getchannel("A"), np.float32)
        light = (np.asarray(image.convert("L")) * opacity).sum() > 127 * opacity.sum()
        ground = Image.new("RGBA", image.size, "black" if light else "white")
        image = Image.alpha_composite(ground, image).convert("RGB")
    return np.asarray(image)


def _other(file: BinaryIO) -> str:
    """Says what a file is that is of none of FORMATS, and what to do."""
    file.seek(0)
    head = file.read(16)
    for text, (start, magics) in OTHERS.items():
        if head[start:].startswith(magics):
            return text
    return _UNKNOWN
