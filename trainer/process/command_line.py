"""What the commands share: flags, `--help`, an error as one line, the exit code."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags

from trainer.errors import Interrupted, TrainerError, UsageError
from trainer.process.startup import open_standard_streams

# What absl hands on in Python's words.
_PLAIN = {
    r"invalid literal for int\(\) .*": "it takes a whole number",
    r"could not convert string to float: .*": "it takes a number",
    r"\('Non-boolean argument.*": "it takes true or false",
    r"ERROR:: Unable to open flagfile: \[.*?\] ": "--flagfile: ",
}


def parse(argv: Sequence[str], values: flags.FlagValues, *, usage: str) -> list[str] | None:
    """Sets `values` from `argv`, the program first, and returns its words that are no flags.

    Returns None for `--help`, which is then printed. Raises `UsageError` for a wrong flag.
    """
    if not {"-h", "-?", "-help", "--help", "--helpshort", "--helpfull"}.isdisjoint(argv[1:]):
        flagfile = "  --flagfile: read flags from this file, one a line"
        print(usage.rstrip(), values.get_help(include_special_flags=False), flagfile, sep="\n")
        return None
    try:
        return values(list(argv))[1:]
    except RecursionError:  # absl looks for flags of similar names, letter by letter
        raise UsageError("a flag has far too long a name; --help lists the flags") from None
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        for pattern, plain in _PLAIN.items():
            line = re.sub(pattern, plain, line)
        raise UsageError(f"{line}; --help lists the flags") from None


def printable(text: str) -> str:
    """Returns `text` on one line: control characters and undecodable bytes become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def error_line(error: TrainerError) -> str:
    """Returns the line for standard error; a requested stop is not called an error."""
    return ("" if isinstance(error, Interrupted) else "error: ") + printable(str(error))


def main(run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of `run(argv)`; prints its errors on standard error.

    If `argv` is None, it is the process's, whose standard streams are opened first.
    """
    if argv is None:
        open_standard_streams()
        argv = sys.argv
    try:
        code = run(argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of standard output (`| head`) has left
        return 141
    except TrainerError as error:
        message, code = error_line(error) + "\n", error.exit_code
    except Exception:
        message, code = traceback.format_exc(), 1
    with contextlib.suppress(OSError):  # standard error cannot be written either
        sys.stderr.write(message)
    return code


def leave(code: int) -> NoReturn:
    """Ends the process: TensorFlow's own way out takes time, and waits for other workers."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by whoever read it
            stream.flush()
    os._exit(code)
