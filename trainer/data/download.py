"""Downloading published files: whole, by SHA-256, one process at a time."""

import os
import pathlib
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence

import filelock
import pooch
import requests

from trainer.data.catalog import FILE_NAMES, Published
from trainer.errors import DataError, NetworkError

_CONNECT_TIMEOUT_S = 2.0
_LOCK_TIMEOUT_S = 1800.0  # 12 MB at 7 kB/s


def fetch(
    directory: pathlib.Path,
    names: Sequence[str],
    published: Published,
    notify: Callable[[str], None],
    *,
    read_timeout_s: float = 10.0,
) -> None:
    """Downloads those of the files `names` that a directory does not hold as published.

    A file gets its name, one of `FILE_NAMES` and `.gz`, once its SHA-256 is right. `notify` gets a
    line when a download starts; a mirror is given up after `read_timeout_s` without a byte, twice.

    Raises `OSError` if the directory cannot be written, `DataError` if all mirrors answer without
    the files, else `NetworkError`.
    """
    pooch.get_logger().setLevel("WARNING")
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {f"{name}.gz": published.sha256[FILE_NAMES.index(name)] for name in names}
    faults: dict[str, Exception] = {}
    try:
        with filelock.FileLock(directory / ".download.lock", timeout=_LOCK_TIMEOUT_S):
            for mirror in published.mirrors:
                try:
                    _check_connection(mirror)
                    notify(f"downloading {published.title} from {mirror} to {directory}")
                    _fetch_from(mirror, directory, wanted, read_timeout_s)
                    return
                except (requests.RequestException, ValueError) as error:  # or the SHA-256 differs
                    faults[mirror] = error
    except filelock.Timeout as error:
        raise NetworkError(f"another process does not finish downloading to {directory}") from error
    # Another try helps if a mirror did not answer, or is in trouble.
    error_class = NetworkError if any(map(_may_pass, faults.values())) else DataError
    reasons = "; ".join(f"{mirror}: {fault}" for mirror, fault in faults.items())
    raise error_class(f"{published.title} cannot be downloaded ({reasons})")


def _fetch_from(
    mirror: str, directory: pathlib.Path, wanted: dict[str, str], read_timeout_s: float
) -> None:
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        timeout=(_CONNECT_TIMEOUT_S, read_timeout_s),
        headers={"Accept-Encoding": "identity"},  # or requests might unpack the file
    )
    files = pooch.create(directory, mirror, registry=wanted, retry_if_failed=1)
    for name in wanted:
        os.chmod(files.fetch(name, downloader=downloader), 0o644)  # pooch makes private files


def _check_connection(url: str) -> None:
    """Raises if the first address does not answer; the client takes a minute for all twenty."""
    target = urllib.parse.urlsplit(url)
    if {target.scheme, "all"} & urllib.request.getproxies().keys():  # it connects to the proxy
        return
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        address = socket.getaddrinfo(target.hostname, port)[0][4]
        socket.create_connection(address[:2], _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise requests.ConnectionError(error) from error


def _may_pass(error: Exception) -> bool:
    if (answer := getattr(error, "response", None)) is None:
        return not isinstance(error, ValueError)
    return answer.status_code == 429 or answer.status_code >= 500
