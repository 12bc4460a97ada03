"""The entry, `python -m trainer.task`: flags in, exit code out. The run itself is in `job.py`."""

import os
from collections.abc import Sequence

from trainer import config as configs
from trainer.cluster import environment
from trainer.config import Config
from trainer.errors import DataError, UsageError
from trainer.process import command_line
from trainer.process.console import Console
from trainer.process.signals import StopSignals
from trainer.run import directory, files, lock
from trainer.run.directory import State

USAGE = """\
Train a network to read handwritten digits, and export it.

  python -m trainer.task --epochs 5
  python -m trainer.task --model cnn --model_dir runs/best     (again: resumes)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (the program's name first); returns the exit code."""
    return command_line.main(_run, argv)


def _run(argv: Sequence[str]) -> int:
    values = configs.flag_values()
    words = command_line.parse(argv, values, usage=USAGE)
    if words:
        raise UsageError(f"unexpected argument {words[0]!r}; flags begin with --, see --help")
    config, cluster = configs.from_flags(values), environment.cluster_from_environment()
    console = Console(quiet=not cluster.is_chief)
    if not _finished_already(config, cluster, console):
        with StopSignals(console) as stop:
            from trainer import job

            job.run(config, cluster, console=console, stop=stop)
    return 0


def _finished_already(config: Config, cluster: environment.Cluster, console: Console) -> bool:
    """Returns whether the run is finished; refuses what cannot run, all without TensorFlow."""
    environment.check(config, cluster)
    if not config.model_dir or files.is_local(config.model_dir):
        recorded = directory.examine(config)
        if recorded.state is State.FINISHED:
            console.line(directory.finished_line(config, recorded))
            return True
        directory.check_path(config.model_dir or "runs", write=cluster.is_chief)
        if config.model_dir and cluster.is_chief:
            lock.refuse_if_held(config.model_dir)
    if config.data_dir and not os.path.isdir(config.data_dir):
        raise DataError(f"--data_dir={config.data_dir} is not a directory; give the one with MNIST")
    return False


if __name__ == "__main__":
    command_line.leave(main())
