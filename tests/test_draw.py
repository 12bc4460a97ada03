"""`trainer.draw`: a real process on loopback, and its page in a real browser."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import runs
from browser import Browser
from PIL import Image, ImageDraw
from selenium.webdriver import ActionChains, Keys
from test_predict import export

from trainer import data, draw, picture

SEVEN = [(0.25, 0.22), (0.5, 0.2), (0.75, 0.21), (0.6, 0.5), (0.45, 0.82)]
ONE = [(0.5, 0.2), (0.5, 0.8)]
PNG = {"Content-Type": "image/png"}
DIGIT = "document.querySelector('#verdict b')?.textContent"


def drawing(points: list[tuple[float, float]], side: int = 176) -> bytes:
    """A PNG file of a black stroke through `points` on white."""
    image = Image.new("L", (176, 176), 255)
    ImageDraw.Draw(image).line([(16 + 144 * x, 16 + 144 * y) for x, y in points], 0, 10)
    return png(image.resize((side, side)))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def start(model_dir: object, port: int = 0) -> tuple[subprocess.Popen, str]:
    """A process of trainer.draw that answers, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.draw", f"--model_dir={model_dir}", f"--port={port}"],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert found, (line, process.communicate())
    return process, found[0]


def stop(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code and the rest of both streams after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that knows a 1 and a 7, by how alike they are to one drawing of each."""
    kernel, bias = np.zeros((784, 10)), np.full(10, -1e3)
    for digit, way in {1: ONE, 7: SEVEN}.items():
        template = picture.read_digit(io.BytesIO(drawing(way))).ravel() / 255
        kernel[:, digit], bias[digit] = 2 * template, -np.sum(template**2)
    directory = tmp_path_factory.mktemp("model")
    export(directory, kernel, bias)
    return directory


@pytest.fixture(scope="module")
def address(model):
    """Where the page is. Served without a word beyond the address, and ended by Ctrl-C quietly."""
    process, address = start(model)
    yield address
    code, out, err = stop(process)
    assert code in (0, 130)
    assert (out, err) == ("", "")


def ask(address, method="POST", path="/read", body=None, headers=PNG):
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_a_drawing_is_read_and_comes_back_as_the_model_saw_it(address):
    status, body, _ = ask(address, body=drawing(SEVEN))
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
        (405, {"method": "GET"}),
        (405, {"method": "DELETE", "path": "/"}),
        (415, {"headers": {}}),
        (413, {"body": bytes(draw.MAX_BODY + 1)}),
        (422, {"body": b"no image"}),
        (422, {"body": png(Image.new("L", (50, 50), 255))}),
        (422, {"body": drawing(ONE, side=1025)}),  # too many pixels
        (400, {"headers": PNG | {"Host": "attacker.example"}}),  # DNS rebinding
        (400, {"method": "GET", "path": "/", "headers": {"Host": "attacker.example"}}),
        (403, {"headers": PNG | {"Origin": "http://attacker.example"}}),
        (403, {"headers": PNG | {"Origin": "null"}}),
    ],
)
def test_bad_requests_are_refused_with_a_reason_in_json(address, expected, request_):
    status, body, headers = ask(address, **{"body": drawing(ONE)} | request_)
    assert status == expected
    assert list(json.loads(body)) == ["error"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_the_page_may_not_be_framed_sniffed_or_kept(address):
    status, _, headers = ask(address, "GET", "/")
    assert status == 200
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\0\x01\0\x01",
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc",
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
def test_clients_that_talk_nonsense_or_never_finish_block_nobody(address, nonsense):
    clients = []
    for _ in range(8):
        clients.append(socket.create_connection(("127.0.0.1", int(address.split(":")[2][:-1]))))
        clients[-1].sendall(nonsense)
    assert ask(address, body=drawing(ONE))[0] == 200
    for client in clients:
        client.close()


def test_the_page_is_on_the_loopback_address_alone(address):
    port = int(address.split(":")[2][:-1])
    # Every address of 127.0.0.0/8 is this machine; a server on all of its addresses answers there.
    with pytest.raises(OSError, match=r".+"), socket.create_connection(("127.0.0.2", port), 5):
        pass


def test_a_taken_port_and_wrong_command_lines_are_one_line_and_exit_2(address, model, capsys):
    port = address.split(":")[2][:-1]
    for reason, flags in {
        "cannot be had": [f"--model_dir={model}", f"--port={port}"],
        "--model_dir is missing": [],
        "unexpected argument": [f"--model_dir={model}", "image.png"],
        "--port=65536": ["--port=65536"],
        "holds no exported model": [f"--model_dir={model}/variables"],
    }.items():
        assert draw.main(["draw", *flags]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert reason in err


@pytest.mark.slow
def test_a_page_with_a_trained_cnn_reads_49_of_50_test_digits(mnist_dir, tmp_path):
    """`CNN_RUN` may name a finished run of `--model=cnn`; else one of 5 epochs is made here."""
    run = os.environ.get("CNN_RUN", str(tmp_path / "cnn"))
    if "CNN_RUN" not in os.environ:
        flags = ["--model=cnn", "--epochs=5", f"--data_dir={mnist_dir}", f"--model_dir={run}"]
        subprocess.run([sys.executable, "-m", "trainer.task", *flags], cwd=runs.ROOT, check=True)
    digits = data.load("mnist", str(mnist_dir))
    process, address = start(run)
    try:
        right = 0
        for image, label in zip(digits.test_images[:50], digits.test_labels[:50], strict=True):
            sheet = Image.new("L", (176, 176), 255)
            sheet.paste(Image.fromarray(255 - image).resize((144, 144)), (16, 16))
            right += json.loads(ask(address, body=png(sheet))[1])["digit"] == label
        assert right >= 49
    finally:
        stop(process)


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
    browser.wait("document.getElementById('verdict').textContent === 'The paper is empty.'")
    assert browser.errors() == []
    assert all(url.startswith(address) for url in browser.requests())


def test_a_1_drawn_with_keys_alone_is_read(address, browser: Browser):
    browser.open(address)
    keys = ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ARROW_UP * 8, " ")
    keys.send_keys(Keys.ARROW_DOWN * 18, " ").perform()
    browser.wait(f"{DIGIT} === '1'")
    ActionChains(browser.driver).send_keys(Keys.DELETE).perform()
    browser.wait("document.getElementById('verdict').textContent === 'The paper is empty.'")


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
    browser.prefer_color_scheme(scheme)
    browser.open(address, width=360, height=740)
    assert browser.run("document.documentElement.scrollWidth") == 360
    level = int(browser.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]"))
    assert (level > 128) == (scheme == "light")
