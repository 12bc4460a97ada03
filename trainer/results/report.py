"""The report of a finished run: its figures, and `report.html`, one page without other files."""

from __future__ import annotations

import base64
import json
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import jinja2

from trainer.process.console import counted
from trainer.results.figures import CAPTIONS
from trainer.run import directory as run_directory
from trainer.run import files


def write(metrics: Mapping[str, Any], figures: Mapping[str, str], directory: str) -> None:
    """Writes `figures/*.svg` and `report.html` into a run's directory, beside its `config.json`.

    Args:
      metrics: the entries of `metrics.json`.
      figures: SVG by the names of `CAPTIONS`.
      directory: the run's.
    """
    folder = files.join(directory, run_directory.FIGURES)
    files.make_directory(folder)
    for name, svg in figures.items():
        files.write_text(files.join(folder, f"{name}.svg"), svg)
    record = json.loads(files.read_text(files.join(directory, run_directory.CONFIG)))
    content = page(metrics, record, figures, directory)
    files.write_text(files.join(directory, run_directory.REPORT), content)


def headline(metrics: Mapping[str, Any]) -> str:
    """Returns the result in one sentence."""
    return (
        f"{metrics['model']} reads {metrics['test_accuracy']:.2%} of"
        f" {metrics['examples_test']:,} {metrics['dataset']} test digits right"
    )


def page(
    metrics: Mapping[str, Any],
    record: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, str],
    directory: str,
) -> str:
    """Returns the page as HTML, `record` being `config.json`; the rest as `write` has it."""
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
    return environment.get_template("report.html").render(
        title=headline(metrics),
        metrics=metrics,
        mistakes=counted(
            round(metrics["examples_test"] * (1 - metrics["test_accuracy"])), "mistake"
        ),
        epochs=counted(metrics["epochs"], "epoch"),
        figures={
            CAPTIONS[name]: base64.b64encode(svg.encode()).decode() for name, svg in figures.items()
        },
        directory=directory,
        saved_model=files.join(directory, run_directory.SAVED_MODEL),
        tables={
            "Data": data,
            "Result": outcome,
            "Configuration": record["config"],
            "Environment": others,
        },
    )
