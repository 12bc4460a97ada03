"""Pictures come out as the digit that MNIST would hold, damaged files as errors of one line."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageDraw

from trainer import picture
from trainer.errors import DataError
from trainer.picture.decode import decode
from trainer.picture.find import find_digit
from trainer.picture.normalize import stroke_width, to_mnist


def drawn(stroke: int = 34, size: int = 280) -> np.ndarray:
    """A 5 with a detached bar, ink 255 on 0, uint8 [size, size]; `stroke` is in 280ths of it."""
    sheet = Image.new("L", (280, 280))
    pen = ImageDraw.Draw(sheet)
    pen.line([(110, 40), (100, 130)], fill=255, width=stroke)
    pen.arc([75, 105, 195, 240], -110, 150, fill=255, width=stroke)
    pen.line([(150, 45), (215, 40)], fill=255, width=stroke)
    return np.asarray(sheet.resize((size, size), Image.Resampling.BOX))


def mnist(gray: np.ndarray) -> np.ndarray:
    """The digit in a picture that is already decoded."""
    return to_mnist(find_digit(gray))


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    return mnist(drawn())


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two digits correlate as two renderings of one drawing do, a pixel of rounding either
    way allowed.
    """
    shifted = [np.roll(other, (row, column), (0, 1)) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    return max(np.corrcoef(one.ravel(), each.ravel())[0, 1] for each in shifted) > 0.9


def encoded(image: np.ndarray | Image.Image, format: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, format, **options)
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
    assert np.abs(mnist(digit).astype(int) - digit).max() <= 3


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
    assert alike(picture.read_digit(CASES[case]()), digit)


def test_a_fine_pens_strokes_come_out_as_wide_as_mnists():
    fine = mnist(255 - drawn(stroke=5))
    assert (
        2 <= 8 * stroke_width(cv2.resize(fine.astype(np.float32), (224, 224))) / 64 <= 3
    )  # the middle half of MNIST's digits
    assert alike(fine, mnist(drawn(stroke=16)))


@pytest.mark.parametrize("shape", [(280, 280), (20_000, 2), (2, 20_000)])
@pytest.mark.parametrize("width", [1, 2, 30])
def test_a_straight_stroke_is_a_digit_in_the_middle_whatever_the_pictures_shape(shape, width):
    gray = np.full(shape, 255, np.uint8)
    longer = gray if shape[0] >= shape[1] else gray.T
    longer[longer.shape[0] // 3 : longer.shape[0] // 2, :width] = 0
    found = mnist(gray)
    assert found.max() == 255
    assert abs((found / found.sum()).sum(1) @ np.arange(28) - 14) <= 0.6


def test_specks_are_dropped_and_a_detached_bar_is_kept(digit):
    dirty = drawn().copy()
    dirty[8:12, 8:12] = dirty[262:266, 20:24] = 255
    dirty.flat[np.random.default_rng(1).choice(dirty.size, 300)] = 255
    assert alike(mnist(dirty), digit)
    without_bar = drawn().copy()
    without_bar[:70, 140:] = 0
    assert not alike(mnist(without_bar), digit)


@pytest.mark.parametrize("side", ["dark table", "shadow", "light table"])
def test_the_end_of_the_sheet_is_no_digit(side, digit):
    photo = on_paper(SHEET, 0.2)
    level = {"dark table": 40, "shadow": 110, "light table": 250}[side]
    photo[-90:] = np.clip(np.random.default_rng(2).normal(level, 6, photo[-90:].shape), 0, 255)
    assert alike(mnist(photo), digit)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation, digit):
    flips = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    flips |= {
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }  # what a camera held so does to the picture
    turned = Image.fromarray(255 - drawn())
    if orientation > 1:
        turned = turned.transpose(Image.Transpose[flips[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert alike(picture.read_digit(encoded(turned, "JPEG", exif=exif)), digit)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (28, 28), (600, 800)])
def test_blank_pictures_show_no_digit(shape):
    for blank in (
        np.full(shape, 255, np.uint8),
        np.zeros(shape, np.uint8),
        on_paper(np.zeros(shape)),
    ):
        with pytest.raises(DataError, match="shows no digit"):
            mnist(blank)


def test_a_picture_too_large_is_refused_by_its_header_alone():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"never decoded")
    for content in (bomb, bomb.replace(header, struct.pack(">II", 2**30, 2**30) + header[8:])):
        with pytest.raises(DataError, match=r"has more than 64,000,000 pixels|is not a PNG"):
            decode(io.BytesIO(content))


def test_files_that_are_no_readable_image_are_refused_with_the_reason(tmp_path):
    good = encoded(drawn()).getvalue()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "gif.png").write_bytes(encoded(drawn(), "GIF").getvalue())
    reasons = {
        "cut.png": "is damaged or cut short",
        "empty.png": "is not a PNG or JPEG image",
        "text.png": "is not a PNG or JPEG image",
        "gif.png": "is not a PNG or JPEG image",
        "gone.png": "No such file",
        "": "Is a directory",
        "nul\0.png": "is not a PNG",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as caught:
            picture.read_digit(os.path.join(tmp_path, name))
        assert "\n" not in str(caught.value)


ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6
SOUND = {
    kind: encoded(255 - drawn(size=56), kind, **options).getvalue()
    for kind, options in {"PNG": {}, "JPEG": {"exif": ORIENTED}}.items()
}


@given(kind=st.sampled_from(sorted(SOUND)), data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_image_or_an_error_of_one_line(kind, data):
    """Sound files with bytes overwritten, cut out or put in, and bytes of any other kind."""
    content = SOUND[kind]
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 8)))
        content = content[:start] + data.draw(st.binary(max_size=8)) + content[end:]
    content = data.draw(st.sampled_from([content, content[: len(content) // 2]]) | st.binary())
    try:
        found = picture.read_digit(io.BytesIO(content), max_pixels=10**6)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert (found.shape, found.dtype) == ((28, 28), np.uint8)


@given(gray=npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=80)))
@settings(max_examples=200, deadline=None)
def test_any_picture_shows_a_digit_or_none(gray):
    with contextlib.suppress(DataError):
        assert mnist(gray).max() == 255


def test_a_training_run_imports_neither_opencv_nor_werkzeug():
    script = "import sys, trainer.task, trainer.job; print({'cv2', 'werkzeug'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=runs.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
