"""What a run prints: lines, warnings and, on a terminal, a progress bar that is redrawn."""

import os
import shutil
import sys
from typing import TextIO


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun: `1 epoch`, `5 epochs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Console:
    """Prints on `out` unless `quiet`, warnings on `err`; a closed pipe does not end the run."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None, quiet: bool = False):
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._quiet, self._bar_drawn = quiet, False

    def line(self, text: str = "") -> None:
        """Prints a line that stays."""
        self._print(self._out, text + "\n")

    def warn(self, text: str) -> None:
        """Prints a line, or several, on `err`."""
        self._print(self._err, text + "\n")

    def progress(self, share: float, text: str) -> None:
        """Redraws the bar, filled to `share`, with `text` behind it, if `out` is a terminal."""
        if self._out.isatty():
            width = shutil.get_terminal_size().columns - 3  # a Ctrl-C adds two, ^C
            length = min(24, max(4, width - len(text) - 1))
            bar = ("━" * int(share * length) + "╸").ljust(length)[:length]
            self._print(self._out, f"{bar} {text}"[:width])
            self._bar_drawn = True

    def clear(self) -> None:
        """Removes the bar, so that what others print begins a line."""
        self._print(self._out, "")

    def _print(self, stream: TextIO, text: str) -> None:
        if self._bar_drawn:
            self._bar_drawn = False
            self._print(self._out, "\r\x1b[2K")
        if self._quiet and stream is self._out:
            return
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # what is buffered would fail again, at the latest at the exit
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), stream.fileno())
