"""The picture of predictions: a PNG of sensible size, with the mistakes marked and explained."""

from __future__ import annotations

import io

import conftest
import numpy as np
import pytest
from PIL import Image, ImageFilter

from trainer.results import charts, figures


def picture(
    count: int, wrong: int, confidence: float = 0.9
) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A picture of `count` digits of which the first `wrong` are misread."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, count)
    read = labels.copy()
    read[:wrong] = (read[:wrong] + 1) % 10
    probabilities = np.full((count, 10), (1 - confidence) / 9)
    probabilities[np.arange(count), read] = confidence
    content = figures.predictions(images, labels, probabilities, title="a title")
    return Image.open(io.BytesIO(content)), images, labels


def share(image: Image.Image, color: str) -> float:
    """The share of pixels that have a colour, given as #rrggbb."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return float((np.abs(pixels - wanted).max(-1) < 8).mean())


def test_mistakes_are_marked_and_right_answers_are_not() -> None:
    none, some, all_ = (picture(40, wrong)[0] for wrong in (0, 5, 40))
    assert share(none, charts.ORANGE) == 0 < share(none, charts.BLUE)
    assert share(some, charts.ORANGE) > 0
    assert share(some, charts.BLUE) > 0
    assert share(all_, charts.BLUE) == 0
    assert share(all_, charts.ORANGE) > share(some, charts.ORANGE)


def black(image: Image.Image) -> tuple[int, int] | None:
    """Height in pixels, and column of twelve, of the digit that is black from edge to edge."""
    middle = ImageFilter.MaxFilter(9)  # leaves dark only what is dark all around
    small = image.convert("L").reduce(4)
    found = np.argwhere(np.asarray(small.filter(middle)) < 40)
    if not len(found):
        return None
    y, x = found.mean(0)
    return int(y), int(x * 12 / small.width)


def test_digits_are_in_their_order_and_the_surest_mistakes_first() -> None:
    count = 60
    labels, read = np.zeros(count, np.int64), np.zeros(count, np.int64)
    confidence = np.full(count, 0.9)
    wrong = np.arange(40, 50)
    read[wrong], confidence[wrong] = 1, np.linspace(0.6, 0.8, 10)
    probabilities = np.zeros((count, 10))
    probabilities[np.arange(count), read] = confidence

    def shown(example: int) -> tuple[int, int] | None:
        images = np.zeros((count, 28, 28), np.uint8)
        images[example] = 255
        content = figures.predictions(images, labels, probabilities, title="a title")
        return black(Image.open(io.BytesIO(content)))

    places = [shown(example) for example in (0, 13, 35, 49, 48, 40)]
    assert [column for _, column in places] == [0, 1, 11, 0, 1, 9]
    heights = [height for height, _ in places]
    assert heights[0] < heights[1] < heights[2] < heights[3] == heights[4] == heights[5]
    assert shown(59) is None  # right, and not among the first


def test_what_a_mistake_is_and_what_was_read_are_both_told() -> None:
    def drawn(label: int, read: int) -> bytes:
        image = np.zeros((1, 28, 28), np.uint8)
        return figures.predictions(image, np.array([label]), np.eye(10)[[read]], title="a title")

    assert len({drawn(1, 2), drawn(1, 3), drawn(4, 2), drawn(1, 1)}) == 4


@pytest.mark.parametrize(("count", "wrong"), [(1, 0), (1, 1), (7, 3), (500, 200)])
def test_it_is_a_png_of_sensible_size_for_any_number_of_digits(count: int, wrong: int) -> None:
    image = picture(count, wrong)[0]
    image.load()
    assert image.format == "PNG"
    assert 800 <= image.width <= 2000
    assert 100 <= image.height <= 2000


def test_it_takes_more_room_only_for_mistakes_there_are() -> None:
    assert picture(100, 0)[0].height < picture(100, 5)[0].height < picture(100, 30)[0].height


def test_the_same_answers_give_the_same_picture() -> None:
    one, other = (np.asarray(picture(50, 4)[0]) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100 %"), (0.9999, "99 %"), (0.995, "99 %"), (0.994, "99 %"), (0.5, "50 %"), (0, "0 %")],
)
def test_a_share_is_never_rounded_up_to_certainty(value: float, text: str) -> None:
    assert figures.percent(value) == text


def test_a_run_leaves_its_picture(trained: conftest.Run) -> None:
    image = Image.open(trained.directory / "predictions.png")
    image.load()
    assert image.format == "PNG"
    assert share(image, charts.ORANGE) > 0


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_truth() -> None:
    probabilities = np.full((8, 10), 0.0)
    labels = np.arange(8)
    sure = np.array([1.0, 1.0, 1.0, 1.0, 0.52, 0.52, 0.88, 0.88])
    probabilities[np.arange(8), labels] = sure
    probabilities[:, 9] = 1 - sure
    labels[[3, 4]] = 8  # one of the four surest is wrong, one of the two at 52 %
    expected = 4 / 8 * (1 - 0.75) + 2 / 8 * (0.52 - 0.5) + 2 / 8 * (1 - 0.88)
    assert charts.calibration_error(labels, probabilities) == pytest.approx(expected)
