"""Serves a page to draw a digit on and see what an exported model reads: `python -m trainer.draw`.

The page is in `draw_page/`. A drawing is read as `trainer.predict` reads an image file.
"""

from __future__ import annotations

import io
import json
import pathlib
import socket
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    UnprocessableEntity,
    UnsupportedMediaType,
)
from werkzeug.routing import Map, Rule
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from trainer import predict
from trainer.errors import DataError, UsageError
from trainer.process import command_line

USAGE = "python -m trainer.draw --model_dir DIR [--port PORT]"
HOST, PORT = "127.0.0.1", 8028
MAX_BODY = 1 << 20  # bytes; the page sends some 3 kB
MAX_PIXELS = 1 << 20  # the page sends 176 x 176

_ROUTES = Map(
    [
        Rule("/", endpoint="page.html", methods=["GET"]),
        Rule("/style.css", endpoint="style.css", methods=["GET"]),
        Rule("/script.js", endpoint="script.js", methods=["GET"]),
        Rule("/read", endpoint="read", methods=["POST"]),
    ]
)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    # The page loads its own style and script, and nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Request(Request):
    max_content_length = MAX_BODY
    # DNS rebinding: a foreign page whose name resolves to 127.0.0.1 still sends its own name.
    trusted_hosts = ("localhost", "127.0.0.1", "[::1]")


class _Handler(WSGIRequestHandler):
    timeout = 30  # seconds: a connection without a byte for so long is closed

    def log_request(self, *_: Any) -> None:
        """Logs no requests: a line for each stroke would bury the address."""

    def log_error(self, *_: Any) -> None:
        """Logs no malformed requests."""


class Application:
    """The WSGI application: the page, and `POST /read` for its drawings.

    `/read` takes a PNG or JPEG image of at most `MAX_PIXELS` and answers JSON: `digit`,
    `probabilities` (of 0 to 9) and `seen`, the 28 rows of the image that the model got, 0 black to
    255 white. Refusals are JSON with one line, `error`.
    """

    def __init__(self, classify: predict.Classifier):
        self._classify = classify
        directory = pathlib.Path(__file__).with_name("draw_page")
        self._page = {path.name: path for path in directory.iterdir()}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = _Request(environ)
        try:
            response = self._answer(request)
        except HTTPException as error:
            body = json.dumps({"error": error.description})
            response = Response(body, error.code, mimetype="application/json")
        response.headers.update(_HEADERS)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if request.origin not in (None, f"http://{request.host}"):
            raise Forbidden("another site's page may not ask; open this one")
        endpoint, _ = _ROUTES.bind_to_environ(request).match()
        if endpoint != "read":
            path = self._page[endpoint]
            return Response(path.read_bytes(), mimetype=_TYPES[path.suffix])
        if request.mimetype not in ("image/png", "image/jpeg"):
            raise UnsupportedMediaType("send a PNG or JPEG image, with its Content-Type")
        body = json.dumps(self._read(request.get_data()))
        return Response(body, mimetype="application/json")

    def _read(self, image: bytes) -> dict[str, Any]:
        from trainer import picture

        try:
            digit = picture.read_digit(io.BytesIO(image), max_pixels=MAX_PIXELS)
        except DataError as error:
            raise UnprocessableEntity(f"the image {error}") from error
        classes, probabilities = self._classify(digit[None])
        return {
            "digit": int(classes[0]),
            "probabilities": [round(float(share), 6) for share in probabilities[0]],
            "seen": digit.tolist(),
        }


def _listen(port: int) -> socket.socket:
    """Binds the port before a model is loaded; werkzeug answers a taken one with an exit of its
    own.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(
            f"--port={port} cannot be had ({error.strerror}); give another one, 0 for any free one"
        ) from error


def run(argv: Sequence[str]) -> int:
    """Serves the page as the command line `argv` says until Ctrl-C; returns the exit code."""
    values = command_line.flag_values()
    flags.DEFINE_string("model_dir", None, predict.MODEL_DIR, flag_values=values)
    port_help = "on this machine's loopback address; 0 takes any free one"
    flags.DEFINE_integer("port", PORT, port_help, 0, 65535, flag_values=values)
    summary = "Opens a local page to draw a digit on and see what an exported model reads."
    words = command_line.parse(argv, values, summary=summary, usage=USAGE)
    if words is None:
        return 0
    if words:
        raise UsageError(f"unexpected argument {words[0]!r}; usage: {USAGE}")
    if not values.model_dir:
        raise UsageError(f"--model_dir is missing; usage: {USAGE}")
    export = predict.find_export(values.model_dir)
    with _listen(values.port) as listener:
        import numpy as np

        classify = predict.load_classifier(export)
        classify(np.zeros((1, 28, 28), np.uint8))  # the first call traces, a hundred times as long
        port, fd = listener.getsockname()[1], listener.fileno()
        app = Application(classify)
        server = make_server(HOST, port, app, True, request_handler=_Handler, fd=fd)
        where = f"http://{HOST}:{port}/ for {command_line.printable(export)}"
        print(f"draw at {where}; Ctrl-C ends it", flush=True)
        server.serve_forever()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`run` with expected failures as one line on standard error; returns the exit code."""
    return command_line.main(run, argv)


if __name__ == "__main__":
    sys.exit(main())
