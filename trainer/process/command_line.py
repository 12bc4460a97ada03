"""What the entries that only look at runs share: flags in, an exit code out, an expected failure as
one line.

Apart from each of them so that a mistake is answered alike by all.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags

from trainer.errors import Interrupted, TrainerError, UsageError


def flag_values() -> flags.FlagValues:
    """Returns flags of which `--help` is defined."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show this help", short_name="?", flag_values=values)
    return values


def parse(
    argv: Sequence[str], values: flags.FlagValues, *, summary: str, usage: str
) -> list[str] | None:
    """Sets `values` from the command line and returns the words that are no flags.

    Returns None if `--help` was asked for; it is printed then, with `summary` and `usage`. Raises
    `UsageError` for a flag that is unknown or has a wrong value.
    """
    try:
        words = values(list(argv))[1:]
    except flags.Error as error:
        raise UsageError(f"{refusal(error)}; see --help") from error
    if values.help:
        print(f"{summary}\n\n  {usage}\n")
        print(values.get_help(include_special_flags=False))
        return None
    return words


def refusal(error: Exception) -> str:
    """Returns what absl says of a wrong flag, on one line and not in Python's words."""
    line = " ".join(str(error).split())
    line = re.sub(r"invalid literal for int\(\) .*", "it takes a whole number", line)
    return re.sub(r"could not convert string to float: .*", "it takes a number", line)


def printable(text: str) -> str:
    """Returns `text` on one line: control characters and bytes that are no text become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(error: TrainerError) -> str:
    """Returns the line for standard error; a stop that somebody asked for is no error there."""
    line = printable(str(error))
    return line if isinstance(error, Interrupted) else f"error: {line}"


def main(run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of `run(argv)`, an expected failure being one line on standard error.

    Without `argv` it is the process's.
    """
    if argv is None:
        argv = sys.argv
        for stream in (sys.stdout, sys.stderr):
            # A file's name may not fit the terminal's encoding.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(argv)
        sys.stdout.flush()
        return code
    except TrainerError as error:
        print(told(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        # Keeps Python from failing again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
