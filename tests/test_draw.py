"""`trainer.draw`: a real process on loopback, and its page in a real browser."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
import runs
from browser import Browser
from PIL import Image, ImageDraw
from selenium.webdriver import ActionChains, Keys
from test_predict import export_templates

from trainer import draw, picture
from trainer.process import command_line

SEVEN = [(0.25, 0.22), (0.5, 0.2), (0.75, 0.21), (0.6, 0.5), (0.45, 0.82)]
ONE = [(0.5, 0.2), (0.5, 0.8)]
DIGIT = "document.querySelector('#verdict b')?.textContent"
EMPTY = "document.getElementById('verdict').textContent === 'The paper is empty.'"


def drawing(points: list[tuple[float, float]]) -> bytes:
    """A PNG file of a black stroke through `points` on white."""
    image = Image.new("L", (176, 176), 255)
    ImageDraw.Draw(image).line([(16 + 144 * x, 16 + 144 * y) for x, y in points], 0, 10)
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that knows a 1 and a 7, by how alike they are to one drawing of each."""
    directory = tmp_path_factory.mktemp("model")
    ways = {1: ONE, 7: SEVEN}
    digits = {digit: picture.read_digit(io.BytesIO(drawing(way))) for digit, way in ways.items()}
    export_templates(directory, digits)
    return directory


@pytest.fixture(scope="module")
def address(model):
    """Where the page is. Served without a word beyond the address, and ended by Ctrl-C quietly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.draw", f"--model_dir={model}", "--port=0"],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever starts the tests in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    assert found, process.communicate()
    yield found[0]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode in (0, 130)


def ask(address, method="POST", path="/read", body=None, headers=()):
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_a_drawing_is_read_and_comes_back_as_the_model_saw_it(address):
    status, body, _ = ask(address, body=drawing(SEVEN), headers={"Origin": address[:-1]})
    answer = json.loads(body)
    assert (status, answer["digit"]) == (200, 7)
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)  # rounded to 6 places
    expected = picture.read_digit(io.BytesIO(drawing(SEVEN)))
    np.testing.assert_array_equal(answer["seen"], expected)


@pytest.mark.parametrize(
    ("expected", "request_"),
    [
        (404, {"path": "/../draw.py", "method": "GET"}),
        (404, {"path": "/elsewhere"}),
        (413, {"body": bytes(draw.MAX_BODY + 1)}),
        (422, {"body": b"no image"}),
        (400, {"headers": {"Host": "attacker.example"}}),  # DNS rebinding
        (400, {"method": "GET", "path": "/", "headers": {"Host": "attacker.example"}}),
        (403, {"headers": {"Origin": "http://attacker.example"}}),
        (403, {"headers": {"Origin": "null"}}),
    ],
)
def test_bad_requests_are_refused_with_a_reason_in_json(address, expected, request_):
    status, body, _ = ask(address, **{"body": drawing(ONE)} | request_)
    assert status == expected
    assert list(json.loads(body)) == ["error"]


def test_clients_that_never_finish_block_nobody(address):
    clients = []
    for _ in range(8):
        clients.append(socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(address).port)))
        clients[-1].sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na")
    assert ask(address, body=drawing(ONE))[0] == 200
    for client in clients:
        client.close()


def test_the_page_is_on_the_loopback_address_alone(address):
    there = ("127.0.0.2", urllib.parse.urlsplit(address).port)
    # Every address of 127.0.0.0/8 is this machine; a server on all of its addresses answers there.
    with pytest.raises(OSError, match=r".+"), socket.create_connection(there, 5):
        pass


def test_a_taken_port_and_wrong_command_lines_are_one_line_and_exit_2(address, model, capsys):
    port = urllib.parse.urlsplit(address).port
    for reason, flags in {
        "cannot be had": [f"--model_dir={model}", f"--port={port}"],
        "--model_dir is needed": [],
        "flags alone": [f"--model_dir={model}", "image.png"],
        "--port=65536": ["--port=65536"],
        "holds no exported model": [f"--model_dir={model}/variables"],
    }.items():
        assert command_line.main(draw.run, ["draw", *flags]) == 2
        out, err = capsys.readouterr()
        assert (out, err[:7], err.count("\n")) == ("", "error: ", 1)
        assert reason in err


def test_a_7_drawn_with_the_mouse_is_read_and_can_be_undone(address, browser: Browser):
    browser.open(address)
    box = browser.run("paper.getBoundingClientRect().toJSON()")
    points = [
        (round(box["x"] + x * box["width"]), round(box["y"] + y * box["height"])) for x, y in SEVEN
    ]
    hand = ActionChains(browser.driver, duration=50)
    hand.w3c_actions.pointer_action.move_to_location(*points[0]).pointer_down()
    for point in points[1:]:
        hand.w3c_actions.pointer_action.move_to_location(*point)
    hand.w3c_actions.pointer_action.pointer_up()
    hand.perform()
    browser.wait(f"{DIGIT} === '7'")
    browser.wait("document.getElementById('spoken').textContent.startsWith('The model reads 7')")
    browser.driver.find_element("id", "undo").click()
    browser.wait(EMPTY)
    assert browser.driver.get_log("browser") == []


def test_a_1_drawn_with_keys_alone_is_read(address, browser: Browser):
    browser.open(address)
    keys = ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ARROW_UP * 8, " ")
    keys.send_keys(Keys.ARROW_DOWN * 18, " ").perform()
    browser.wait(f"{DIGIT} === '1'")
    ActionChains(browser.driver).send_keys(Keys.DELETE).perform()
    browser.wait(EMPTY)


def test_the_page_may_load_nothing_from_elsewhere(address, browser: Browser):
    browser.open(address)
    blocked = browser.run("""new Promise((done) => {
        const found = new Set();
        addEventListener("securitypolicyviolation", (event) => {
            found.add(event.effectiveDirective.replace("-elem", ""));
            if (found.size === 3) done([...found].sort());
        });
        const elsewhere = "http://localhost:9/";
        fetch(elsewhere).catch(() => {});
        for (const name of ["iframe", "script"]) {
            document.body.append(Object.assign(document.createElement(name), {src: elsewhere}));
        }
    })""")
    assert blocked == ["connect-src", "frame-src", "script-src"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_the_persons_colours(address, browser: Browser, scheme):
    browser.open(address, width=360, height=740, prefers_color_scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") == 360
    level = int(browser.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]"))
    assert (level > 128) == (scheme == "light")
