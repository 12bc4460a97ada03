"""Serves a page to write numbers on and see what an exported model reads: `python -m trainer.draw`.

The page is in `draw_page/`. A drawing is read as `trainer.predict` reads an image file.
"""

import contextlib
import io
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags
from werkzeug.exceptions import HTTPException, abort
from werkzeug.serving import WSGIRequestHandler, get_interface_ip, make_server
from werkzeug.utils import send_from_directory
from werkzeug.wrappers import Request, Response

from trainer import picture, predict
from trainer.errors import DataError, UsageError
from trainer.process import command_line
from trainer.run import files

USAGE = "python -m trainer.draw --model_dir DIR [--host ADDRESS] [--port PORT]"
HOST, PORT = "127.0.0.1", 8028
MAX_BODY = 1 << 20  # bytes; the page sends some 10 kB

_PAGE = pathlib.Path(__file__).with_name("draw_page")
_HEADERS = {
    # The page loads its own style and script, and nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def describe(export: str) -> dict[str, Any]:
    """Returns `model`, `dataset` and `test_accuracy` of the run that ended in `export`, if any."""
    versions, step = os.path.split(export.rstrip("/"))
    with contextlib.suppress(Exception):  # none, or a damaged file: the page works without
        metrics = json.loads(files.read_text(files.join(os.path.dirname(versions), "metrics.json")))
        if str(metrics["steps"]) == step:
            return {name: metrics[name] for name in ("model", "dataset", "test_accuracy")}
    return {}


def application(
    classify: picture.Classify, model: Mapping[str, Any], host: str
) -> Callable[..., Iterable[bytes]]:
    """Returns the WSGI application: the page, `GET /model`, and `POST /read` for its drawings.

    These answer JSON: `model`; `numbers` as `predict.to_json` has them, with fields; or `error`.
    """
    names = [socket.gethostname().lower() + ending for ending in ("", ".local")]

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = MAX_BODY
        # DNS rebinding: a foreign page whose name resolves to this machine sends its own name.
        here = environ["werkzeug.socket"].getsockname()[0]  # the address that was reached
        request.trusted_hosts = ["localhost", HOST, host, here, *names]
        try:
            response = _answer(request, classify, model)
        except HTTPException as error:
            response = _json({"error": error.description}, error.code)
        response.headers.update(_HEADERS)
        return response(environ, start_response)

    return answer


def _answer(request: Request, classify: picture.Classify, model: Mapping[str, Any]) -> Response:
    if request.origin not in (None, f"http://{request.host}"):  # aborts if that is not trusted
        abort(403, "another site's page may not ask; open this one")
    if (request.method, request.path) == ("GET", "/model"):
        return _json(model)
    if (request.method, request.path) != ("POST", "/read"):
        return send_from_directory(_PAGE, request.path[1:] or "page.html", request.environ)
    try:
        image = picture.decode(io.BytesIO(request.get_data()))
    except DataError as error:
        abort(422, f"the image {error}")
    numbers = []
    with contextlib.suppress(DataError):  # shows none
        numbers = picture.read_numbers(image, classify)
    return _json({"numbers": [predict.to_json(number, fields=True) for number in numbers]})


def _json(value: Mapping[str, Any], status: int | None = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


class _Handler(WSGIRequestHandler):
    def make_environ(self) -> dict[str, Any]:
        """Takes what is no URL (`GET http://[::1`) for a path, to which there is no file."""
        try:
            return super().make_environ()
        except ValueError:
            self.path = f"/{self.path}"
            return super().make_environ()

    def log(self, *_: Any) -> None:
        """Prints nothing: a line for each stroke helps nobody."""


def run(argv: Sequence[str]) -> int:
    """Serves the page as the command line `argv` says until Ctrl-C."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, predict.MODEL_DIR, flag_values=values)
    host_help = "address to listen on; 0.0.0.0 lets in a phone, and everyone else in this network"
    flags.DEFINE_string("host", HOST, host_help, flag_values=values)
    flags.DEFINE_integer("port", PORT, "0 takes any free one", 0, 65535, flag_values=values)
    words = command_line.parse(argv, values, usage=f"{__doc__}\n  {USAGE}\n")
    if words or not values.model_dir:
        raise UsageError(f"--model_dir is needed, and flags alone; usage: {USAGE}")
    export = predict.find_export(values.model_dir)
    try:
        listener = socket.create_server((values.host, values.port))  # werkzeug exits if it is taken
    except (OSError, UnicodeError) as error:
        where = f"--host={values.host} --port={values.port}"
        raise UsageError(f"{where} cannot be had ({error}); give others") from error
    app = application(predict.load_classifier(export), describe(export), values.host)
    port, outside = listener.getsockname()[1], get_interface_ip(socket.AF_INET)
    server = make_server(
        values.host, port, app, threaded=True, request_handler=_Handler, fd=listener.fileno()
    )
    hosts = [HOST, outside] if values.host == "0.0.0.0" else [values.host]
    where = ", on a phone at ".join(f"http://{host}:{port}/" for host in hosts)
    print(f"draw at {where} for {command_line.printable(export)}; Ctrl-C ends it", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    command_line.leave(command_line.main(run))
