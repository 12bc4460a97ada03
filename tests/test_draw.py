"""`trainer.draw`: a real process on loopback, and its page in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
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
from test_predict import export_templates, field_of, png

from trainer import draw
from trainer.process import command_line

# Strokes on a paper that is 2 wide and 1 high.
SEVEN = [(0.55, 0.22), (0.7, 0.2), (0.9, 0.21), (0.8, 0.5), (0.7, 0.82)]
ONE = [(1.1, 0.32), (1.22, 0.2), (1.2, 0.8)]
READ = "[...document.querySelectorAll('#verdict b')].map((each) => each.textContent).join()"
EMPTY = "document.getElementById('verdict').textContent === 'The paper is empty.'"
METRICS = {"model": "cnn", "dataset": "mnist", "test_accuracy": 0.98765}


def drawn(*strokes: list[tuple[float, float]]) -> bytes:
    """A PNG file of black strokes on white, as the page sends it."""
    image = Image.new("L", (704, 384), 255)
    for stroke in strokes:
        ImageDraw.Draw(image).line([(32 + 320 * x, 32 + 320 * y) for x, y in stroke], 0, 18)
    return png(image)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run of 12 steps whose model knows a 1 and a 7, by how alike they are to one of each."""
    directory = tmp_path_factory.mktemp("model")
    fields = {1: field_of(1, drawn(ONE)), 7: field_of(7, drawn(SEVEN))}
    export_templates(directory / "saved_model" / "12", fields)
    (directory / "metrics.json").write_text(json.dumps(METRICS | {"steps": 12, "seed": 1}))
    return directory


