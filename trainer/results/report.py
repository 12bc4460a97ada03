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
from trainer.results.figures import Chart
from trainer.run import directory as run_directory
from trainer.run import files

CAPTIONS = {
    "confusion_matrix": "What each digit was read as: rows are what it is, columns what was read.",
    "history": "Loss, accuracy and learning rate by epoch.",
    "per_class": "How many of each digit were read right, and what it was taken for most often.",
    "calibration": "How often the model is right, by its confidence.",
    "mistakes": "The most confident mistakes.",
}


def write(metrics: Mapping[str, Any], charts: Mapping[str, Chart], directory: str) -> None:
    """Writes `figures/*.svg` and `report.html` into a run's directory, beside its `config.json`.

    Args:
      metrics: the entries of `metrics.json`.
      charts: by the names of `CAPTIONS`.
      directory: the run's.
    """
    folder = files.join(directory, run_directory.FIGURES)
    files.make_directory(folder)
    for name, chart in charts.items():
        files.write_text(files.join(folder, f"{name}.svg"), chart.svg)
    record = json.loads(files.read_text(files.join(directory, run_directory.CONFIG)))
    content = page(metrics, record, charts, directory=directory)
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
    charts: Mapping[str, Chart],
    *,
    directory: str,
) -> str:
    """Returns the page as HTML: `metrics.json`, `config.json` (`record`) and the figures."""
    saved_model = files.join(directory, run_directory.SAVED_MODEL)
    validation, rate = metrics["validation_accuracy"], metrics["examples_per_second"]
    (low, high), count = metrics["test_accuracy_interval"], metrics["examples_test"]
    data = dict(record["data"])
    data |= {f"SHA-256 of {name}": digest for name, digest in data.pop("sha256").items()}
    examples = (f"{metrics[f'examples_{part}']:,}" for part in ("train", "validation", "test"))
    data["training, validation, test"] = ", ".join(examples)
    result = {name: metrics[name] for name in ("weights_sha256", "steps", "resumed_from_step")}
    others = {name: values for name, values in record.items() if name not in ("config", "data")}
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("report.html")
    return template.render(
        title=headline(metrics),
        metrics=metrics,
        mistakes=counted(round(count * (1 - metrics["test_accuracy"])), "mistake"),
        epochs=counted(metrics["epochs"], "epoch"),
        facts={
            "Test accuracy": f"{metrics['test_accuracy']:.2%}",
            "95 % interval": f"{low:.2%} to {high:.2%}",
            "Test loss": f"{metrics['test_loss']:.4f}",
            "Calibration error": f"{metrics['test_calibration_error']:.2%}",
            "Validation accuracy": "none held out" if validation is None else f"{validation:.2%}",
            "Parameters": f"{metrics['parameters']:,}",
            "Digits a second": "not measured" if rate is None else f"{rate:,}",
        },
        figures=[
            {
                "caption": CAPTIONS[name],
                "description": chart.description,
                "address": "data:image/svg+xml;base64,"
                + base64.b64encode(chart.svg.encode()).decode(),
            }
            for name, chart in charts.items()
        ],
        version=repr(files.join(saved_model, str(metrics["steps"]))),
        directory=shlex.quote(directory),
        saved_model=shlex.quote(saved_model),
        tables={
            "Data": data,
            "Result": result,
            "Configuration": record["config"],
            "Environment": {
                name: value for part in others.values() for name, value in part.items()
            },
        },
    )
