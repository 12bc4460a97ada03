"""Serves a page to draw a digit on and see what an exported model reads: `python -m trainer.draw`.

The page is in `draw_page/`. A drawing is read as `trainer.predict` reads an image file.
"""

from __future__ import annotations

import io
import json
import pathlib
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags
from werkzeug.exceptions import HTTPException, abort
from werkzeug.routing import Map, Rule
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import send_from_directory
from werkzeug.wrappers import Request, Response

from trainer import predict
from trainer.errors import DataError, UsageError
from trainer.process import command_line

USAGE = "python -m trainer.draw --model_dir DIR [--port PORT]"
HOST, PORT = "127.0.0.1", 8028
MAX_BODY = 1 << 20  # bytes; the page sends some 3 kB
MAX_PIXELS = 1 << 20  # the page sends 176 x 176

_PAGE = pathlib.Path(__file__).with_name("draw_page")
_ROUTES = Map([Rule("/read", endpoint="read", methods=["POST"])])
for _path, _file in {
    "/": "page.html",
    "/style.css": "style.css",
    "/script.js": "script.js",
}.items():
    _ROUTES.add(Rule(_path, endpoint=_file, methods=["GET"]))
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

    def log(self, *_: Any) -> None:
        """Logs no requests: a line for each stroke would bury the address."""


def application(classify: predict.Classifier) -> Callable[..., Iterable[bytes]]:
    """Returns the WSGI application: the page, and `POST /read` for its drawings.

    `/read` takes a PNG or JPEG image and answers JSON: what `predict_digit` returns, and `seen`,
    the image that the model got, 28 rows of 0 black to 255 white. Refusals are JSON: `error`.
    """

    @_Request.application
    def answer(request: _Request) -> Response:
        try:
            response = _answer(request, classify)
        except HTTPException as error:
            response = _json({"error": error.description}, error.code)
        response.headers.update(_HEADERS)
        return response

    return answer


def _answer(request: _Request, classify: predict.Classifier) -> Response:
    from trainer import picture

    if request.origin not in (None, f"http://{request.host}"):
        abort(403, "another site's page may not ask; open this one")
    endpoint, _ = _ROUTES.bind_to_environ(request.environ).match()
    if endpoint != "read":
        return send_from_directory(_PAGE, endpoint, request.environ)
    if request.mimetype not in ("image/png", "image/jpeg"):
        abort(415, "send a PNG or JPEG image, with its Content-Type")
    try:
        digit = picture.read_digit(io.BytesIO(request.get_data()), MAX_PIXELS)
    except DataError as error:
        abort(422, f"the image {error}")
    return _json(predict.predict_digit(classify, digit) | {"seen": digit.tolist()})


def _json(value: dict[str, Any], status: int | None = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def _listen(port: int) -> socket.socket:
    """Binds the port here, because werkzeug exits where it is taken."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(
            f"--port={port} cannot be had ({error.strerror}); give another one, 0 for any free one"
        ) from error


def run(argv: Sequence[str]) -> int:
    """Serves the page as the command line `argv` says until Ctrl-C; returns the exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, predict.MODEL_DIR, flag_values=values)
    port_help = "on this machine's loopback address; 0 takes any free one"
    flags.DEFINE_integer("port", PORT, port_help, 0, 65535, flag_values=values)
    summary = "Opens a local page to draw a digit on and see what an exported model reads."
    words = command_line.parse(argv, values, usage=f"{summary}\n\n  {USAGE}\n")
    if words is None:
        return 0
    if words:
        raise UsageError(f"unexpected argument {words[0]!r}; usage: {USAGE}")
    if not values.model_dir:
        raise UsageError(f"--model_dir is missing; usage: {USAGE}")
    export = predict.find_export(values.model_dir)
    with _listen(values.port) as listener:
        app = application(predict.load_classifier(export))
        port, fd = listener.getsockname()[1], listener.fileno()
        server = make_server(HOST, port, app, True, False, _Handler, fd=fd)
        where = f"http://{HOST}:{port}/ for {command_line.printable(export)}"
        print(f"draw at {where}; Ctrl-C ends it", flush=True)
        server.serve_forever()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`run` with expected failures as one line on standard error; returns the exit code."""
    return command_line.main(run, argv)


if __name__ == "__main__":
    command_line.leave(main())