@contextlib.contextmanager
def serving(model, *flags: str):
    """The addresses that a server prints; it says no word beyond, and Ctrl-C ends it quietly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.draw", f"--model_dir={model}", "--port=0", *flags],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever starts the tests in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    found = re.findall(r"http://[\d.]+:\d+/", process.stdout.readline())
    assert found, process.communicate()
    yield found
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode in (0, 130)


@pytest.fixture(scope="module")
def address(model):
    with serving(model) as [found]:
        yield found


def ask(address, method="POST", path="/read", body=None, headers=()):
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_a_drawing_is_read_and_comes_back_as_the_model_saw_it(address):
    status, body, _ = ask(address, body=drawn(SEVEN, ONE), headers={"Origin": address[:-1]})
    [number] = json.loads(body)["numbers"]
    assert (status, number["number"]) == (200, "71")
    expected = np.stack([field_of(7, drawn(SEVEN)), field_of(1, drawn(ONE))]).astype(int)
    seen = np.array([digit["field"] for digit in number["digits"]])
    assert np.mean(np.abs(seen - expected)) < 10  # levels of 255: the same
    assert json.loads(ask(address, body=drawn())[1]) == {"numbers": []}  # a blank sheet


def test_the_accuracy_is_that_of_the_run_which_ended_in_this_export(address, model, tmp_path):
    assert json.loads(ask(address, "GET", "/model")[1]) == METRICS
    shutil.copytree(model / "saved_model", tmp_path / "saved_model")
    assert draw.describe(str(tmp_path / "saved_model" / "12")) == {}
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS | {"steps": 24}))
    assert draw.describe(str(tmp_path / "saved_model" / "12")) == {}


@pytest.mark.parametrize(
    ("expected", "request_"),
    [
        (404, {"path": "/../draw.py", "method": "GET"}),
        (413, {"body": bytes(draw.MAX_BODY + 1)}),
        (422, {"body": b"no image"}),
        (400, {"headers": {"Host": "attacker.example"}}),  # DNS rebinding
        (403, {"headers": {"Origin": "http://attacker.example"}}),
        (403, {"headers": {"Origin": "null"}}),
    ],
)
def test_bad_requests_are_refused_with_a_reason_in_json(address, expected, request_):
    status, body, _ = ask(address, **{"body": drawn(ONE)} | request_)
    assert status == expected
    assert list(json.loads(body)) == ["error"]


def test_clients_that_never_finish_block_nobody_and_none_comes_from_elsewhere(address):
    clients = []
    for _ in range(8):
        clients.append(socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(address).port)))
        clients[-1].sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na")
    assert ask(address, body=drawn(ONE))[0] == 200
    for client in clients:
        client.close()
    # Every address of 127.0.0.0/8 is this machine; a server on all of its addresses answers there.
    with pytest.raises(OSError, match=r".+"):
        socket.create_connection(("127.0.0.2", urllib.parse.urlsplit(address).port), 5)


def test_a_phone_reaches_the_page_by_the_printed_address_and_foreign_names_do_not(model):
    with serving(model, "--host=0.0.0.0") as [here, phone]:
        place, name = urllib.parse.urlsplit(here), socket.gethostname().lower()
        own = ("localhost", urllib.parse.urlsplit(phone).netloc, name, f"{name}.local:80")
        for host in (*own, "attacker.example", "localhost.attacker.example", "192.0.2.1"):
            status = ask(phone, "GET", "/", headers={"Host": host})[0]
            assert status == (200 if host in own else 400), host
        for target, host in (("http://[::1", "localhost"), ("/", "[::1"), ("/", "[")):
            with socket.create_connection((place.hostname, place.port), 60) as connection:
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert b" 40" in connection.makefile("rb").readline()  # 400, 404


def test_a_taken_port_and_wrong_command_lines_are_one_line_and_exit_2(address, model, capsys):
    port = urllib.parse.urlsplit(address).port
    for reason, flags in {
        "Address already in use": [f"--model_dir={model}", f"--port={port}"],
        "--host=192.0.2.1": [f"--model_dir={model}", "--host=192.0.2.1"],
        "--model_dir is needed": [],
        "--port=65536": ["--port=65536"],
        "holds no exported model": [f"--model_dir={model}/variables"],
    }.items():
        assert command_line.main(draw.run, ["draw", *flags]) == 2
        out, err = capsys.readouterr()
        assert (out, err[:7], err.count("\n")) == ("", "error: ", 1)
        assert reason in err


def test_a_number_drawn_with_the_mouse_is_read_shown_and_undone(address, browser: Browser):
    browser.open(address)
    browser.wait("document.getElementById('model').textContent.includes('98.77')")
    browser.draw(SEVEN, ONE)
    browser.wait(f"{READ} === '71'")
    browser.wait("document.getElementById('spoken').textContent.startsWith('The model reads 71')")
    pixels = browser.run("""[...document.querySelectorAll("#fields canvas")].map((each) =>
        [...each.getContext("2d").getImageData(0, 0, 28, 28).data])""")
    expected = [field_of(7, drawn(SEVEN)).ravel(), field_of(1, drawn(ONE)).ravel()]
    likeness = np.corrcoef([*(each[::4] for each in pixels), *expected])[:2, 2:]
    assert likeness.argmax(1).tolist() == [0, 1]  # the browser draws smoother strokes
    browser.driver.find_element("id", "undo").click()
    browser.wait(f"{READ} === '7'")
    browser.driver.find_element("id", "clear").click()
    browser.wait(EMPTY)
    assert browser.driver.get_log("browser") == []


def test_a_7_drawn_with_keys_alone_is_read(address, browser: Browser):
    browser.open(address)
    keys = ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ARROW_UP * 8, " ")
    keys.send_keys(Keys.ARROW_RIGHT * 9, Keys.ARROW_DOWN * 16, " ").perform()
    browser.wait(f"{READ} === '7'")
    ActionChains(browser.driver).send_keys(Keys.DELETE).perform()
    browser.wait(EMPTY)


def test_the_page_may_load_nothing_from_elsewhere(address, browser: Browser):
    browser.open(address)
    blocked = browser.run("""new Promise((done) => {
        const found = new Set();
        addEventListener("securitypolicyviolation", (event) => {
            found.add(event.effectiveDirective.replace("-elem", ""));
            if (found.size === 2) done([...found].sort());
        });
        const script = document.createElement("script"), elsewhere = "http://localhost:9/";
        document.body.append(Object.assign(script, { src: elsewhere }));
        fetch(elsewhere).catch(() => {});
    })""")
    assert blocked == ["connect-src", "script-src"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_finger_draws_on_a_phone_in_the_persons_colours(address, browser: Browser, scheme):
    browser.open(address, width=360, height=740, prefers_color_scheme=scheme)
    browser.draw(SEVEN, ONE, kind="touch")
    browser.wait(f"{READ} === '71'")
    assert browser.run("scrollY") == 0  # the strokes went down
    assert browser.run("document.documentElement.scrollWidth") == 360
    level = int(browser.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]"))
    assert (level > 128) == (scheme == "light")
