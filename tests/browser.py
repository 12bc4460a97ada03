"""A headless Chromium for tests of pages, driven by selenium: the fixture `browser`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PATIENCE_S = 60  # for what takes a fraction of a second on an idle machine


class Browser:
    """A window of Chromium; `driver` is selenium's, for all that is not here."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, address: str, *, width: int = 1000, height: int = 800, **media: str) -> None:
        """Shows the page at `address`, `width` x `height` CSS pixels, with an empty console log.

        `media` are features of it that pages may ask for, `prefers_color_scheme`.
        """
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(address)

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression; a promise is awaited."""
        return self.driver.execute_script(f"return {script}")

    def draw(self, *strokes: list[tuple[float, float]], kind: str = "mouse") -> None:
        """Draws on the element `paper` with a pointer of a kind; its height is the unit."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        box = self.run("paper.getBoundingClientRect().toJSON()")
        hand = ActionChains(self.driver, duration=50, devices=[PointerInput(kind, kind)])
        pointer = hand.w3c_actions.pointer_action
        for stroke in strokes:
            for index, (x, y) in enumerate(stroke):
                place = (box["x"] + x * box["height"], box["y"] + y * box["height"])
                pointer.move_to_location(*map(round, place))
                if index == 0:
                    pointer.pointer_down()
            pointer.pointer_up()
        hand.perform()

    def wait(self, condition: str) -> None:
        """Returns once the JavaScript expression `condition` is true."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, PATIENCE_S).until(lambda _: self.run(condition), condition)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium with a new profile; skipped where its driver is missing."""
    if not (driver := shutil.which("chromedriver")):
        pytest.skip("needs Chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")  # root in a container has none; the pages are ours
    options.add_argument("--disable-dev-shm-usage")  # containers have little of it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        yield Browser(chrome)
