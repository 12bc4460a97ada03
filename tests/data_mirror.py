"""Small data sets, and a web server that fails on request."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import pathlib
import socket
import threading
from collections.abc import Iterator

import numpy as np

from trainer.data.catalog import FILE_NAMES, Published


def digits(seed: int, train: int = 12, test: int = 5) -> tuple[np.ndarray, ...]:
    """Returns four arrays as a data set has them, random and different for every seed."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(0, high, shape, dtype=np.uint8)
        for n in (train, test)
        for high, shape in ((256, (n, 28, 28)), (10, (n,)))
    )


def idx_bytes(array: np.ndarray) -> bytes:
    """Returns an array of bytes in the IDX format."""
    header = np.array([0x0800 + array.ndim, *array.shape], ">u4")
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
    digests = tuple(hashlib.sha256(content).hexdigest() for content in files.values())
    return Published("MNIST", digests, tuple(mirrors))


class Mirror(http.server.ThreadingHTTPServer):
    """A web server on loopback.

    `faults` maps a file name to what goes wrong with it: one fault for good, or a list of which
    each request takes one. `gets` are the names requested so far.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.files = files
        self.faults: dict[str, str | list[str]] = {}
        self.gets: list[str] = []
        self.release = threading.Event()  # ends what stalls


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.gets.append(name)
        fault = self.server.faults.get(name, "")
        if isinstance(fault, list):
            fault = fault.pop(0) if fault else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        body = b"<html>Log in first</html>" if fault == "html" else self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has left
            self.wfile.write(body[: len(body) // 2] if fault in ("cuts", "stalls") else body)
        if fault == "stalls":
            self.server.release.wait()


@contextlib.contextmanager
def mirrors(*contents: dict[str, bytes]) -> Iterator[list[Mirror]]:
    """Runs one mirror for each set of files."""
    running = [Mirror(files) for files in contents]
    for mirror in running:
        threading.Thread(target=mirror.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield running
    finally:
        for mirror in running:
            mirror.release.set()
            mirror.shutdown()
            mirror.server_close()


def closed_port() -> str:
    """Returns the URL of a port on loopback at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Gives the URL of a server that accepts no connection, as behind a firewall."""
    with contextlib.ExitStack() as full:
        server = full.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):  # as many as the kernel takes before it drops what comes
            client = full.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
