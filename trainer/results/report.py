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

    Args:
      directory: the run's.
      metrics: the entries of `metrics.json`.
      history: a row an epoch, as in `history.csv`.
      images: test digits, uint8 [n, 28, 28].
      result: of the test digits.
    """
    picture = figures.predictions(images, result, title=_headline(metrics))
    files.write_bytes(files.join(directory, run_directory.PREDICTIONS), picture)
    drawn = figures.report_figures(history, images, result)
    folder = files.join(directory, run_directory.FIGURES)
    for name, svg in drawn.items():
        files.write_text(files.join(folder, f"{name}.svg"), svg)
    record = json.loads(files.read_text(files.join(directory, run_directory.CONFIG)))
    content = page(directory, metrics, record, drawn)
    files.write_text(files.join(directory, run_directory.REPORT), content)


def page(
    directory: str,
    metrics: Mapping[str, Any],
    record: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, str],
) -> str:
    """Returns the page as HTML, of `metrics.json`, `config.json` (`record`) and figures as SVG."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["quote"] = shlex.quote
    data, others = dict(record["data"]), {}
    data |= {f"SHA-256 of {name}": digest for name, digest in data.pop("sha256").items()}
    for name, values in record.items():
        others |= values if name not in ("config", "data") else {}
    outcome = {name: metrics[name] for name in ("weights_sha256", "steps", "resumed_from_step")}
    encoded = {name: base64.b64encode(svg.encode()).decode() for name, svg in drawn.items()}
    mistakes = round(metrics["examples_test"] * (1 - metrics["test_accuracy"]))
    return environment.get_template("report.html").render(
        title=_headline(metrics),
        metrics=metrics,
        mistakes=counted(mistakes, "mistake"),
        epochs=counted(metrics["epochs"], "epoch"),
        figures={figures.CAPTIONS[name]: svg for name, svg in encoded.items()},
        directory=directory,
        saved_model=files.join(directory, run_directory.SAVED_MODEL),
        tables={
            "Data": data,
            "Result": outcome,
            "Configuration": record["config"],
            "Environment": others,
        },
    )


def _headline(metrics: Mapping[str, Any]) -> str:
    return (
        f"{metrics['model']} reads {metrics['test_accuracy']:.2%} of"
        f" {metrics['examples_test']:,} {metrics['dataset']} test digits right"
    )
