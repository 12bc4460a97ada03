"""What a person looks at after a run: `predictions.png`, `figures/` and `report.html`."""

from __future__ import annotations

import base64
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from trainer.process.console import counted
from trainer.results import figures
from trainer.results.evaluation import Evaluation
from trainer.run import directory as run_directory
from trainer.run import files


def write(
    directory: str,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    images: np.ndarray,
    result: Evaluation,
) -> None:
    """Draws the pictures and writes the report into a run's directory, beside its `config.json`.

    `metrics` has the entries of `metrics.json`, `history` the rows of `history.csv`; `images` are
    the test digits, uint8 [n, 28, 28], and `result` is theirs.
    """
    drawn = figures.report_figures(history, images, result)
    record = json.loads(files.read_text(files.join(directory, run_directory.CONFIG)))
    picture = figures.predictions(images, result, title=_title(metrics))
    files.write_bytes(files.join(directory, run_directory.PREDICTIONS), picture)
    folder = files.join(directory, run_directory.FIGURES)
    files.make_directory(folder)
    for name, svg in drawn.items():
        files.write_text(files.join(folder, f"{name}.svg"), svg)
    content = page(directory, metrics, record, drawn)
    files.write_text(files.join(directory, run_directory.REPORT), content)


def page(
    directory: str,
    metrics: Mapping[str, Any],
    record: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, str],
) -> str:
    """Returns the page as HTML, of `metrics.json`, `config.json` (`record`) and figures as SVG."""
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"quote": shlex.quote, "counted": counted}
    return environment.get_template("report.html").render(
        title=_title(metrics),
        metrics=metrics,
        record=record,
        figures={
            figures.CAPTIONS[name]: base64.b64encode(svg.encode()).decode()
            for name, svg in drawn.items()
        },
        directory=directory,
        saved_model=files.join(directory, run_directory.SAVED_MODEL),
    )


def _title(metrics: Mapping[str, Any]) -> str:
    return (
        f"{metrics['model']} reads {metrics['test_accuracy']:.2%} of"
        f" {metrics['examples_test']:,} {metrics['dataset']} test digits right"
    )
