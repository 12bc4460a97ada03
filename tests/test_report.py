"""The report and its figures: complete, self-contained, drawn from what was counted, accessible."""

from __future__ import annotations

import csv
import json
import pathlib
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import browser
import conftest
import numpy as np
import pytest
import runs

from trainer.results import charts, report

NAMES = set(report.CAPTIONS)
MOST_BYTES = 150_000  # of a figure; a page of all of them is mailed


@pytest.fixture(scope="module")
def page(trained: conftest.Run) -> str:
    return (trained.directory / "report.html").read_text()


def texts(svg: str) -> list[str]:
    return [each.text for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def answers(count: int, wrong: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits, labels and probabilities, the first `wrong` misread, each surer than the next."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count) % 10
    read = np.where(np.arange(count) < wrong, (labels + 1) % 10, labels)
    sure = np.linspace(0.9, 0.5, count)
    probabilities = np.repeat((1 - sure)[:, None] / 9, 10, 1)
    probabilities[np.arange(count), read] = sure
    return images, labels, probabilities


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


def test_a_run_leaves_every_figure_small_and_well_formed(trained: conftest.Run) -> None:
    files = list((trained.directory / "figures").iterdir())
    assert {path.name for path in files} == {f"{name}.svg" for name in NAMES}
    for path in files:
        root = ET.fromstring(path.read_text())
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert path.stat().st_size < MOST_BYTES


def test_the_figures_of_the_run_count_what_its_metrics_count(trained: conftest.Run) -> None:
    metrics = runs.metrics(trained.directory)
    svg = (trained.directory / "figures" / "confusion_matrix.svg").read_text()
    counts = [int(text) for text in texts(svg) if text.isdigit()]
    assert sum(counts) == metrics["examples_test"] + 2 * sum(range(10))  # with its 20 headings
    right = round(metrics["examples_test"] * metrics["test_accuracy"])
    assert f"{right} of {metrics['examples_test']} digits" in svg


def test_the_page_tells_all_that_the_run_recorded(page: str, trained: conftest.Run) -> None:
    metrics = runs.metrics(trained.directory)
    assert f"mlp reads {metrics['test_accuracy']:.2%} of 130 mnist test digits right" in page
    record = json.loads((trained.directory / "config.json").read_text())
    wanted = [metrics["weights_sha256"], *record["data"]["sha256"].values()]
    wanted += [record["versions"]["tensorflow"], record["settled"]["precision"]]
    wanted += [f"saved_model/{metrics['steps']}"]
    for value in wanted:
        assert value in page
    for name in record["config"]:
        if record["config"][name] is not None:
            assert f">{name}</th>" in page
    for caption in report.CAPTIONS.values():
        assert caption in page


class _Links(HTMLParser):
    """Collects what a page would load, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        named = [value for name, value in attrs if name in ("src", "href", "srcset")]
        self.loads += [value for value in named if value]


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    links = _Links()
    links.feed(page)
    assert links.loads
    assert all(address.startswith("data:") for address in links.loads)
    assert links.scripts == 0
    assert "@import" not in page
    assert "url(" not in page


def test_text_of_the_run_cannot_become_markup() -> None:
    metrics = {
        **{"model": "<b>", "dataset": "mnist", "epochs": 1, "steps": 1, "examples_train": 1},
        **{"examples_validation": 0, "examples_test": 2, "test_loss": 0.5, "test_accuracy": 0.5},
        **{"validation_accuracy": None, "train_seconds": 1.0, "examples_per_second": None},
        **{"parameters": 1, "weights_sha256": "0", "resumed_from_step": None},
    }
    record = {
        "config": {"data_dir": "<script>alert(1)</script>"},
        "settled": {},
        "data": {"name": "mnist", "source": "<i>", "sha256": {}},
        "versions": {},
    }
    page = report.page(metrics, record, {}, directory="it's <u>")
    assert not re.search("<(script|b|i|u)>", page)
    assert "none held out" in page


def test_the_page_is_accessible_and_fits_a_phone(
    trained: conftest.Run, tmp_path: pathlib.Path
) -> None:
    chromium = browser.Browser(tmp_path / "profile")
    address = (trained.directory / "report.html").as_uri()
    try:
        for phone in (False, True):
            chromium.open(address, wide=360 if phone else 1200, phone=phone)
            assert chromium.run("document.documentElement.scrollWidth") <= (360 if phone else 1200)
            assert chromium.run("document.querySelectorAll('figure svg').length") == len(NAMES)
            assert chromium.complaints == []
            asked = [url for url in chromium.requests if not url.startswith("data:")]
            assert asked == [address]
        assert chromium.violations() == []
    finally:
        chromium.close()


def test_a_confusion_matrix_counts_by_class_and_answer() -> None:
    matrix = charts.confusion_matrix(np.array([3, 3, 3, 9]), np.array([3, 5, 5, 9]))
    assert (matrix[3, 3], matrix[3, 5], matrix[9, 9], matrix.sum()) == (1, 2, 1, 4)
    row = charts.class_table(matrix)[3]
    assert (row["examples"], row["missed"], row["mistaken_for"]) == (3, 2, "5 (2)")
    assert row["recall"] == pytest.approx(1 / 3)
    assert "3 read as 5 2 times" in charts.confusion(matrix)


def test_the_surest_mistakes_come_first_with_both_labels() -> None:
    images, labels, probabilities = answers(100, 30)
    assert charts.surest_mistakes(labels, probabilities).tolist() == list(range(30))
    said = texts(charts.mistakes(images, labels, probabilities))
    assert said[:4] == ["read 1", "is 0, 90%", "read 2", "is 1, 90%"]
    assert len(said) == 2 * 24


def test_curves_have_a_point_for_each_epoch_in_every_panel() -> None:
    drawn = ET.fromstring(charts.curves(rows(4)))
    lines = [each.get("points").split() for each in drawn.iter() if each.tag.endswith("polyline")]
    assert [len(line) for line in lines] == [4] * 5
    # Pixels count from the top: falling losses go down, rising accuracies up.
    heights = [[float(point.split(",")[1]) for point in line] for line in lines]
    assert heights[0] == sorted(heights[0])
    assert heights[2] == sorted(heights[2], reverse=True)


def test_a_calibration_curve_finds_the_error_of_a_model_that_is_too_sure() -> None:
    labels = np.arange(100) % 10
    read = np.where(np.arange(100) < 60, labels, (labels + 1) % 10)
    probabilities = np.full((100, 10), 0.2 / 9)
    probabilities[np.arange(100), read] = 0.8
    assert "80% sure, 60% right (100)" in charts.calibration(labels, probabilities)
    assert "20.0%" in texts(charts.calibration(labels, probabilities))


def test_a_calibration_curve_has_a_dot_for_each_tenth_of_confidence() -> None:
    labels, sure = np.zeros(20, np.int64), np.repeat([0.64, 0.76], 10)
    probabilities = np.repeat((1 - sure)[:, None] / 9, 10, 1)
    probabilities[:, 0] = sure
    drawn = charts.calibration(labels, probabilities)
    assert "64% sure, 100% right (10); 76% sure, 100% right (10)" in drawn
    assert drawn.count("<circle") == 2


@pytest.mark.parametrize("kernel", [(784, 16), (784, 200), (5, 5, 1, 32), (3, 3, 1, 100)])
def test_the_first_layer_is_drawn_if_it_is_one_of_pixels(kernel: tuple[int, ...]) -> None:
    weights = np.random.default_rng(1).normal(size=kernel).astype(np.float32)
    drawn = charts.first_layer(weights)
    assert "<image" in drawn
    assert len(drawn) < MOST_BYTES
    assert charts.first_layer(weights.reshape(-1)) == ""


@pytest.mark.parametrize(("count", "wrong"), [(1, 0), (1, 1), (7, 3), (300, 0), (300, 300)])
@pytest.mark.parametrize("epochs", [1, 40])
def test_figures_stand_any_run(count: int, wrong: int, epochs: int) -> None:
    weights = [np.zeros((784, 8), np.float32)]
    for validation in (True, False):
        figures = charts.all_of(rows(epochs, validation), *answers(count, wrong), weights)
        assert set(figures) == NAMES
        for svg in figures.values():
            assert "nan" not in svg
            ET.fromstring(svg)


def test_the_history_in_the_figure_is_the_one_in_the_file(trained: conftest.Run) -> None:
    with open(trained.directory / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    svg = (trained.directory / "figures" / "history.svg").read_text()
    assert f"train loss {float(last['train_loss']):.4g}" in svg
