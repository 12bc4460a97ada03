"""The entry, `python -m trainer.task`: flags in, exit code out. The run itself is in `job.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence

from absl import flags

from trainer.cluster import environment
from trainer.config import Config
from trainer.errors import DataError, TrainerError, UsageError
from trainer.process.command_line import refusal, told
from trainer.process.console import Console
from trainer.process.startup import StopSignals, fill_standard_streams
from trainer.run import directory as run_directory
from trainer.run import files, lock

USAGE = """\
Train a network to read handwritten digits, and export it.

  python -m trainer.task --epochs 5
  python -m trainer.task --model cnn --model_dir runs/best     (again: resumes)
  python -m trainer.task --flagfile my.flags                   (a flag a line)
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command `argv` (the program's name first) and returns its exit code."""
    with StopSignals() as stop:
        try:
            config = parse(argv)
            if config is None:
                Console().line(help_text())
                return 0
            _run(config, stop)
            return 0
        except TrainerError as error:
            Console().warn(told(error))
            return error.exit_code


def _run(config: Config, stop: StopSignals) -> None:
    cluster = environment.cluster_from_environment()
    environment.check(config, cluster)
    console = Console(quiet=not cluster.is_chief)
    if not config.model_dir or files.is_local(config.model_dir):
        recorded = run_directory.open_for(config, is_chief=cluster.is_chief)
        if recorded and recorded.finished(config.epochs):
            console.line(run_directory.finished_line(config, recorded))
            return
        if config.model_dir and cluster.is_chief:
            lock.refuse_if_held(config.model_dir)
    if config.data_dir and not os.path.isdir(os.path.expanduser(config.data_dir)):
        raise DataError(f"--data_dir={config.data_dir} is not a directory; give the one with MNIST")

    from trainer import job

    job.run(config, cluster, console=console, stop=stop)


def parse(argv: Sequence[str]) -> Config | None:
    """Returns the configuration that the command line asks for, None if it asks for help.

    Raises:
      UsageError: if a flag is unknown or has a wrong value.
    """
    values = _flags()
    if not {"-h", "-help", "--help", "--helpfull", "--helpshort"}.isdisjoint(argv[1:]):
        return None
    try:
        rest = values(argv)
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{refusal(error)}; --help lists the flags") from None
    except RecursionError:  # absl looks for a flag of a name alike, letter by letter
        raise UsageError("a flag has far too long a name; --help lists the flags") from None
    if len(rest) > 1:
        raise UsageError(
            f"unexpected argument {rest[1]!r}; flags begin with --, and --help lists them"
        )
    return Config(**{field.name: values[field.name].value for field in dataclasses.fields(Config)})


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("flagfile", "", "read flags from this file, one a line", flag_values=values)
    flags.DEFINE_string("undefok", "", "", flag_values=values)
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    for field in dataclasses.fields(Config):
        known = field.metadata
        define[known["kind"]](field.name, field.default, known["help"], flag_values=values)
    return values


def help_text() -> str:
    """Returns what `--help` prints."""
    lines = [USAGE, "Flags:"]
    for field in dataclasses.fields(Config):
        known = field.metadata
        default = field.default if field.default is not None else known["unset"] or "none"
        choices = f"{', '.join(known['choices'])}: " if known["choices"] else ""
        lines += [f"  --{field.name}  (default: {default})", f"      {choices}{known['help']}"]
    lines += ["  --flagfile", "      read flags from this file, one a line"]
    return "\n".join(lines)


if __name__ == "__main__":
    fill_standard_streams()
    exit_code = main(sys.argv)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by whoever read it
            stream.flush()
    # Everything is on disk; TensorFlow's own way out takes time, and waits for other workers.
    os._exit(exit_code)
