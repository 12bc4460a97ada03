"""The page of a run, `report.html`: fills the template of that name."""

import base64
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any

import jinja2

from trainer.process.console import counted
from trainer.results import figures
from trainer.run import directory as run_directory
from trainer.run import files


def page(
    directory: str,
    metrics: Mapping[str, Any],
    record: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, str],
) -> str:
    """Returns the page as HTML, of `metrics.json`, `config.json` (`record`) and figures as SVG.

    It is dated now, and names the command line of this process.
    """
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    templates.filters |= {"quote": shlex.quote, "repr": repr, "counted": counted}
    encoded = {name: base64.b64encode(svg.encode()).decode() for name, svg in drawn.items()}
    return templates.get_template("report.html").render(
        metrics=metrics,
        record=record,
        figures={figures.CAPTIONS[name]: svg for name, svg in encoded.items()},
        directory=directory,
        saved_model=files.join(directory, run_directory.SAVED_MODEL),
        keras_model=files.join(directory, run_directory.KERAS_MODEL),
        origin=_origin(metrics, record),
        checksums=_checksums(metrics, record),
    )


def _origin(metrics: Mapping[str, Any], record: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns when, how, where and by what the run was made, by headings."""
    resolved, versions, initial = record["resolved"], record["versions"], record["initial_weights"]
    processor = resolved.get("processor") or resolved["devices"]
    strategy, xla = resolved["strategy"], resolved["jit_compile"]
    found = {
        "Finished": time.strftime("%d %B %Y, %H:%M UTC", time.gmtime()).lstrip("0"),
        "Command": shlex.join(sys.orig_argv),
        "Processor": f"{processor}, {counted(resolved['cpus'], 'CPU')}",
        "Devices": f"{counted(resolved['replicas'], 'replica')} on"
        f" {counted(resolved['workers'], 'worker')}, strategy {strategy}",
        "Computed in": f"{resolved['precision']}, compiled by XLA: {xla}",
        "Data": f"{record['data']['name']}, {record['data']['source']}",
    }
    if initial:
        found["Begun with"] = f"the weights of {initial['path']}, step {initial['step']:,}"
    if metrics["resumed_from_step"] is not None:
        found["Resumed"] = f"at step {metrics['resumed_from_step']:,}"
    names = {"python": "Python", "tensorflow": "TensorFlow", "keras": "Keras", "numpy": "NumPy"}
    return found | {
        "Code": f"trainer {versions['trainer']}; the SHA-256 of the files that decide the weights"
        f" begins with {versions['code']}",
        "Software": ", ".join(f"{title} {versions[name]}" for name, title in names.items()),
        "System": versions["platform"],
    }


def _checksums(
    metrics: Mapping[str, Any], record: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Returns the SHA-256 of all that the run read and made, by what it is of."""
    found = {"final weights": metrics["weights_sha256"]}
    if record["initial_weights"]:
        found["weights it began with"] = record["initial_weights"]["weights_sha256"]
    return found | {name.replace("_", " "): each for name, each in record["data"]["sha256"].items()}
