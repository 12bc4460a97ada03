"""`trainer.draw`: a real server on loopback, and its page in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import types

import browser
import numpy as np
import pytest
import runs
from PIL import Image, ImageDraw

from trainer import data, draw
from trainer.picture.digits import find_digit

SEVEN = [(0.25, 0.22), (0.5, 0.2), (0.75, 0.21), (0.6, 0.5), (0.45, 0.82)]
ONE = [(0.5, 0.2), (0.5, 0.8)]


def picture(points: list[tuple[float, float]]) -> np.ndarray:
    """A stroke through `points`, black on white, uint8 [176, 176]."""
    image = Image.new("L", (176, 176), 255)
    ImageDraw.Draw(image).line([(16 + 144 * x, 16 + 144 * y) for x, y in points], 0, 10)
    return np.asarray(image)


def png(gray: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG")
    return file.getvalue()


def classify(images):
    """A model that knows a 1 and a 7, by how alike they are."""
    scores = np.full((len(images), 10), -50.0)
    for digit, way in {1: ONE, 7: SEVEN}.items():
        template = find_digit(picture(way)).ravel() / 255
        scores[:, digit] = -np.sum((images.reshape(-1, 784) / 255 - template) ** 2, axis=1)
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return scores.argmax(1), shares / shares.sum(1, keepdims=True)


@contextlib.contextmanager
def serving(deadline_s):
    with draw.Server(0, deadline_s=deadline_s) as server:
        threading.Thread(target=server.serve, args=(classify,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def server():
    """Serves the page; a request has a minute to arrive."""
    with serving(60) as server:
        yield server


def ask(server, method="POST", path="/read", body=None, **headers):
    """The status and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, names)
    response = connection.getresponse()
    return response.status, response.read()


def test_a_picture_is_read_and_comes_back_as_the_model_saw_it(server):
    status, body = ask(server, body=png(picture(SEVEN)), Content_Type="image/png")
    answer = json.loads(body)
    assert (status, answer["digit"]) == (200, 7)
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(answer["seen"], find_digit(picture(SEVEN)))


def test_bad_requests_are_refused_with_one_line_of_json(server):
    kind, good = {"Content_Type": "image/png"}, png(picture(ONE))
    blank = png(np.full((50, 50), 255, np.uint8))
    refused = [
        (404, {"path": "/../draw.py", "method": "GET"}),
        (405, {"method": "GET"}),
        (405, {"method": "DELETE", "path": "/"}),
        (415, {"body": good}),
        (413, {"body": bytes(draw.MAX_BODY + 1), **kind}),
        (422, {"body": b"no image", **kind}),
        (422, {"body": blank, **kind}),
        (400, {"Content_Length": "-1", **kind}),
        (421, {"body": good, "Host": "attacker.example", **kind}),
        (403, {"body": good, "Origin": "http://attacker.example", **kind}),
    ]
    for expected, request in refused:
        status, body = ask(server, **request)
        assert status == expected, request
        assert list(json.loads(body)) == ["error"]


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(server):
    large = np.asarray(Image.fromarray(picture(ONE)).resize((1025, 1024)))
    status, body = ask(server, body=png(large), Content_Type="image/png")
    assert status == 422
    assert "1,048,576 pixels" in json.loads(body)["error"]


UNFINISHED = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc"


def test_clients_that_are_not_done_block_nobody(server):
    with contextlib.ExitStack() as clients:
        for _ in range(8):
            slow = clients.enter_context(socket.create_connection(server.server_address))
            slow.sendall(UNFINISHED)
        status, _ = ask(server, body=png(picture(ONE)), Content_Type="image/png")
        assert status == 200


def test_a_client_that_never_finishes_is_given_up():
    with serving(0.3) as hasty, socket.create_connection(hasty.server_address) as slow:
        slow.sendall(UNFINISHED)
        slow.settimeout(30)
        assert b" 408 " in slow.makefile("rb").readline()


