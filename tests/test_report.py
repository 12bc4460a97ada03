"""The report: complete, self-contained, safe from what the run is called, fit for a phone."""

import base64
import json
import pathlib
import re
import time

import browser as browsers
import conftest
import pytest
import runs
from PIL import Image

from trainer.results import figures, report


@pytest.fixture(scope="module")
def page(trained: conftest.Run) -> pathlib.Path:
    return trained.directory / "report.html"


def test_the_page_holds_all_that_the_run_recorded(page, trained, browser) -> None:
    browser.open(page.as_uri())
    words = browser.run("document.body.textContent")
    metrics = runs.metrics(trained.directory)
    low, high = metrics["test_accuracy_interval"]
    record = json.loads((trained.directory / "config.json").read_text())
    wanted = [f"{metrics['test_accuracy']:.2%}", f"{low:.2%}", f"{high:.2%}"]
    wanted += [f"{metrics['test_calibration_error']:.2%}", f"{metrics['temperature']:.3f}"]
    wanted += [metrics["weights_sha256"], *record["data"]["sha256"].values()]
    wanted += [record["versions"]["tensorflow"], f"saved_model/{metrics['steps']}"]
    wanted += [name for name, value in record["config"].items() if value is not None]
    wanted += [time.strftime("%B %Y", time.gmtime()), "tests/runs.py"]  # the process's command
    assert [value for value in wanted if value not in words] == []
    alternatives = browser.run("[...document.images].map((image) => image.alt)")
    assert alternatives == [*figures.CAPTIONS.values()]


@pytest.mark.parametrize("size", [(8.27, 11.69), (8.5, 11)], ids=["A4", "Letter"])
def test_the_page_is_printed_on_two_full_sheets(page, browser, size) -> None:
    browser.open(page.as_uri())
    options = {"paperWidth": size[0], "paperHeight": size[1], "preferCSSPageSize": True}
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", options)
    content = base64.b64decode(printed["data"])
    assert len(re.findall(rb"/Type /Page\b(?!s)", content)) == 2
    # The figures fill the first sheet, all else the second: neither is two thirds empty.
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    heights = browser.run(
        "[...document.querySelectorAll('main section')].map((s) => s.offsetHeight)"
    )
    assert min(heights[0], sum(heights[1:])) > 96 * size[1] / 2


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_a_screen_and_needs_nothing_but_itself(page, browser, width) -> None:
    browser.open(page.as_uri(), width=width)
    browser.wait("[...document.images].every((image) => image.complete)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    sizes = browser.run("[...document.images].map((image) => image.naturalWidth)")
    assert len(sizes) == len(figures.CAPTIONS)
    assert all(sizes)
    assert all(browser.run("[...document.images].map((image) => image.alt)"))
    assert browser.run("document.scripts.length") == 0
    loaded = browser.run("performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.driver.get_log("browser") == []


def test_its_figures_are_files_as_well(page: pathlib.Path, browser: browsers.Browser) -> None:
    browser.open(page.as_uri())
    shown = browser.run("[...document.images].map((image) => atob(image.src.split('base64,')[1]))")
    files = [(page.parent / "figures" / f"{name}.svg").read_bytes() for name in figures.CAPTIONS]
    assert [text.encode("latin-1") for text in shown] == files
    assert Image.open(page.parent / "predictions.png").format == "PNG"


def test_text_of_the_run_cannot_become_markup(trained) -> None:
    nothing = dict.fromkeys(("validation_accuracy", "examples_per_second"))
    metrics = runs.metrics(trained.directory) | nothing | {"model": "<b>"}
    record = json.loads((trained.directory / "config.json").read_text())
    record["config"]["data_dir"] = "<script>alert(1)</script>"
    record["data"]["source"] = record["versions"]["platform"] = "<i>"
    record["initial_weights"] = {"path": "<u>", "step": 1, "weights_sha256": "0"}
    page = report.page("it's <u>", metrics, record, {"history": "<svg></svg>"})
    assert not re.search("<(script|b|i|u)>", page)
    assert "&lt;script&gt;alert(1)" in page
