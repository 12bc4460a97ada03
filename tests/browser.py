"""A headless Chromium for tests of pages, driven over its DevTools protocol.

The protocol (https://chromedevtools.github.io/devtools-protocol/) goes over two pipes, so that the
browser alone is enough: no driver, no package.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MACOS = pathlib.Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
PATIENCE_S = 60  # for what takes a fraction of a second on an idle machine
FLAGS = [
    "--headless",
    "--no-sandbox",  # root in a container has no sandbox; the pages are ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
]


def find_chromium() -> str:
    """Returns the path of a Chromium; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and MACOS.exists():
        found = str(MACOS)
    if found is None:
        pytest.skip(f"needs Chromium: none of {', '.join(NAMES)} is on the PATH")
    return found


def find_axe() -> str:
    """Returns the source of axe-core; the test is skipped where it is not named."""
    path = os.environ.get("AXE_CORE")
    if not path:
        pytest.skip("needs axe-core: npm install axe-core, set AXE_CORE to its axe.min.js")
    return pathlib.Path(path).read_text(encoding="utf-8")


class Browser:
    """One tab of a browser of its own.

    Args:
      profile: a new directory for what it remembers.

    Attributes:
      requests: the addresses it has asked for since the last `open`.
      complaints: what it wrote to the console as errors, or refused to load.
    """

    def __init__(self, profile: pathlib.Path):
        # Chromium reads commands from descriptor 3 and writes to 4; ours are moved out of the way.
        pipes = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (*os.pipe(), *os.pipe())]
        theirs_in, self._out, self._in, theirs_out = pipes
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", find_chromium(), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number, self._session = b"", 0, None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the result of a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], PATIENCE_S)[0], "Chromium does not answer"
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "Chromium has ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))

    def open(self, address: str, *, wide: int = 1000, high: int = 800, phone: bool = False) -> None:
        """Shows the page at `address` in a window of so many CSS pixels and waits until it is
        there.
        """
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=wide,
            height=high,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Returns the JSON value of an expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Returns once the expression `condition` is true; fails if that takes too long."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.02)

    def prefer(self, **features: str) -> None:
        """Sets what the person prefers: `color_scheme="dark"`, `reduced_motion="reduce"`."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": f"prefers-{name.replace('_', '-')}", "value": value}
                for name, value in features.items()
            ],
        )

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Sends the mouse: `kind` is `Pressed`, `Moved` or `Released`."""
        buttons = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **buttons)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """Sends fingers: `kind` is `Start`, `Move` or `End`; `points` are those on the glass."""
        at = [{"x": x, "y": y} for x, y in points]
        self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=at)

    def key(self, name: str, *, kinds: tuple[str, ...] = ("keyDown", "keyUp")) -> None:
        """Presses and releases a key, by its `KeyboardEvent.key`."""
        code, number = {
            " ": ("Space", 32),
            "Tab": ("Tab", 9),
            "Backspace": ("Backspace", 8),
            "Delete": ("Delete", 46),
            "Enter": ("Enter", 13),
            "ArrowLeft": ("ArrowLeft", 37),
            "ArrowUp": ("ArrowUp", 38),
            "ArrowRight": ("ArrowRight", 39),
            "ArrowDown": ("ArrowDown", 40),
        }[name]
        text = {" ": " ", "Enter": "\r"}.get(name, "")
        for kind in kinds:
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=code,
                windowsVirtualKeyCode=number,
                text=text if kind == "keyDown" else "",
            )

    def screenshot(self) -> bytes:
        """Returns the window as a PNG file."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def violations(self) -> list[str]:
        """Returns what axe-core finds wrong with the page for people with disabilities."""
        self.run(find_axe() + "; 0")
        found = self.run("axe.run().then((result) => result.violations)")
        return [f"{each['id']}: {each['help']} {each['nodes'][0]['html']}" for each in found]
