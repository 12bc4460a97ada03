"""A page on which a person draws a digit and sees what an exported model makes of it.

The server is here, the page in `draw_page/`. A drawing is a picture like any other: it goes the way
of an image file in `predict.py`, so that both read alike.
"""

from __future__ import annotations

import contextlib
import http
import io
import json
import pathlib
import re
import socket
import socketserver
import sys
import threading
import traceback
import urllib.parse
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from absl import flags

from trainer import predict
from trainer.errors import DataError, UsageError
from trainer.process import command_line

USAGE = "python -m trainer.draw --model_dir DIR [--port PORT]"
PORT = 8028
MAX_BODY = 1 << 20  # bytes; the page sends some 3 kB
MAX_PIXELS = 1 << 20  # the page sends 176 x 176; this many take a fraction of a second
DEADLINE_S = 10.0  # for a whole request to arrive; the page's takes milliseconds
_DRAINED = 16 << 20  # bytes of a body too large that are read, so that the refusal is read too

_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    # What the page may load: its own style and script, and nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# The names of this machine only: a foreign page whose name is made to resolve to 127.0.0.1 (DNS
# rebinding) still says its own. Any port, because a tunnel (ssh -L) may change it.
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class Refusal(Exception):
    """A request that is answered with an HTTP status and one line.

    Args:
      status: of class 4xx.
      message: what was wrong and what to do.
      headers: to send with it.
    """

    def __init__(self, status: http.HTTPStatus, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers


def read_drawing(body: bytes, classify: Callable[[Any], tuple[Any, Any]]) -> dict[str, Any]:
    """Returns what the model makes of a picture, as JSON values.

    These are `digit`, `probabilities` (of 0 to 9) and `seen`, the 28 rows of the image that the
    model got, 0 black to 255 white.

    Args:
      body: a PNG or JPEG file of at most `MAX_PIXELS`.
      classify: as `predict.load_classifier` returns it.

    Raises `DataError` if it is no such file or shows no digit.
    """
    from trainer.picture.digits import find_digit, read_gray

    seen = find_digit(read_gray(io.BytesIO(body), max_pixels=MAX_PIXELS))
    classes, probabilities = classify(seen[None])
    return {
        "digit": int(classes[0]),
        "probabilities": [round(float(share), 6) for share in probabilities[0]],
        "seen": seen.tolist(),
    }


class Server(ThreadingHTTPServer):
    """Serves the page and answers its drawings, each request in a thread of its own.

    Bound to loopback at once, so that a port that is taken is known before a model is loaded;
    answers once `serve` is called.

    Args:
      port: 0 takes any free one; `address` tells which.
      deadline_s: how long a client may take to send a request.

    Raises `UsageError` if the port cannot be had.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, *, deadline_s: float = DEADLINE_S):
        self.deadline_s = deadline_s
        directory = pathlib.Path(__file__).with_name("draw_page")
        self.page = {
            path: ((directory / name).read_bytes(), kind) for path, (name, kind) in _PAGE.items()
        }
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"--port={port} cannot be had ({reason}); give another one, 0 for any free one"
            ) from error

    def server_bind(self) -> None:
        """Binds without `HTTPServer`'s look-up of the machine's name, which may ask the network."""
        socketserver.TCPServer.server_bind(self)

    @property
    def address(self) -> str:
        """Where the page is: `http://127.0.0.1:<port>/`."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def serve(self, classify: Callable[[Any], tuple[Any, Any]]) -> None:
        """Answers requests with the model `classify` until `shutdown` or an exception."""
        self.classify = classify
        self.serve_forever(poll_interval=0.1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Passes over clients that went away; anything else is a failure of this program."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request a connection: nothing of a refused one can be taken for the next."""

    server: Server
    default_request_version = "HTTP/1.0"  # an answer to nonsense has a status line, too
    wbufsize = (
        -1
    )  # headers and body leave together; apart, they would wait for each other's receipt
    timeout = 2 * DEADLINE_S  # for a client that does not take its answer

    def handle(self) -> None:
        self.late = False
        timer = threading.Timer(self.server.deadline_s, self._stop_reading)
        timer.daemon = True
        timer.start()
        try:
            super().handle()
        finally:
            timer.cancel()

    def _stop_reading(self) -> None:
        # A timeout of the socket starts anew with each byte; this ends the request as a whole.
        self.late = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def _reply(self) -> None:
        try:
            # Before anything is refused: closing with bytes unread resets the connection, and the
            # client might never see why.
            body = self._body()
            self._check_sender()
            self._send(http.HTTPStatus.OK, *self._answer(body))
        except Refusal as refusal:
            self._send_error(refusal.status, str(refusal), refusal.headers)
        except ConnectionError:
            raise
        except Exception:
            traceback.print_exc()
            self._send_error(
                http.HTTPStatus.INTERNAL_SERVER_ERROR,
                "unexpected failure; the terminal of trainer.draw shows it",
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _reply

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            raise Refusal(
                http.HTTPStatus.BAD_REQUEST, "Content-Length is not a number of bytes; correct it"
            )
        length = int(length)
        if length > MAX_BODY:
            missing = min(length, _DRAINED)
            while missing > 0 and (chunk := self.rfile.read(min(missing, 1 << 16))):
                missing -= len(chunk)
            raise Refusal(
                http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"an image may have {MAX_BODY:,} bytes; make it smaller",
            )
        body = self.rfile.read(length)
        if len(body) < length:
            status = http.HTTPStatus.REQUEST_TIMEOUT if self.late else http.HTTPStatus.BAD_REQUEST
            raise Refusal(status, f"only {len(body):,} of {length:,} bytes came; send it anew")
        return body

    def _check_sender(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0]):
            raise Refusal(
                http.HTTPStatus.MISDIRECTED_REQUEST,
                f"this page is for this machine alone; open {self.server.address}",
            )
        if self.headers.get("Origin", f"http://{hosts[0]}") != f"http://{hosts[0]}":
            raise Refusal(
                http.HTTPStatus.FORBIDDEN, "another site's page may not ask; open this one"
            )

    def _answer(self, body: bytes) -> tuple[bytes, str]:
        path = urllib.parse.urlsplit(self.path).path
        if path not in self.server.page and path != "/read":
            raise Refusal(http.HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")
        methods = ("POST",) if path == "/read" else ("GET", "HEAD")
        if self.command not in methods:
            allowed = ", ".join(methods)
            raise Refusal(http.HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed} here", Allow=allowed)
        if path != "/read":
            return self.server.page[path]
        if "Content-Length" not in self.headers:
            raise Refusal(
                http.HTTPStatus.LENGTH_REQUIRED, "send the image with a Content-Length header"
            )
        if self.headers.get_content_type() not in ("image/png", "image/jpeg"):
            raise Refusal(
                http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "send a PNG or JPEG image, with Content-Type: image/png or image/jpeg",
            )
        try:
            drawing = read_drawing(body, self.server.classify)
        except DataError as error:
            raise Refusal(http.HTTPStatus.UNPROCESSABLE_ENTITY, f"the image {error}") from error
        return json.dumps(drawing).encode(), "application/json"

    def _send(
        self, status: http.HTTPStatus, body: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(http.HTTPStatus(status), body, "application/json", headers)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class says of a request it cannot parse, in this server's form."""
        status = http.HTTPStatus(code)
        self._send_error(status, f"{message or status.phrase}; send a plain HTTP/1.1 request")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line for each stroke would bury the one with the address."""


def run(argv: Sequence[str]) -> int:
    """Serves the page as the command line `argv` says, until it is interrupted; returns the exit
    code.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, predict.MODEL_DIR, flag_values=values)
    flags.DEFINE_integer(
        "port",
        PORT,
        "on this machine's loopback address; 0 takes any free one",
        lower_bound=0,
        upper_bound=65535,
        flag_values=values,
    )
    words = command_line.parse(
        argv,
        values,
        usage="Opens a local page to draw a digit on and see what an exported model reads.\n\n"
        f"  {USAGE}",
    )
    if words is None:
        return 0
    if words:
        raise UsageError(f"unexpected argument {words[0]!r}; usage: {USAGE}")
    if not values.model_dir:
        raise UsageError(f"--model_dir is missing; usage: {USAGE}")
    export = predict.find_export(values.model_dir)
    with Server(values.port) as server:
        import numpy as np

        classify = predict.load_classifier(export)
        classify(np.zeros((1, 28, 28), np.uint8))  # the first call takes a hundred times as long
        print(
            f"draw at {server.address} for {command_line.printable(export)}; Ctrl-C ends it",
            flush=True,
        )
        server.serve(classify)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`run` with expected failures as one line on standard error; returns the exit code."""
    return command_line.main(run, argv)


if __name__ == "__main__":
    command_line.leave(main())
