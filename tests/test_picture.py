"""Pictures come out as the digits that MNIST would hold, damaged files as errors of one line."""

from __future__ import annotations

import contextlib
import io
import os

import cv2
import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageDraw

from trainer import data, picture
from trainer.errors import DataError
from trainer.picture.normalize import stroke_width, to_mnist


def drawn(stroke: int = 34, size: int = 280) -> np.ndarray:
    """A 5 with a detached bar, ink 255 on 0, uint8 [size, size]; `stroke` is in 280ths of it."""
    sheet = Image.new("L", (280, 280))
    pen = ImageDraw.Draw(sheet)
    pen.line([(110, 40), (100, 130)], fill=255, width=stroke)
    pen.arc([75, 105, 195, 240], -110, 150, fill=255, width=stroke)
    pen.line([(150, 45), (215, 40)], fill=255, width=stroke)
    return np.asarray(sheet.resize((size, size), Image.Resampling.BOX))


def classifier(template: np.ndarray, least: float = 0.8) -> picture.Classify:
    """To it what is like `template`, uint8 [28, 28], is a 5, and the rest is no digit."""

    def classify(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert (fields.shape[1:], fields.dtype) == ((28, 28), np.uint8)
        probabilities = np.full((len(fields), 10), 0.1, np.float32)
        probabilities[[likeness(field, template) > least for field in fields]] = np.eye(10)[5]
        return probabilities.argmax(1), probabilities

    return classify


def fives(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """To this classifier everything is a 5."""
    return np.full(len(fields), 5), np.eye(10, dtype=np.float32)[np.full(len(fields), 5)]


def read(source: io.BytesIO | np.ndarray, classify: picture.Classify) -> list[picture.Number]:
    source = encoded(source) if isinstance(source, np.ndarray) else source
    return picture.read_numbers(picture.decode(source), classify)


def mnist(source: io.BytesIO | np.ndarray, template: np.ndarray, least: float = 0.8) -> np.ndarray:
    """The field of the only digit in a picture."""
    ((digit,),) = (number.digits for number in read(source, classifier(template, least)))
    return digit.field


def template_of(ink: np.ndarray) -> np.ndarray:
    """What is drawn on black, as MNIST has it."""
    rows, columns = (
        slice(some.argmax(), -some[::-1].argmax()) for some in (ink.any(1), ink.any(0))
    )
    strokes = (ink > 127).astype(np.uint8)
    return to_mnist(ink[rows, columns].astype(np.float32), stroke_width(strokes))


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    return template_of(drawn())


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two digits, up to a pixel's shift; renderings of one drawing: 0.9."""
    shifted = [np.roll(other, (row, column), (0, 1)) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    return max(np.corrcoef(one.ravel(), each.ravel())[0, 1] for each in shifted)


def encoded(image: np.ndarray | Image.Image, format: str = "PNG", **options) -> io.BytesIO:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file := io.BytesIO(), format, **options)
    return io.BytesIO(file.getvalue())


def on_paper(ink: np.ndarray, light: float = 0.45, below: int | None = None) -> np.ndarray:
    """A photo of `ink` on grey paper that loses `light` of its brightness towards one corner.

    If `below` is given, the sheet ends 90 pixels above the lower edge, and that is the level there.
    """
    rows, columns = np.mgrid[0 : ink.shape[0], 0 : ink.shape[1]] / max(ink.shape)
    photo = (215 - ink * 0.6) * (1 - light * (rows + columns) / 2)
    if below is not None:
        photo[-90:] = below
    grain = np.random.default_rng(1).normal(0, 6, ink.shape)
    return np.clip(photo + grain, 0, 255).astype(np.uint8)


def enlarged(digit: np.ndarray) -> np.ndarray:
    """A digit of MNIST on a sheet, five times as large."""
    return np.pad(
        cv2.resize(digit, (140, 140), interpolation=cv2.INTER_CUBIC), ((20, 60), (80, 20))
    )


def test_the_digit_is_20_pixels_long_with_its_centre_of_mass_at_pixel_14(digit):
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    weights = digit / digit.sum()
    for axis in (0, 1):  # whole pixels, and rounding to 256 levels
        assert abs(weights.sum(axis) @ np.arange(28) - 14) <= 0.6
    assert digit.dtype == np.uint8
    assert digit.max() == 255


def test_a_picture_that_is_already_as_mnist_has_it_comes_through_unchanged(digit):
    assert likeness(mnist(digit, digit), digit) > 0.97


def ruled(gray: np.ndarray) -> np.ndarray:
    gray = gray.copy()
    for row in range(15, len(gray), 45):
        cv2.line(gray, (0, row), (gray.shape[1], row + 12), 150, 2)
    return gray


def shadowed(gray: np.ndarray) -> np.ndarray:
    triangle = np.tri(*gray.shape, k=gray.shape[1] - 800, dtype=bool)
    return np.where(triangle, gray * 0.55, gray).astype(np.uint8)


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PHOTO = np.pad(drawn(size=140), ((300, 160), (20, 640)))
UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 6  # orientation: the phone was held upright, the sensor's rows are columns
CASES = {
    "dark on light": lambda: encoded(255 - drawn()),
    "small": lambda: encoded(drawn(size=56)),
    "small on a large sheet": lambda: encoded(np.pad(drawn(size=56), ((900, 44), (1500, 44)))),
    "photographed paper, JPEG": lambda: encoded(on_paper(PHOTO), "JPEG", quality=70),
    "the sheet ends on a dark table": lambda: encoded(on_paper(PHOTO, 0.2, below=40)),
    "the sheet ends in a shadow": lambda: encoded(on_paper(PHOTO, 0.2, below=110)),
    "the sheet ends on a light table": lambda: encoded(on_paper(PHOTO, 0.2, below=250)),
    "chalk on a board": lambda: encoded(255 - on_paper(drawn())),
    "turned by Exif": lambda: encoded(np.rot90(255 - drawn()), "JPEG", exif=UPRIGHT),
    "transparent, dark": lambda: encoded(
        np.dstack([np.full((280, 280, 3), 40, np.uint8), drawn()])
    ),
    "transparent, white": lambda: encoded(
        np.dstack([np.full((280, 280, 3), 255, np.uint8), drawn()])
    ),
    "16 bits": lambda: encoded(drawn().astype(np.uint16) * 257),
    "palette": lambda: encoded(Image.fromarray(255 - drawn()).convert("P")),
    "bilevel": lambda: encoded(Image.fromarray(drawn()).convert("1")),
    **{format: lambda format=format: encoded(255 - drawn(), format) for format in FORMATS},
    "16 bits, TIFF": lambda: encoded(drawn().astype(np.uint16) * 257, "TIFF"),
    "a strip of dark desk": lambda: encoded(
        np.pad(on_paper(PHOTO, 0.2), ((0, 0), (40, 0)), constant_values=50)
    ),
    "a hard shadow": lambda: encoded(shadowed(on_paper(PHOTO, 0.1))),
    "lined": lambda: encoded(ruled(255 - np.pad(drawn(size=140), 130))),
    "in a box": lambda: encoded(
        255 - cv2.rectangle(np.pad(drawn(size=140), 130), (100, 100), (300, 300), 255, 6)
    ),
    "CMYK": lambda: encoded(Image.fromarray(255 - drawn()).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_digit_is_found_in(case, digit):
    assert likeness(mnist(CASES[case](), digit), digit) > 0.85


def test_real_digits_photographed_come_out_as_mnist_has_them(mnist_dir):
    digits = data.load("mnist", str(mnist_dir)).test_images[:100]
    found = [mnist(on_paper(enlarged(digit)), digit, 0.6) for digit in digits]
    # Other digits of the same class: 0.75. What is lost here is lost in the enlargement.
    assert np.mean([likeness(*pair) for pair in zip(found, digits, strict=True)]) > 0.88


def ring(pen: int) -> np.ndarray:
    """A 0, ink 255 on 0, uint8 [280, 200], drawn with a pen so many pixels wide."""
    sheet = np.zeros((280, 200), np.uint8)
    return cv2.ellipse(sheet, (100, 140), (55, 90), 10, 0, 360, 255, pen)


def test_a_fine_pens_strokes_come_out_as_wide_as_mnists():
    fine = mnist(255 - ring(4), template_of(ring(20)), 0.6)
    width = stroke_width((cv2.resize(fine, (224, 224)) > 127).astype(np.uint8)) / 8
    assert 2 <= width <= 3  # the middle half of MNIST's digits
    assert likeness(fine, template_of(ring(20))) > 0.85


def test_numbers_are_read_line_by_line_with_boxes_in_pixels_of_the_upright_picture(digit):
    sheet = np.full((700, 1800), 255, np.uint8)
    places = [[(60, 60), (200, 70), (900, 50)], [(300, 400), (440, 420), (580, 400), (1300, 430)]]
    for left, top in (place for line in places for place in line):
        sheet[top : top + 140, left : left + 140] = 255 - drawn(size=140)
    # Lying, as the sensor of an upright phone has it, and larger than the pixels that are kept.
    large = cv2.resize(sheet, None, fx=3, fy=3)
    found = read(encoded(np.rot90(large), "JPEG", exif=UPRIGHT), classifier(digit))
    assert [number.number for number in found] == ["55", "5", "555", "5"]
    expected = [place for line in places for place in line]
    for digit, (left, top) in zip((d for n in found for d in n.digits), expected, strict=True):
        ink = cv2.boundingRect(drawn(size=140))
        x, y, right, bottom = digit.box
        assert np.allclose((x, y), np.add((left, top), ink[:2]) * 3, atol=15)
        assert np.allclose((right - x, bottom - y), np.array(ink[2:]) * 3, atol=24)
    for number in found:
        assert number.box[0] == number.digits[0].box[0]
        assert number.box[2] == number.digits[-1].box[2]


def test_touching_digits_are_parted_where_the_classifier_reads_most():
    both = np.pad(ring(20), ((0, 0), (0, 130))) | np.pad(ring(20), ((0, 0), (130, 0)))
    assert cv2.connectedComponents(both)[0] == 2  # the ground and one stroke
    (number,) = read(255 - both, classifier(template_of(ring(20))))
    assert (number.number, number.unsure) == ("55", False)


def test_what_is_no_digit_is_left_out(digit):
    with pytest.raises(DataError, match="photograph the number closer"):
        read(255 - drawn()[:170], classifier(digit))


def test_specks_are_dropped_and_a_detached_bar_is_kept(digit):
    dirty = drawn().copy()
    dirty[8:12, 8:12] = dirty[262:266, 20:24] = 255
    dirty.flat[np.random.default_rng(1).choice(dirty.size, 300)] = 255
    assert likeness(mnist(dirty, digit), digit) > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (28, 28), (600, 800)])
def test_blank_pictures_show_no_digit(shape):
    ink = np.zeros(shape, np.uint8)
    for blank in (ink, 255 - ink, on_paper(ink)):
        with pytest.raises(DataError, match="photograph the number closer"):
            read(blank, fives)


def test_files_that_are_no_readable_image_are_refused_with_the_reason(tmp_path):
    good = encoded(drawn()).getvalue()
    large, huge = (encoded(Image.new("1", (side, 9_000))).getvalue() for side in (10_000, 20_000))
    contents = {
        "cut.png": (good[: len(good) // 2], "cannot be read"),
        "empty.png": (b"", "is not an image of a known format"),
        "text.png": (b"no picture", "is not an image of a known format"),
        "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC photo; export it as JPEG"),
        "page.png": (b"%PDF-1.7\n", "PDF document"),
        "large.png": (large[:100], "has too many pixels"),  # says the header, before the damage
        "huge.png": (huge[:100], "has too many pixels"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    others = {"gone.png": "No such file", "": "Is a directory", "nul\0.png": "cannot be read"}
    for name, reason in (others | {name: reason for name, (_, reason) in contents.items()}).items():
        with pytest.raises(DataError, match=reason) as caught:
            picture.decode(os.path.join(tmp_path, name))
        assert "\n" not in str(caught.value)


SOUND = [encoded(255 - drawn(size=56), format).getvalue() for format in FORMATS]
SOUND += [encoded(255 - drawn(size=56), "JPEG", exif=UPRIGHT).getvalue()]


@given(content=st.sampled_from(SOUND), data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_image_or_an_error_of_one_line(content, data):
    """Sound files with bytes overwritten, cut out or put in, and bytes of any other kind."""
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 8)))
        content = content[:start] + data.draw(st.binary(max_size=8)) + content[end:]
    content = data.draw(st.sampled_from([content, content[: len(content) // 2]]) | st.binary())
    try:
        found = read(io.BytesIO(content), fives)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(number.digits for number in found)


@given(gray=npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=80)))
@settings(max_examples=200, deadline=None)
def test_any_picture_shows_numbers_or_none(gray):
    with contextlib.suppress(DataError):
        assert all(
            digit.field.max() == 255 for number in read(gray, fives) for digit in number.digits
        )


def test_a_training_run_imports_neither_opencv_nor_werkzeug():
    script = "import sys, trainer.task, trainer.job; print({'cv2', 'werkzeug'} & set(sys.modules))"
    assert runs.python(script).communicate()[0] == "set()\n"
