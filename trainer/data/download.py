"""Fetching published files: checked, resumed, one process at a time, over within seconds offline.

Apart from the search for local copies so that everything about the network is in one place.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import queue
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import filelock

from trainer.data.catalog import File
from trainer.errors import DataError

_OFFLINE_AFTER_S = 4.0  # no mirror has answered by then: there is no network
_ANSWER_TIMEOUT_S = 10.0  # for the headers of an answer, once the network is known to be there
_STALL_TIMEOUT_S = 10.0  # without a byte
_SLOWEST_BYTES_PER_S = 8_000  # an average below this is as good as stalled
_TRIES_PER_MIRROR = 5  # a mirror is tried again as long as each try brought bytes
_LOCK_TIMEOUT_S = 1800.0  # more than a download takes at the slowest speed allowed


class UnwritableError(DataError):
    """The directory to download into cannot be written."""


class _MirrorError(Exception):
    """Why one try at one mirror failed, in words that follow the mirror's name."""


def fetch(
    directory: str | os.PathLike,
    files: Sequence[File],
    mirrors: Sequence[str],
    *,
    notify: Callable[[str], None],
    stall_timeout_s: float = _STALL_TIMEOUT_S,
) -> None:
    """Sees to it that `directory` holds every one of `files`, byte for byte as published.

    A file that is there with the right checksum is left alone, one with another is replaced. Each
    is written under a temporary name beside its own and renamed once its checksum is right. What an
    interrupted download left under the temporary name is continued: by a range request, whose
    result the SHA-256 of the whole file vouches for (an ETag would only say that one mirror has not
    changed), and from the start if that comes out wrong.

    Args:
      directory: made if it is not there.
      files: what to fetch.
      mirrors: base URLs with the closing slash, each tried until it brings nothing new.
      notify: gets a line when a download starts and when it has to wait for that of another
        process.
      stall_timeout_s: a mirror that sends nothing for so long is given up.

    Raises:
      UnwritableError: the directory cannot be written.
      DataError: no mirror delivers. If none so much as answers, this is known within 5 seconds.
    """
    directory = pathlib.Path(directory)
    try:  # before the network is asked, which may take seconds
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UnwritableError(f"{directory} is not a directory") from error
    except OSError as error:
        raise _unwritable(directory, error) from error
    mirrors = _from_first_that_answers(mirrors, files[0].name)
    with _locked(directory, notify):
        missing = [file for file in files if not file.matches(directory / file.name)]
        if missing:
            size = sum(file.size for file in missing) / 1e6
            notify(f"downloading {size:.1f} MB from {_host(mirrors[0])} to {directory}")
        for file in missing:
            _fetch_file(directory, file, mirrors, stall_timeout_s)


def _from_first_that_answers(mirrors: Sequence[str], name: str) -> list[str]:
    """The mirrors less those at the head of the list that do not answer at all.

    Asked before the lock is taken: offline, processes that start together all give up at the same
    time. Any answer counts, what it says is seen later.
    """
    deadline = time.monotonic() + _OFFLINE_AFTER_S
    silent = []
    for index, mirror in enumerate(mirrors):
        share = (deadline - time.monotonic()) / (len(mirrors) - index)
        request = urllib.request.Request(mirror + name, method="HEAD")
        try:
            _open(request, timeout_s=share, stall_timeout_s=share).close()
        except urllib.error.HTTPError as answer:
            answer.close()
        except OSError as error:
            silent.append(f"{_host(mirror)}: {_reason(error)}")
            continue
        return list(mirrors[index:])
    raise DataError(f"no mirror answers ({'; '.join(silent)})")


