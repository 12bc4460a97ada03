"""The report: complete, self-contained, safe from what the run is called, fit for a phone."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import shutil
from html.parser import HTMLParser

import conftest
import pytest
import runs
from PIL import Image

from trainer.results import figures, report


@pytest.fixture(scope="module")
def page(trained: conftest.Run) -> str:
    return (trained.directory / "report.html").read_text()


class _Page(HTMLParser):
    """Collects what a page would load, its scripts, its images' texts and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.alternatives: list[str | None] = []
        self.scripts, self.words = 0, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.scripts += tag == "script"
        self.loads += [named[name] for name in ("src", "href", "srcset") if named.get(name)]
        self.alternatives += [named.get("alt")] if tag == "img" else []

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_holds_all_that_the_run_recorded(page: str, trained: conftest.Run) -> None:
    metrics = runs.metrics(trained.directory)
    words = _Page(page).words
    low, high = metrics["test_accuracy_interval"]
    record = json.loads((trained.directory / "config.json").read_text())
    wanted = [f"{metrics['test_accuracy']:.2%}", f"{low:.2%}", f"{high:.2%}"]
    wanted += [f"{metrics['test_calibration_error']:.2%}", f"{metrics['temperature']:.3f}"]
    wanted += [metrics["weights_sha256"], *record["data"]["sha256"].values()]
    wanted += [record["versions"]["tensorflow"], f"saved_model/{metrics['steps']}"]
    wanted += [name for name, value in record["config"].items() if value is not None]
    wanted += figures.CAPTIONS.values()
    assert [value for value in wanted if value not in words] == []


def test_the_page_shows_the_run_s_figures_and_needs_nothing_else(
    page: str, trained: conftest.Run
) -> None:
    parsed = _Page(page)
    assert parsed.scripts == 0
    assert all(address.startswith("data:") for address in parsed.loads)
    assert "@import" not in page
    assert "url(" not in page
    shown = [
        base64.b64decode(address.partition("base64,")[2])
        for address in parsed.loads
        if address.startswith("data:image/svg+xml")
    ]
    files = {path.stem: path.read_bytes() for path in (trained.directory / "figures").iterdir()}
    assert shown == [files[name] for name in figures.CAPTIONS]
    assert all(parsed.alternatives)
    assert Image.open(trained.directory / "predictions.png").format == "PNG"


METRICS = {
    **{"model": "<b>", "dataset": "mnist", "epochs": 1, "steps": 1, "examples_train": 1},
    **{"examples_validation": 0, "examples_test": 2, "test_loss": 0.5, "test_accuracy": 0.5},
    **{"test_accuracy_interval": (0.1, 0.9), "test_calibration_error": 0.1, "temperature": 1.0},
    **{"validation_accuracy": None, "train_seconds": 1.0, "examples_per_second": None},
    **{"parameters": 1, "weights_sha256": "0", "resumed_from_step": None},
}


def test_text_of_the_run_cannot_become_markup() -> None:
    record = {
        "config": {"data_dir": "<script>alert(1)</script>"},
        "resolved": {},
        "data": {"name": "mnist", "source": "<i>", "sha256": {}},
        "versions": {},
    }
    page = report.page("it's <u>", METRICS, record, {"history": "<svg></svg>"})
    assert not re.search("<(script|b|i|u)>", page)
    assert "alert(1)" in _Page(page).words
    assert "none held out" in page


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_a_screen_and_shows_every_image(
    trained: conftest.Run, tmp_path: pathlib.Path, width: int
) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((trained.directory / "report.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        sizes = "return [...document.images].map(image => image.naturalWidth)"
        assert len(browser.execute_script(sizes)) == len(figures.CAPTIONS)
        assert all(browser.execute_script(sizes))
        assert [each for each in browser.get_log("browser") if each["level"] == "SEVERE"] == []
    finally:
        browser.quit()
