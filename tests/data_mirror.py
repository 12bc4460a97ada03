"""What the tests of `trainer.data` share: small data sets, and a web server that fails on
request.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import pathlib
import re
import socket
import threading
from collections.abc import Iterator

import numpy as np

from trainer.data.catalog import FILE_NAMES, File, Published

NOT_A_FILE = b"<html>Log in to this network first</html>"


def digits(seed: int, train: int = 12, test: int = 5) -> tuple[np.ndarray, ...]:
    """Returns four arrays as a data set has them, random and different for every seed."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(0, high, shape, dtype=np.uint8)
        for n in (train, test)
        for high, shape in ((256, (n, 28, 28)), (10, (n,)))
    )


def idx_bytes(array: np.ndarray, magic: int | None = None) -> bytes:
    """Returns an array of bytes in the IDX format."""
    header = np.array([magic or 0x0800 + array.ndim, *array.shape], ">u4")
    return header.tobytes() + array.tobytes()


def gz_files(arrays: tuple[np.ndarray, ...]) -> dict[str, bytes]:
    """Returns a data set as it is published: four gzip files by name."""
    return {
        f"{name}.gz": gzip.compress(idx_bytes(array), mtime=0)
        for name, array in zip(FILE_NAMES, arrays, strict=True)
    }


def write(directory: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    """Writes files into a directory, which is made, and returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def publish(files: dict[str, bytes], mirrors: list[str]) -> Published:
    """Returns what `trainer.data.catalog` would say of such files."""
    return Published(
        title="MNIST",
        files=tuple(
            File(name, len(content), hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        ),
        mirrors=tuple(mirrors),
        torchvision="MNIST",
        keras="",
    )


class Mirror:
    """A web server on loopback.

    `faults` says for a file name what goes wrong: one fault for good, or a list of which each GET
    takes one. `gets` are the GET requests so far, as (file name, Range header or None).
    """

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.faults: dict[str, str | list[str]] = {}
        self.gets: list[tuple[str, str | None]] = []
        self.sent = 0  # bytes of bodies
        self.release = threading.Event()  # ends what stalls
        self.redirect_to = ""
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):  # the client has left
                    mirror._answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Frees what stalls, and stops."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.rsplit("/", 1)[-1]
        asked = request.headers.get("Range")
        self.gets.append((name, asked))
        fault = self.faults.get(name, "")
        if isinstance(fault, list):
            fault = fault.pop(0) if fault else ""
        body = self.files[name]
        if fault in ("404", "503"):
            request.send_error(int(fault))
            return
        if fault == "redirect":
            request.send_response(302)
            request.send_header("Location", self.redirect_to + name)
            request.end_headers()
            return
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "html":
            body = NOT_A_FILE
        start = 0
        if asked and fault != "ignores ranges":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            shown = start + 1 if fault == "wrong range" else start
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        rest = body[start:]
        if fault == "endless":  # no length, and it never stops
            request.end_headers()
            while True:
                request.wfile.write(bytes(1 << 16))
                self.sent += 1 << 16
        length = {"announces more": len(rest) + 1, "announces less": len(rest) - 1}.get(fault)
        request.send_header("Content-Length", str(length or len(rest)))
        request.end_headers()
        if fault in ("cuts", "stalls"):
            request.wfile.write(rest[: len(rest) // 2])
            if fault == "stalls":
                self.release.wait()
            return
        request.wfile.write(rest)
        self.sent += len(rest)


@contextlib.contextmanager
def mirrors(*contents: dict[str, bytes]) -> Iterator[list[Mirror]]:
    """Runs one mirror for each set of files."""
    running = [Mirror(files) for files in contents]
    try:
        yield running
    finally:
        for mirror in running:
            mirror.close()


def closed_port() -> str:
    """Returns the URL of a port on loopback at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Runs a server that accepts connections and never says a word, and gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