def test_the_page_is_on_the_loopback_address_alone(server):
    _, port = server.server_address
    # Every address of 127.0.0.0/8 is this machine; a server on all of its addresses answers there.
    with pytest.raises(OSError, match=r".+"), socket.create_connection(("127.0.0.2", port), 5):
        pass


@pytest.mark.slow
def test_a_page_with_a_trained_cnn_reads_49_of_50_test_digits(mnist_dir, tmp_path):
    """`CNN_RUN` may name a finished run of `--model=cnn --epochs 5`; else one is made here."""
    run = os.environ.get("CNN_RUN", str(tmp_path / "cnn"))
    python = [sys.executable, "-m"]
    if "CNN_RUN" not in os.environ:
        flags = ["--model=cnn", "--epochs=5", f"--data_dir={mnist_dir}", f"--model_dir={run}"]
        subprocess.run([*python, "trainer.task", *flags], cwd=runs.ROOT, check=True)
    metrics = runs.metrics(run)
    assert (metrics["model"], metrics["epochs"], metrics["dataset"]) == ("cnn", 5, "mnist")
    digits = data.load("mnist", str(mnist_dir))
    command = [*python, "trainer.draw", f"--model_dir={run}", "--port=0"]
    page = subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", page.stdout.readline())[1])
        # Its address is what `ask` needs of a server.
        process = types.SimpleNamespace(server_address=("127.0.0.1", port))
        right = 0
        for image, label in zip(digits.test_images[:50], digits.test_labels[:50], strict=True):
            drawing = Image.fromarray(255 - image).resize((144, 144), Image.Resampling.BICUBIC)
            paper = Image.new("L", (176, 176), 255)
            paper.paste(drawing, (16, 16))
            status, body = ask(process, body=png(np.asarray(paper)), Content_Type="image/png")
            assert status == 200, body
            right += json.loads(body)["digit"] == label
        assert right >= 49
    finally:
        page.terminate()
        page.wait()
        page.stdout.close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    tab = browser.Browser(tmp_path_factory.mktemp("chromium"))
    yield tab
    tab.close()


def drawn(tab) -> str:
    return tab.run("document.querySelector('#verdict b')?.textContent ?? ''")


def test_a_7_drawn_with_the_mouse_is_read_and_can_be_undone(server, tab):
    tab.open(server.address)
    left, top, side = tab.run(
        "(({left, top, width}) => [left, top, width])(paper.getBoundingClientRect())"
    )
    points = [(left + x * side, top + y * side) for x, y in SEVEN]
    tab.mouse("Pressed", *points[0])
    for point in points[1:]:
        tab.mouse("Moved", *point)
    tab.mouse("Released", *points[-1])
    tab.wait("document.querySelector('#verdict b')?.textContent === '7'")
    tab.wait("document.getElementById('spoken').textContent.startsWith('The model reads 7')")
    tab.run("document.getElementById('undo').click()")
    tab.wait("document.getElementById('verdict').textContent === 'The paper is empty.'")
    assert tab.complaints == []
    assert all(address.startswith((server.address, "data:")) for address in tab.requests)


def test_the_page_may_load_nothing_from_elsewhere(server, tab):
    tab.open(server.address)
    blocked = tab.run("""new Promise((done) => {
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


def test_a_1_drawn_with_keys_alone_is_read(server, tab):
    tab.open(server.address)
    tab.key("Tab")
    assert tab.run("document.activeElement.ariaLabel") == "Paper to draw on"
    for _ in range(8):
        tab.key("ArrowUp")
    tab.key(" ")
    for _ in range(18):
        tab.key("ArrowDown")
    tab.key(" ")
    tab.wait("document.querySelector('#verdict b')?.textContent === '1'")
    tab.key("Delete")
    tab.wait("document.getElementById('verdict').textContent === 'The paper is empty.'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_and_nothing_is_wider_than_a_phone(server, tab, scheme):
    tab.prefer(color_scheme=scheme)
    tab.open(server.address, wide=360, high=740, phone=True)
    assert tab.run("document.documentElement.scrollWidth") == 360
    assert tab.violations() == []
