"""The entry, `python -m trainer.task`: flags in, exit code out. The run itself is in `job.py`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from absl import flags

from trainer.cluster import devices as distribution
from trainer.config import Config
from trainer.errors import DataError, UsageError
from trainer.process import command_line
from trainer.process.console import Console
from trainer.process.signals import StopSignals
from trainer.run import directory as run_directory
from trainer.run import files, lock

USAGE = """\
Train a network to read handwritten digits, and export it.

  python -m trainer.task --epochs 5
  python -m trainer.task --model cnn --model_dir runs/best     (again: resumes)
  python -m trainer.task --flagfile my.flags                   (a flag a line)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `argv` (the program's name first) and returns its exit code."""
    return command_line.main(_command, argv)


def _command(argv: Sequence[str]) -> int:
    with StopSignals() as stop:
        config = parse(argv)
        if config:
            _run(config, stop)
    return 0


def _run(config: Config, stop: StopSignals) -> None:
    cluster = distribution.cluster_from_environment()
    distribution.check(config, cluster)
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
    words = command_line.parse(argv, values, usage=USAGE)
    if words is None:
        return None
    if words:
        raise UsageError(
            f"unexpected argument {words[0]!r}; flags begin with --, and --help lists them"
        )
    return Config(**{field.name: values[field.name].value for field in dataclasses.fields(Config)})


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    for field in dataclasses.fields(Config):
        known = field.metadata
        define[known["kind"]](field.name, field.default, known["help"], flag_values=values)
    return values


if __name__ == "__main__":
    command_line.leave(main())
