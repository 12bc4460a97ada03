"""What the commands share: flags, `--help`, an error as one line, the exit code."""

import contextlib
import os
import re
import shlex
import shutil
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
    """Sets `values` from a command line and returns its words that are no flags.

    Returns None if it asks for `--help`, which is then printed: `usage` and all flags.

    Raises:
      UsageError: a flag is unknown or has a wrong value.
    """
    about = "read flags from this file, one a line"
    flags.DEFINE_string("flagfile", None, about, flag_values=values)
    flags.DEFINE_string("undefok", None, "", flag_values=values)  # absl asks for it
    if not {"-h", "-?", "-help", "--help", "--helpshort", "--helpfull"}.isdisjoint(argv[1:]):
        print(_help(values, usage))
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


def _help(values: flags.FlagValues, usage: str) -> str:
    lines = [usage.rstrip(), "", "Flags:"]
    for name in values:
        flag = values[name]
        if name != "undefok":
            default = "" if flag.default is None else f"  (default: {flag.default})"
            lines += [f"  --{'[no]' * flag.boolean}{name}{default}", f"      {flag.help}"]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Returns `text` on one line: control characters and undecodable bytes become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def error_line(error: TrainerError) -> str:
    """Returns the line for standard error; a requested stop is not called an error."""
    return ("" if isinstance(error, Interrupted) else "error: ") + printable(str(error))


def shell_python() -> str:
    """Returns how a shell calls this Python, whose environment may not be activated."""
    return "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)


def main(run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of `run(argv)`; prints its errors on standard error.

    Args:
      run: a command, which raises `TrainerError` for what users can mend.
      argv: None for this process's, whose standard streams are then made usable.
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
