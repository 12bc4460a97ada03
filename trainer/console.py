"""What a person reads during a run: a live line on a terminal, one clean line an epoch in a log.

Apart from the job so that what is said and how it is shown are two things.
"""

from __future__ import annotations

import shutil
import sys
from typing import TextIO


class Console:
    """Prints lines on `out`, warnings on `err`, and on a terminal a last line that is redrawn.

    Args:
      quiet: print nothing but warnings, as all workers but the chief do.
    """

    def __init__(self, *, out: TextIO = sys.stdout, err: TextIO = sys.stderr, quiet: bool = False):
        self._out, self._err, self._quiet = out, err, quiet
        self._live = out.isatty() and not quiet
        self._drawn = False

    def line(self, text: str = "") -> None:
        """Prints a line that stays."""
        if not self._quiet:
            self._clear()
            self._write(self._out, text + "\n")

    def warn(self, text: str) -> None:
        """Prints a line, or several, on standard error."""
        self._clear()
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
        try:
            stream.write(text)
            stream.flush()
        except (BrokenPipeError, ValueError):  # nobody reads any more; the run goes on
            self._quiet, self._live = True, False
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "replace").decode())
            stream.flush()
