"""Several runs side by side: what differs in their configuration, their results, their curves.

Reads what a run has recorded and nothing else, so it needs no TensorFlow.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from trainer import entry, run_directory, storage
from trainer.console import counted
from trainer.errors import TrainerError, UsageError

USAGE = "python -m trainer.compare RUN RUN [more runs] [--output FILE.svg]"
_PLACES = ("model_dir", "data_dir", "resume")  # where a run is, not what it is


def _percentage_points(difference: float) -> str:
    return f"{100 * difference:+.2f} pp"


_ROWS = {  # of metrics.json: what it is called here, how it and a difference are written
    "validation_accuracy": ("validation accuracy", "{:.2%}".format, _percentage_points),
    "validation_loss": ("validation loss", "{:.4f}".format, "{:+.4f}".format),
    "test_accuracy": ("test accuracy", "{:.2%}".format, _percentage_points),
    "test_loss": ("test loss", "{:.4f}".format, "{:+.4f}".format),
    "parameters": ("parameters", "{:,.0f}".format, "{:+,.0f}".format),
    "steps": ("steps", "{:,.0f}".format, "{:+,.0f}".format),
    "train_seconds": ("training, s", "{:,.1f}".format, "{:+,.1f}".format),
    "examples_per_second": ("digits a second", "{:,.0f}".format, "{:+,.0f}".format),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a comparison needs of a run: `settings` are what made it what it is, `metrics` its
    numbers, `history` a row an epoch, `state` how far it came.
    """

    name: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    state: str


def load(path: str) -> Run:
    """Returns the run in the directory `path`.

    Raises `UsageError` if there is none or its records are damaged.
    """
    recorded = run_directory.read(path)
    if recorded is None:
        raise UsageError(f"{path} holds no run; name directories that trainer.task wrote")
    history = read_history(path)
    epochs = recorded.config.get("epochs")
    if not isinstance(epochs, int):
        raise UsageError(f"{path} has no number of epochs in config.json; leave it out")
    done = recorded.finished(epochs)
    metrics: dict[str, Any] = {}
    if history:
        metrics = {**history[-1], "steps": history[-1].get("step")}
    if done:
        metrics.update(recorded.metrics)
    settings = {
        **{key: recorded.config[key] for key in recorded.config if key not in _PLACES},
        **recorded.settled,
        **{f"data {key}": value[:12] for key, value in recorded.data.get("sha256", {}).items()},
    }
    return Run(
        name=path.rstrip("/") or path,
        settings={key: "-" if value is None else str(value) for key, value in settings.items()},
        metrics={
            key: metrics[key]
            for key in _ROWS
            if isinstance(metrics.get(key), (int, float)) and not isinstance(metrics[key], bool)
        },
        history=history,
        state=counted(epochs, "epoch")
        if done
        else f"not finished: {len(history)} of {counted(epochs, 'epoch')}",
    )


def read_history(path: str) -> list[dict[str, float]]:
    """Returns the rows of the run's `history.csv`, what is empty left out; none if there is no
    such file.

    Raises `UsageError` if it is damaged.
    """
    file = storage.join(path, run_directory.HISTORY)
    try:
        rows = list(csv.DictReader(io.StringIO(storage.read_text(file) or "")))
        history = [
            {key: float(cell) for key, cell in row.items() if cell not in ("", "None")}
            for row in rows
        ]
        if any("epoch" not in row for row in history):
            raise ValueError("a row has no epoch")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(f"{file} is damaged ({error}); leave this run out") from error
    return history


def differing(runs: Sequence[Run]) -> list[str]:
    """Returns the names of the settings that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({run.settings.get(name, "-") for run in runs}) > 1]


def table(runs: Sequence[Run]) -> str:
    """Returns the comparison as text: the runs, what differs, the results with their differences to
    the first run.
    """
    width = max(len(run.name) for run in runs)
    lines = [
        f"{number}  {run.name:<{width}}  {run.state}" for number, run in enumerate(runs, start=1)
    ]
    heads = [str(number) for number in range(1, len(runs) + 1)]
    settings = [[name, *(run.settings.get(name, "-") for run in runs)] for name in differing(runs)]
    results = [
        [_ROWS[name][0], *(_cell(name, run, runs[0]) for run in runs)]
        for name in _ROWS
        if any(name in run.metrics for run in runs)
    ]
    lines += ["", *_aligned(["what differs", *heads], settings or [["nothing"]])]
    lines += ["", *_aligned(["result (difference to 1)", *heads], results or [["none yet"]])]
    return "\n".join(lines)


def _cell(name: str, run: Run, first: Run) -> str:
    _, written, difference = _ROWS[name]
    if name not in run.metrics:
        return "-"
    text = written(run.metrics[name])
    if run is first or name not in first.metrics:
        return text
    return f"{text} ({difference(run.metrics[name] - first.metrics[name])})"


def _aligned(head: list[str], rows: list[list[str]]) -> list[str]:
    columns = itertools.zip_longest(head, *rows, fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in (head, *rows)
    ]


def curves(runs: Sequence[Run]) -> str:
    """Returns an SVG of loss and accuracy by epoch, the runs numbered as in the table."""
    from trainer import charts

    return charts.compared([(run.name, run.history) for run in runs])


def run(argv: Sequence[str]) -> int:
    """Prints the comparison that the command line `argv` asks for and draws its picture; returns
    the exit code.
    """
    values = entry.flag_values()
    flags.DEFINE_string(
        "output", "comparison.svg", "where the picture of the curves goes", flag_values=values
    )
    paths = entry.parse(
        argv, values, summary="Compares runs: configuration, results, curves.", usage=USAGE
    )
    if paths is None:
        return 0
    if len(paths) < 2:
        raise UsageError(f"name two runs or more; usage: {USAGE}")
    if not values.output.endswith(".svg"):
        raise UsageError(f"--output={values.output!r} is not an SVG file; end its name in .svg")
    runs, code = [], 0
    for path in paths:
        try:
            runs.append(load(path))
        except TrainerError as error:
            print(entry.told(error), file=sys.stderr)
            code = error.exit_code
    if runs:
        print(table(runs))
    if any(each.history for each in runs):
        try:
            storage.write_text(values.output, curves(runs))
        except OSError as error:
            raise UsageError(
                f"--output={values.output!r} cannot be written ({error.strerror}); name another"
            ) from error
        print(f"\ncurves: {values.output}")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """`run` with expected failures as one line on standard error; returns the exit code."""
    return entry.main(run, argv)


if __name__ == "__main__":
    sys.exit(main())
