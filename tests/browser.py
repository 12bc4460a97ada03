"""A headless Chromium for tests of pages, driven by selenium: the fixture `browser`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60  # for what takes a fraction of a second on an idle machine
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # root in a container has no sandbox; the pages are ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class Browser:
    """A window of Chromium; `driver` is selenium's, for all that is not here."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, address: str, *, width: int = 1000, height: int = 800) -> None:
        """Shows the page at `address`, `width` x `height` CSS pixels, with an empty console log."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        self.errors()
        self.driver.get(address)

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression; a promise is awaited."""
        return self.driver.execute_script(f"return {script}")

    def wait(self, condition: str) -> None:
        """Returns once the JavaScript expression `condition` is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def errors(self) -> list[str]:
        """Returns what the console holds of errors and refused loads, and empties it."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Returns the addresses of the page and of all that it has loaded, data: left out."""
        loaded = "[location.href, ...performance.getEntriesByType('resource').map((r) => r.name)]"
        return [url for url in self.run(loaded) if not url.startswith("data:")]

    def prefer_color_scheme(self, scheme: str) -> None:
        """Sets what pages find in prefers-color-scheme: `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium with a new profile; skipped where it or its driver is missing."""
    chromium, driver = (
        next(filter(None, map(shutil.which, names)), None)
        for names in (CHROMIUM, ("chromedriver",))
    )
    if not chromium or not driver:
        pytest.skip("needs Chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    profile = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()
