"""What a person reads during a run: a live line on a terminal, one clean line an epoch in a log.

Apart from the job so that what is said and how it is shown are two things.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TextIO


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun: `1 epoch`, `5 epochs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Console:
    """Prints lines on `out`, warnings on `err`, and on a terminal a last line that is redrawn.

    A reader that has left, or a disk that is full, does not end the run: it goes on unseen.

    Args:
      out: by default the process's standard output.
      err: by default its standard error.
      quiet: print nothing but warnings, as all workers but the chief do.
    """

    def __init__(
        self, *, out: TextIO | None = None, err: TextIO | None = None, quiet: bool = False
    ):
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._quiet = quiet or self._out is None  # a process started with its output closed
        self._live = not self._quiet and self._out.isatty()
        self._drawn = False

    def line(self, text: str = "") -> None:
        """Prints a line that stays."""
        if not self._quiet:
            self._clear()
            self._write(self._out, text + "\n")

    def warn(self, text: str) -> None:
        """Prints a line, or several, on standard error."""
        self._clear()
        if self._err is not None:
            self._write(self._err, text + "\n")

    def progress(self, share: float, text: str) -> None:
        """Redraws the live line, a bar filled to `share` and `text`, if this is a terminal."""
        if self._live:
            filled = int(share * 24)
            bar = "━" * filled + "╸" * (filled < 24) + " " * (23 - filled)
            width = shutil.get_terminal_size().columns - 1
            self._write(self._out, f"\r\x1b[2K{bar} {text}"[: width + 5])
            self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._write(self._out, "\r\x1b[2K")
            self._drawn = False

    def _write(self, stream: TextIO, text: str) -> None:
        encoding = stream.encoding or "utf-8"
        try:
            stream.write(text.encode(encoding, "replace").decode(encoding))
            stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            if stream is self._out:
                self._quiet, self._live = True, False
            self._drop_buffered(stream)

    def _drop_buffered(self, stream: TextIO) -> None:
        """Keeps Python from failing, at its exit, over what could not be written."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
