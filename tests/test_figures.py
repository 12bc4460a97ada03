"""The pictures: mistakes are marked, digits are in order, any run can be drawn; the sample."""

import io
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.results import figures, sample
from trainer.results.evaluation import Evaluation


def answers(count: int, wrong: int) -> tuple[np.ndarray, Evaluation]:
    """Digits and their evaluation; the first `wrong` are misread, each surer than the next."""
    images = np.random.default_rng(1).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count) % 10
    read = np.where(np.arange(count) < wrong, (labels + 1) % 10, labels)
    sure = np.linspace(0.9, 0.5, count)
    probabilities = np.repeat((1 - sure)[:, None] / 9, 10, 1)
    probabilities[np.arange(count), read] = sure
    return images, Evaluation(labels, probabilities, 0.1)


def rows(epochs: int, validation: bool = True) -> list[dict[str, float | None]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 0.1 / epoch,
            "validation_loss": 0.9 / epoch if validation else None,
            "validation_accuracy": 1 - 0.09 / epoch if validation else None,
            "learning_rate": 0.1 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def picture(images: np.ndarray, result: Evaluation) -> np.ndarray:
    content = figures.predictions(images, result, title="a title")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def share(pixels: np.ndarray, color: str) -> float:
    """The share of pixels that have a colour, given as #rrggbb."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(pixels - wanted).max(-1) < 8).mean())


def test_mistakes_are_marked_and_right_answers_are_not() -> None:
    none, some, all_ = (picture(*answers(40, wrong)) for wrong in (0, 5, 40))
    assert share(none, figures.ORANGE) == 0 < share(none, figures.BLUE)
    assert 0 < share(some, figures.ORANGE) < share(all_, figures.ORANGE)
    assert share(some, figures.BLUE) > 0 == share(all_, figures.BLUE)
    assert none.shape[0] < some.shape[0] < picture(*answers(40, 25)).shape[0]


def test_a_share_is_never_rounded_up_to_certainty() -> None:
    shares = (1.0, 0.9999, 0.994, 0.5, 0)
    assert [*map(figures.percent, shares)] == ["100 %", "99 %", "99 %", "50 %", "0 %"]


@pytest.mark.parametrize(("count", "wrong"), [(1, 0), (1, 1), (7, 3), (300, 300)])
def test_figures_stand_any_run(count: int, wrong: int) -> None:
    for history in (rows(1), rows(40), rows(3, validation=False)):
        drawn = figures.report_figures(history, *answers(count, wrong))
        assert set(drawn) == set(figures.CAPTIONS)
        for name, svg in drawn.items():
            root = ET.fromstring(svg)
            assert root.get("role") == "img"
            assert root.find("{http://www.w3.org/2000/svg}title").text == figures.CAPTIONS[name]
            assert "nan" not in svg
    picture(*answers(count, wrong))


def words(svg: str) -> list[str]:
    texts = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return [line for text in texts for line in "".join(text.itertext()).split("\n")]


def test_figures_hold_the_numbers_as_text() -> None:
    drawn = figures.report_figures(rows(4), *answers(100, 30))
    counts = [int(word) for word in words(drawn["confusion_matrix"]) if word.isdigit()]
    assert sum(counts) == 100 + 2 * sum(range(10))  # with the headings of rows and columns
    assert {"training", "validation", "epoch"} <= set(words(drawn["history"]))
    assert "70.0%" in words(drawn["confusion_matrix"])


def test_tensorboards_pictures_mark_what_is_wrong() -> None:
    drawn = figures.answer_pictures(*answers(40, 12))
    matrix, mistakes = (drawn[name].astype(int) for name in ("confusion_matrix", "mistakes"))
    assert drawn["mistakes"].dtype == np.uint8
    # As wide as TensorBoard's cards show them: others would be scaled without smoothing.
    assert matrix.shape[:2] == (350, 350)
    assert mistakes.shape[1] == 350
    corners = (45 + 30.1 * np.arange(10) + 4).astype(int)  # of each cell, in from its edge
    cells = (matrix[..., 0] - matrix[..., 2])[np.ix_(corners, corners)]
    assert (np.diag(cells) < -30).all()
    assert (cells[np.arange(10), (np.arange(10) + 1) % 10] > 30).all()
    assert cells[0, 5] == 0
    assert share(mistakes, figures.ORANGE) > 0.02
    assert set(figures.answer_pictures(*answers(40, 0))) == {"confusion_matrix"}


def test_the_sample_is_a_function_of_the_seed_and_shows_the_number_in_its_text() -> None:
    ring = cv2.ellipse(np.zeros((28, 28), np.uint8), (14, 14), (7, 9), 0, 0, 360, 255, 2)
    images, labels = np.stack([ring] * 64), np.arange(64) % 2 + 3
    pictures = [sample.draw(images, labels, seed) for seed in range(8)]
    assert pictures[3] == sample.draw(images, labels, 3)
    numbers = [Image.open(io.BytesIO(picture)).text["number"] for picture in pictures]
    assert len({*numbers}) == 8
    for number, picture in zip(numbers, pictures, strict=True):
        red = np.asarray(Image.open(io.BytesIO(picture)))[..., 0]
        assert 4 <= len(number) <= 6
        assert {*number} <= {"3", "4"}
        assert cv2.connectedComponents((red < 128).astype(np.uint8))[0] - 1 == len(number)
