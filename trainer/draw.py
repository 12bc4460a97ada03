"""Serves a page to draw a digit on and see what an exported model reads: `python -m trainer.draw`.

The page is in `draw_page/`. A drawing is read as `trainer.predict` reads an image file.
"""

import io
import json
import logging
import pathlib
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags
from werkzeug.exceptions import HTTPException, abort
from werkzeug.serving import make_server
from werkzeug.utils import send_from_directory
from werkzeug.wrappers import Request, Response

from trainer import picture, predict
from trainer.errors import DataError, UsageError
from trainer.process import command_line

USAGE = "python -m trainer.draw --model_dir DIR [--port PORT]"
HOST, PORT = "127.0.0.1", 8028
MAX_BODY = 1 << 20  # bytes; the page sends some 3 kB

_PAGE = pathlib.Path(__file__).with_name("draw_page")
_HEADERS = {
    # The page loads its own style and script, and nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(classify: predict.Classifier) -> Callable[..., Iterable[bytes]]:
    """Returns the WSGI application: the page, and `POST /read` for its drawings.

    `/read` takes a PNG or JPEG image and answers JSON: what `predict_digit` returns, and `seen`,
    the image that the model got, 28 rows of 0 black to 255 white. Refusals are JSON: `error`.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = MAX_BODY
        # DNS rebinding: a foreign page whose name resolves to 127.0.0.1 still sends its own name.
        request.trusted_hosts = ["localhost", HOST]
        try:
            response = _answer(request, classify)
        except HTTPException as error:
            response = _json({"error": error.description}, error.code)
        response.headers.update(_HEADERS)
        return response(environ, start_response)

    return answer


def _answer(request: Request, classify: predict.Classifier) -> Response:
    if request.origin not in (None, f"http://{request.host}"):  # aborts if that is not trusted
        abort(403, "another site's page may not ask; open this one")
    if (request.method, request.path) != ("POST", "/read"):
        return send_from_directory(_PAGE, request.path[1:] or "page.html", request.environ)
    try:
        digit = picture.read_digit(io.BytesIO(request.get_data()))
    except DataError as error:
        abort(422, f"the image {error}")
    return _json(predict.predict_digit(classify, digit) | {"seen": digit.tolist()})


def _json(value: dict[str, Any], status: int | None = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def run(argv: Sequence[str]) -> int:
    """Serves the page as the command line `argv` says until Ctrl-C."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, predict.MODEL_DIR, flag_values=values)
    port_help = "on this machine's loopback address; 0 takes any free one"
    flags.DEFINE_integer("port", PORT, port_help, 0, 65535, flag_values=values)
    summary = "Opens a local page to draw a digit on and see what an exported model reads."
    words = command_line.parse(argv, values, usage=f"{summary}\n\n  {USAGE}\n")
    if words is None:
        return 0
    if words or not values.model_dir:
        raise UsageError(f"--model_dir is needed, and flags alone; usage: {USAGE}")
    export = predict.find_export(values.model_dir)
    try:
        listener = socket.create_server((HOST, values.port))  # werkzeug exits if it is taken
    except OSError as error:
        raise UsageError(
            f"--port={values.port} cannot be had ({error.strerror}); give another one, 0 for any"
        ) from error
    app = application(predict.load_classifier(export))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each stroke
    port = listener.getsockname()[1]
    server = make_server(HOST, port, app, threaded=True, fd=listener.fileno())
    where = f"http://{HOST}:{port}/ for {command_line.printable(export)}"
    print(f"draw at {where}; Ctrl-C ends it", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    command_line.leave(command_line.main(run))
