"""What the commands share: flags, `--help`, an error as one line, the exit code."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags

from trainer.errors import Interrupted, TrainerError, UsageError
from trainer.process.startup import open_standard_streams


def parse(argv: Sequence[str], values: flags.FlagValues, *, usage: str) -> list[str] | None:
    """Sets `values` from `argv`; returns the words that are no flags, None once it printed help."""
    if not {"-h", "-?", "-help", "--help", "--helpshort", "--helpfull"}.isdisjoint(argv[1:]):
        flagfile = "  --flagfile: read flags from this file, one a line"
        print(usage.rstrip(), values.get_help(include_special_flags=False), flagfile, sep="\n")
        return None
    try:
        return values(list(argv))[1:]
    except (flags.Error, OSError, UnicodeDecodeError, RecursionError) as error:
        line = " ".join(str(error).removeprefix("ERROR:: ").split())
        raise UsageError(f"{line}; --help lists the flags") from None


def printable(text: str) -> str:
    """Returns `text` on one line: control characters and undecodable bytes become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def main(run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of `run(argv)`, by default the process's; prints errors on stderr."""
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
        kind = "" if isinstance(error, Interrupted) else "error: "
        message, code = f"{kind}{printable(str(error))}\n", error.exit_code
    except Exception:
        message, code = traceback.format_exc(), 1
    with contextlib.suppress(OSError):  # its reader has left, or the disk is full
        sys.stderr.write(message)
    return code


def leave(code: int) -> NoReturn:
    """Ends the process: TensorFlow's own way out takes time, and waits for other workers."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by whoever read it
            stream.flush()
    os._exit(code)
