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
from trainer.run import directory, files


def page(
    path: str,
    metrics: Mapping[str, Any],
    record: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, str],
) -> str:
    """Returns the page as HTML, of `metrics.json`, `config.json` (`record`) and figures as SVG."""
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    templates.filters |= {"quote": shlex.quote, "repr": repr, "counted": counted}
    encoded = {name: base64.b64encode(svg.encode()).decode() for name, svg in drawn.items()}
    return templates.get_template("report.html").render(
        metrics=metrics,
        record=record,
        figures={figures.CAPTIONS[name]: svg for name, svg in encoded.items()},
        directory=path,
        saved_model=files.join(path, directory.SAVED_MODEL),
        keras_model=files.join(path, directory.KERAS),
        finished=time.strftime("%d %B %Y, %H:%M UTC", time.gmtime()).lstrip("0"),
        command=shlex.join(sys.orig_argv),
    )
