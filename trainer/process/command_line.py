"""What the commands share: flags, `--help`, an error as one line, the exit code."""

import contextlib
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags

from trainer.errors import Interrupted, TrainerError, UsageError
from trainer.process.startup import open_standard_streams


def parse(argv: Sequence[str], values: flags.FlagValues, *, usage: str) -> list[str]:
    """Sets `values` from `argv`; returns the words that are no flags. Leaves after `--help`."""
    if not {"-h", "-?", "-help", "--help", "--helpshort", "--helpfull"}.isdisjoint(argv[1:]):
        flagfile = "  --flagfile: read flags from this file, one a line"
        print(usage.rstrip(), values.get_help(include_special_flags=False), flagfile, sep="\n")
        raise SystemExit(0)
    _check_flagfiles("\n".join(argv[1:]))
    try:
        return values(list(argv))[1:]
    except (flags.Error, RecursionError) as error:  # it looks for names like a very long one
        line = " ".join(str(error).split())
        line = re.sub(r": (invalid literal|could not convert).*", " is not a valid number", line)
        raise UsageError(f"{line}; --help lists the flags") from None


def _check_flagfiles(text: str, depth: int = 1) -> None:
    """Raises `UsageError` for a --flagfile, a line of `text`, that absl cannot read to its end."""
    for path in re.findall(r"^--?flagfile[=\n](.+)$", text, re.MULTILINE):
        try:
            if depth > 10 or not os.path.isfile(path := os.path.expanduser(path.strip())):
                raise ValueError("no regular file is there, or it is nested more than ten deep")
            _check_flagfiles(pathlib.Path(path).read_text(), depth + 1)
        except (OSError, ValueError) as error:
            raise UsageError(f"--flagfile={path} cannot be read: {error}") from None


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
    except SystemExit as asked_for_help:
        return asked_for_help.code
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
