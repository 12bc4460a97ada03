"""A finished run on one page, `report.html`, and its figures, `figures/*.svg`.

The page needs no network, no script and no other file, so it can be mailed and printed. It is
written from what the run has recorded; the figures are drawn by `charts.py`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np

from trainer.data import Dataset
from trainer.process.console import counted
from trainer.results import charts
from trainer.run import directory as run_directory
from trainer.run import files

CAPTIONS = {
    "confusion_matrix": "What each digit was read as: rows are what it is, columns what was read.",
    "history": "Loss, accuracy and learning rate by epoch.",
    "per_class": "How many of each digit were found, and what it was taken for most often.",
    "calibration": "How often the model was right when it was so sure.",
    "mistakes": "The mistakes it was surest of.",
    "first_layer": "What the first layer looks for.",
}

_STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; color: #1b1b1b;
  background: #fff; font: 1rem/1.55 system-ui, Helvetica, Arial, sans-serif }
h1 { font-size: 1.75rem; line-height: 1.25; margin: .5rem 0; text-wrap: balance }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid #d9d9d9 }
p, dl { margin: .5rem 0 }
.lead { color: #595959 }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem;
  margin: 1.5rem 0 0 }
.facts div { border-left: 3px solid #0072B2; padding-left: .75rem }
.facts dt { color: #595959; font-size: .875rem }
.facts dd { margin: 0; font-size: 1.375rem; font-weight: 600; font-variant-numeric: tabular-nums }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
  gap: 2rem 2.5rem }
figure { margin: 0; break-inside: avoid }
figure svg { display: block; width: 100%; height: auto }
figcaption { margin: 0 0 .5rem; font-weight: 600 }
table { border-collapse: collapse; width: 100%; font-size: .9375rem }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0;
  border-bottom: 1px solid #e6e6e6 }
th { font-weight: 400; color: #595959; white-space: nowrap }
td { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .875rem }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 0 3rem }
pre { background: #f5f5f5; padding: .75rem 1rem; border-radius: .25rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .875rem/1.5 ui-monospace, monospace }
@page { margin: 15mm }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt }
  .figures { grid-template-columns: 1fr 1fr; gap: 1.25rem 1.75rem }
  .facts { grid-template-columns: repeat(5, 1fr) } .facts dd { font-size: 1.125rem }
  .tables { grid-template-columns: 1fr 1fr; gap: 0 8mm }
  table, td, pre { font-size: 7.5pt } th, td { padding: .8mm 3mm .8mm 0 }
  h2 { break-after: avoid } tr, pre { break-inside: avoid }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


def write(
    metrics: Mapping[str, Any],
    *,
    directory: str,
    history: Iterable[Mapping[str, Any]],
    dataset: Dataset,
    probabilities: np.ndarray,
    weights: list[np.ndarray],
) -> None:
    """Draws the figures and writes the page into a run's directory.

    Args:
      metrics: what is going to be `metrics.json`.
      directory: the run's; its `config.json` is there.
      history: a row an epoch, as in `history.csv`.
      dataset: whose test digits were read.
      probabilities: of the test digits, float [n, 10].
      weights: of the model, layer by layer.
    """
    figures = charts.all_of(
        list(history), dataset.test_images, dataset.test_labels, probabilities, weights
    )
    folder = files.join(directory, run_directory.FIGURES)
    files.make_directory(folder)
    for name, svg in figures.items():
        files.write_text(files.join(folder, f"{name}.svg"), svg)
    record = json.loads(files.read_text(files.join(directory, run_directory.CONFIG)))
    content = page(metrics, record, figures, directory=directory)
    files.write_text(files.join(directory, run_directory.REPORT), content)


def page(
    metrics: Mapping[str, Any],
    record: Mapping[str, Any],
    figures: Mapping[str, str],
    *,
    directory: str,
) -> str:
    """Returns the page as HTML.

    Args:
      metrics: as in `metrics.json`.
      record: as in `config.json`.
      figures: SVG by name, the names being those of `CAPTIONS`.
      directory: the run's.
    """
    count, accuracy = metrics["examples_test"], metrics["test_accuracy"]
    result = (
        f"{metrics['model']} reads {accuracy:.2%} of {count:,} {metrics['dataset']} test digits"
        " right"
    )
    lead = (
        f"{counted(round(count * (1 - accuracy)), 'mistake')}, after"
        f" {counted(metrics['epochs'], 'epoch')} and"
        f" {metrics['train_seconds']:,.1f} s of training on {metrics['examples_train']:,} digits."
        " The test digits were touched once, at the end."
    )
    validation, rate = metrics["validation_accuracy"], metrics["examples_per_second"]
    facts = {
        "Test accuracy": f"{accuracy:.2%}",
        "Test loss": f"{metrics['test_loss']:.4f}",
        "Validation accuracy": "none held out" if validation is None else f"{validation:.2%}",
        "Parameters": f"{metrics['parameters']:,}",
        "Digits a second": "not measured" if rate is None else f"{rate:,}",
    }
    numbers = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()
    )
    drawn = "".join(
        f"<figure><figcaption>{escape(CAPTIONS[name])}</figcaption>{svg}</figure>"
        for name, svg in figures.items()
    )
    data, step = record["data"], metrics["steps"]
    provenance = {
        "name": data["name"],
        "source": data["source"],
        **{f"SHA-256 of {name}": digest for name, digest in data["sha256"].items()},
        "training, validation, test": f"{metrics['examples_train']:,},"
        f" {metrics['examples_validation']:,}, {count:,}",
    }
    outcome = {"weights_sha256": metrics["weights_sha256"], "steps": step}
    outcome |= {"resumed_from_step": metrics["resumed_from_step"]}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(result)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(result)}</h1>
<p class="lead">{escape(lead)}</p>
<dl class="facts">{numbers}</dl>
</header>
<main>
<section aria-labelledby="figures">
<h2 id="figures">Figures</h2>
<div class="figures">{drawn}</div>
</section>
<section aria-labelledby="use">
<h2 id="use">How to use the model</h2>
<p>Preprocessing is inside it: pixels go in as they are, uint8, a light digit on black.</p>
<pre>{escape(_usage(directory, step))}</pre>
</section>
<section aria-labelledby="provenance">
<h2 id="provenance">Where it comes from</h2>
<div class="tables">
{_table("Data", provenance)}
{_table("Result", outcome)}
{_table("Configuration", record["config"])}
{_table("Environment", {**record["settled"], **record["versions"]})}
</div>
</section>
</main>
</body>
</html>
"""


def _usage(directory: str, step: int) -> str:
    saved = files.join(directory, run_directory.SAVED_MODEL)
    run = shlex.quote(directory)
    return f"""\
# in Python
import tensorflow as tf
model = tf.saved_model.load({files.join(saved, str(step))!r})
answer = model.signatures["serving_default"](images=images)  # uint8 [n, 28, 28]
answer["classes"], answer["probabilities"]                   # int64 [n], float32 [n, 10]

# on the command line, where the run was started and in its environment: image files, or a page
# to draw on
python -m trainer.predict --model_dir {run} image.png
python -m trainer.draw --model_dir {run}

# behind HTTP, with TensorFlow Serving
tensorflow_model_server --rest_api_port=8501 --model_name=digits \\
  --model_base_path="$(realpath {shlex.quote(saved)})"
"""


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
        if value is not None
    )
    return f"<div><h3>{escape(title)}</h3><table>{rows}</table></div>"
