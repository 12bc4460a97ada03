"""`trainer.picture.digits`: pictures come out as the digit MNIST would hold, bad files as
one-line errors.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer.errors import DataError
from trainer.picture import digits


def drawn(stroke: int = 34, size: int = 280) -> np.ndarray:
    """A 5 with a detached bar, ink 255 on 0, uint8 [size, size]; `stroke` is in 280ths of it."""
    picture = Image.new("L", (280, 280))
    pen = ImageDraw.Draw(picture)
    pen.line([(110, 40), (100, 130)], fill=255, width=stroke)
    pen.arc([75, 105, 195, 240], -110, 150, fill=255, width=stroke)
    pen.line([(150, 45), (215, 40)], fill=255, width=stroke)
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    return digits.find_digit(drawn())


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two digits correlate as two renderings of one drawing do, a pixel of rounding either
    way allowed.
    """
    shifted = [np.roll(other, (row, column), (0, 1)) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    return max(np.corrcoef(one.ravel(), each.ravel())[0, 1] for each in shifted) > 0.9


def encoded(picture: np.ndarray | Image.Image, format: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(
        file, format, **options
    )
    file.seek(0)
    return file


def on_paper(ink: np.ndarray, light: float = 0.45) -> np.ndarray:
    """`ink` written on grey paper that loses `light` of its brightness towards one corner, with
    grain.
    """
    rows, columns = np.mgrid[0 : ink.shape[0], 0 : ink.shape[1]] / max(ink.shape)
    paper = (215 - ink * 0.6) * (1 - light * (rows + columns) / 2)
    return np.clip(paper + np.random.default_rng(1).normal(0, 6, ink.shape), 0, 255).astype(
        np.uint8
    )


def test_the_digit_is_20_pixels_long_with_its_centre_of_mass_at_pixel_14(digit):
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    weights = digit / digit.sum()
    assert (
        abs(weights.sum(1) @ np.arange(28) - 14) <= 0.6
    )  # whole pixels, and rounding to 256 levels
    assert abs(weights.sum(0) @ np.arange(28) - 14) <= 0.6
    assert digit.dtype == np.uint8
    assert digit.max() == 255
    assert digit[0].max() == 0


def test_a_picture_that_is_already_as_mnist_has_it_comes_through_unchanged(digit):
    assert np.abs(digits.find_digit(digit).astype(int) - digit).max() <= 3


SHEET = np.pad(drawn(size=140), ((300, 160), (20, 640)))
CASES = {
    "dark on light": lambda: encoded(255 - drawn()),
    "small": lambda: encoded(drawn(size=56)),
    "off-centre on a large sheet": lambda: encoded(
        255 - np.pad(drawn(size=56), ((900, 44), (1500, 44)))
    ),
    "photographed paper, JPEG": lambda: encoded(on_paper(SHEET), "JPEG", quality=70),
    "chalk on a board": lambda: encoded(255 - on_paper(drawn())),
    "transparent ground": lambda: encoded(
        np.dstack([np.full((280, 280, 3), 40, np.uint8), drawn()])
    ),
    "grey with transparency": lambda: encoded(
        Image.merge("LA", [Image.new("L", (280, 280)), Image.fromarray(drawn())])
    ),
    "16 bits": lambda: encoded(Image.fromarray(drawn().astype(np.uint16) * 257)),
    "palette": lambda: encoded(Image.fromarray(255 - drawn()).convert("P")),
    "bilevel": lambda: encoded(Image.fromarray(drawn()).convert("1")),
    "CMYK": lambda: encoded(Image.fromarray(255 - drawn()).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_digit_is_found_in(case, digit):
    assert alike(digits.find_digit(digits.read_gray(CASES[case]())), digit)


def test_a_fine_pens_strokes_come_out_as_wide_as_mnists():
    fine = digits.find_digit(255 - drawn(stroke=5))
    assert 2 <= digits._stroke_width(fine) <= 3  # the middle half of MNIST's digits
    assert alike(fine, digits.find_digit(drawn(stroke=16)))


def test_specks_are_dropped_and_a_detached_bar_is_kept(digit):
    dirty = drawn().copy()
    dirty[8:12, 8:12] = dirty[262:266, 20:24] = 255
    dirty.flat[np.random.default_rng(1).choice(dirty.size, 300)] = 255
    assert alike(digits.find_digit(dirty), digit)
    without_bar = drawn().copy()
    without_bar[:70, 140:] = 0
    assert not alike(digits.find_digit(without_bar), digit)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation, digit):
    flips = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    flips |= {
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }  # what a camera held so does to the picture
    picture = Image.fromarray(255 - drawn())
    if orientation > 1:
        picture = picture.transpose(Image.Transpose[flips[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert alike(digits.find_digit(digits.read_gray(encoded(picture, "JPEG", exif=exif))), digit)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (28, 28), (600, 800)])
def test_blank_pictures_show_no_digit(shape):
    for blank in (
        np.full(shape, 255, np.uint8),
        np.zeros(shape, np.uint8),
        on_paper(np.zeros(shape)),
    ):
        with pytest.raises(DataError, match="shows no digit"):
            digits.find_digit(blank)


def test_a_picture_too_large_is_refused_by_its_header_alone():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"never decoded")
    for content in (bomb, bomb.replace(header, struct.pack(">II", 2**30, 2**30) + header[8:])):
        with pytest.raises(DataError, match=r"has more than 64,000,000 pixels|is not a PNG"):
            digits.read_gray(io.BytesIO(content))


def test_files_that_are_no_readable_image_are_refused_with_the_reason(tmp_path):
    good = encoded(drawn()).getvalue()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "gif.png").write_bytes(encoded(drawn(), "GIF").getvalue())
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {
        "cut.png": "is damaged or cut short",
        "empty.png": "is empty",
        "text.png": "is not a PNG or JPEG image",
        "gif.png": "is not a PNG or JPEG image",
        "pipe.png": "is not a regular file",
        "gone.png": "no such file",
        "": "is a directory",
        "nul\0.png": "cannot be opened",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as caught:
            digits.read_digit(os.path.join(tmp_path, name))
        assert "\n" not in str(caught.value)


def test_damage_anywhere_in_a_file_is_an_error_or_a_digit_but_never_another_exception():
    random = np.random.default_rng(1)
    for good in (
        encoded(255 - drawn(size=56)).getvalue(),
        encoded(255 - drawn(size=56), "JPEG").getvalue(),
    ):
        for _ in range(150):
            content = np.frombuffer(good, np.uint8).copy()
            content[random.integers(len(content), size=3)] = random.integers(256, size=3)
            with contextlib.suppress(DataError):
                digits.find_digit(digits.read_gray(io.BytesIO(content.tobytes())))