@contextlib.contextmanager
def _locked(directory: pathlib.Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Holds the directory's lock, which ends with the process however that ends. The empty lock
    file stays.
    """
    try:
        lock = filelock.FileLock(directory / ".download.lock")
        try:
            lock.acquire(timeout=0.5)
        except filelock.Timeout:
            notify(f"waiting for another process that downloads to {directory}")
            lock.acquire(timeout=_LOCK_TIMEOUT_S)
    except filelock.Timeout:
        raise DataError(f"another process has kept {directory} locked for too long") from None
    except OSError as error:
        raise _unwritable(directory, error) from error
    try:
        yield
    finally:
        lock.release()


def _fetch_file(
    directory: pathlib.Path, file: File, mirrors: Sequence[str], stall_timeout_s: float
) -> None:
    partial = directory / f".{file.name}.partial"
    failures = []
    for mirror in mirrors:
        for _ in range(_TRIES_PER_MIRROR):
            before = _size(partial)
            try:
                _transfer(mirror + file.name, file, partial, stall_timeout_s)
            except _MirrorError as error:
                failure = f"{_host(mirror)} {error}"
            else:
                if file.matches(partial):
                    _publish(partial, directory / file.name)
                    return
                failure = f"{_host(mirror)} has another file: its SHA-256 differs"
                _discard(partial)
            after = _size(partial)
            # Another try pays if this one brought bytes, or dropped what could not be continued.
            if not (after > before or after == 0 < before):
                break
        failures.append(failure)
    raise DataError(f"{file.name} cannot be downloaded ({'; '.join(failures)})")


def _transfer(url: str, file: File, partial: pathlib.Path, stall_timeout_s: float) -> None:
    """Brings `partial` to the full size, from where it ends if the mirror knows ranges.

    Raises `_MirrorError`, after dropping `partial` if the mirror could not continue it.
    """
    offset = _size(partial)
    if offset >= file.size:  # all that is missing is the check, which finds a file of another size
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = _open(request, timeout_s=_ANSWER_TIMEOUT_S, stall_timeout_s=stall_timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the mirror's file ends before ours
            _discard(partial)
        raise _MirrorError(f"answers {error.code} {_one_line(error.reason)}") from error
    except OSError as error:
        raise _MirrorError(f"fails ({_reason(error)})") from error
    with response:
        if response.status == 206:
            content_range = response.headers.get("Content-Range", "")
            if not re.fullmatch(rf"bytes {offset}-\d+/({file.size}|\*)", content_range):
                _discard(partial)
                raise _MirrorError(f"answers with another range ({content_range!r})")
        elif response.status == 200:
            offset = 0  # it does not know ranges, or not for this file
        else:
            raise _MirrorError(f"answers {response.status} {response.reason}")
        length = response.headers.get("Content-Length")
        if length is not None and length != str(file.size - offset):
            raise _MirrorError(f"announces {length} bytes, not {file.size - offset}")
        _save(response, file, partial, offset)


def _save(
    response: http.client.HTTPResponse, file: File, partial: pathlib.Path, offset: int
) -> None:
    """Writes the body to `partial` from `offset` on, and not beyond the published size."""
    try:
        with open(partial, "ab" if offset else "wb") as output, _Progress(file, offset) as progress:
            for chunk in _body(response, file.size - offset):
                output.write(chunk)
                progress.advance(len(chunk))
    except OSError as error:
        raise _unwritable(partial, error) from error


def _body(response: http.client.HTTPResponse, size: int) -> Iterator[bytes]:
    """The next `size` bytes of the body, as they come. Raises `_MirrorError` if they do not."""
    deadline = time.monotonic() + 30 + size / _SLOWEST_BYTES_PER_S
    left = size
    while left:
        try:
            chunk = response.read1(min(left, 1 << 16))
        except (OSError, http.client.HTTPException) as error:
            raise _MirrorError(f"broke off {left:,} bytes early ({_reason(error)})") from error
        if not chunk:
            raise _MirrorError(f"broke off {left:,} bytes early")
        if time.monotonic() > deadline:
            raise _MirrorError(f"is too slow, {left:,} bytes are left")
        left -= len(chunk)
        yield chunk


def _open(
    request: urllib.request.Request, *, timeout_s: float, stall_timeout_s: float
) -> http.client.HTTPResponse:
    """Opens a URL, and gives up after `timeout_s` whatever it hangs in. Raises `OSError`.

    A socket's timeout does not cover the look-up of the name, and counts anew for each address, the
    handshake and each redirect. So this runs in a thread, which is left behind if it takes longer.
    """
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put(urllib.request.urlopen(request, timeout=stall_timeout_s))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=work, daemon=True, name="open-url").start()
    try:
        result = outcome.get(timeout=max(timeout_s, 0))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, OSError):
        raise result
    if isinstance(result, Exception):  # of any kind, from a strange redirect or proxy setting
        raise ConnectionError(_reason(result)) from result
    return result


def _reason(error: Exception) -> str:
    """An error of the network in a few words, on one line."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return _one_line(getattr(error, "strerror", None) or error) or type(error).__name__


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc or url


def _publish(partial: pathlib.Path, final: pathlib.Path) -> None:
    """Gives a complete file its name, on the disk before the name is."""
    try:
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, final)
        directory = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _unwritable(final, error) from error


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _discard(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _unwritable(path: pathlib.Path, error: Exception) -> UnwritableError:
    return UnwritableError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")


class _Progress:
    """A bar on standard error that grows in place; nothing where standard error is not a terminal.

    That is asked anew at each step, because `quiet_stderr` takes it away for a
    while.
    """

    def __init__(self, file: File, done: int):
        self._file, self._done, self._next_s = file, done, 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._show("")

    def advance(self, size: int) -> None:
        self._done += size
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + 0.1
            bar = ("#" * (24 * self._done // self._file.size)).ljust(24, ".")
            megabytes = f"{self._done / 1e6:.1f} of {self._file.size / 1e6:.1f} MB"
            self._show(f"{self._file.name} [{bar}] {megabytes}")

    def _show(self, line: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]}\033[K", end="", file=sys.stderr, flush=True)
