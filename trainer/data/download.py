"""Downloading published files: whole, by SHA-256, one process at a time."""

from __future__ import annotations

import os
import pathlib
import socket
import sys
from collections.abc import Callable, Sequence

import filelock
import pooch
import requests
import urllib3

from trainer.data.catalog import File
from trainer.errors import DataError, NetworkError

_CONNECT_TIMEOUT_S = 2.0
_READ_TIMEOUT_S = 10.0  # without a byte
_LOCK_TIMEOUT_S = 1800.0  # 12 MB at 7 kB/s


def fetch(
    directory: pathlib.Path,
    files: Sequence[File],
    mirrors: Sequence[str],
    notify: Callable[[str], None],
    *,
    read_timeout_s: float = _READ_TIMEOUT_S,
) -> None:
    """Downloads those of `files` that `directory` does not hold byte for byte as published.

    A file gets its name there once its SHA-256 is right. The directory is made if it is not there.
    The mirrors, base URLs with the closing slash, are tried one after the other. `notify` gets a
    line when a download starts.

    Raises:
      OSError: the directory cannot be written.
      NetworkError: no mirror brings the files, and one may do so later.
      DataError: all mirrors answer, and none has the files.
    """
    pooch.get_logger().setLevel("WARNING")
    directory.mkdir(parents=True, exist_ok=True)
    faults = {mirror: _connection_fault(mirror) for mirror in mirrors}
    reachable = [mirror for mirror in mirrors if not faults[mirror]]
    if not reachable:
        raise NetworkError(f"no mirror can be reached ({_joined(faults)})")
    try:
        with filelock.FileLock(directory / ".download.lock", timeout=_LOCK_TIMEOUT_S):
            missing = [file for file in files if not file.matches(directory / file.name)]
            if missing:
                size = sum(file.size for file in missing) / 1e6
                notify(f"downloading {size:.1f} MB from {reachable[0]} to {directory}")
            for file in missing:
                _fetch_file(directory, file, reachable, read_timeout_s)
    except filelock.Timeout as error:
        raise NetworkError(f"another process does not finish downloading to {directory}") from error


def _fetch_file(
    directory: pathlib.Path, file: File, mirrors: Sequence[str], read_timeout_s: float
) -> None:
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr is not None and sys.stderr.isatty(),
        timeout=(_CONNECT_TIMEOUT_S, read_timeout_s),
        headers={"Accept-Encoding": "identity"},  # or requests might unpack the file
    )
    faults, error_class = {}, DataError
    for mirror in mirrors:
        registry = pooch.create(
            directory, mirror, registry={file.name: file.sha256}, retry_if_failed=1
        )
        try:
            path = registry.fetch(file.name, downloader=downloader)
            os.chmod(path, 0o644)  # pooch's temporary files are private
            return
        except requests.RequestException as error:
            status = None if error.response is None else error.response.status_code
            faults[mirror] = f"answers {status}" if status else type(error).__name__
            if status is None or status == 429 or status >= 500:
                error_class = NetworkError
        except ValueError:
            faults[mirror] = "has another file: its SHA-256 differs"
    raise error_class(f"{file.name} cannot be downloaded ({_joined(faults)})")


def _connection_fault(url: str) -> str:
    """Returns why no connection to a mirror, or to the proxy before it, can be made; else "".

    Tries one address. The HTTP client tries each of the up to twenty of a host, which takes a
    minute behind a firewall that drops packets.
    """
    try:
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        target = urllib3.util.parse_url(proxy or url)
        port = target.port or (443 if target.scheme == "https" else 80)
        found = socket.getaddrinfo((target.host or "").strip("[]"), port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.settimeout(_CONNECT_TIMEOUT_S)
            probe.connect(address)
    except (OSError, ValueError) as error:  # ValueError: a malformed proxy setting
        return getattr(error, "strerror", None) or str(error)
    return ""


def _joined(faults: dict[str, str]) -> str:
    return "; ".join(f"{mirror}: {fault}" for mirror, fault in faults.items())
