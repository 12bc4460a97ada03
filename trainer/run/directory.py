"""The directory of a run: its name, what is recorded there, whether this command may go on with it.

Apart from the job so that, for a local path, all of it is answered before TensorFlow is imported.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config import PRECISIONS, Config
from trainer.errors import UsageError
from trainer.process.console import counted
from trainer.run import files

CONFIG, METRICS, HISTORY = "config.json", "metrics.json", "history.csv"
CHECKPOINTS, TENSORBOARD, SAVED_MODEL = "checkpoints", "tensorboard", "saved_model"
PREDICTIONS, FIGURES, REPORT = "predictions.png", "figures", "report.html"
CHECKPOINT_PREFIX = "step-"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a run directory says of its run.

    Attributes:
      config: the resolved configuration, `Config.to_dict`.
      settled: what `auto` became.
      data: name and checksums of the data set.
      metrics: `metrics.json`, None until the run has finished.
    """

    config: Mapping[str, Any]
    settled: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, Any] | None

    def finished(self, epochs: int) -> bool:
        """Whether the run has finished with at least this many epochs."""
        return bool(self.metrics and self.metrics["finished"] and self.metrics["epochs"] >= epochs)


def default_path(dataset: str, model: str) -> str:
    """Returns a new path `runs/<dataset>-<model>-<time>`."""
    first = os.path.join("runs", f"{dataset}-{model}-{time.strftime('%Y%m%d-%H%M%S')}")
    paths = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    return next(path for path in paths if not os.path.lexists(path))


def open_for(config: Config, *, is_chief: bool = True) -> Recorded | None:
    """Returns what `config.model_dir` has recorded, None if it holds no run.

    Raises:
      UsageError: if the path is no directory or not writable, the record is damaged, or the run
        there is another one than `config` describes or not what `--resume` allows.
    """
    path = config.model_dir or "runs"
    if files.is_local(path):
        _check_writable(path, is_chief)
    recorded = read(config.model_dir) if config.model_dir else None
    if recorded is None:
        if config.resume == "must":
            raise UsageError(
                f"--resume=must, but there is no run in {config.model_dir or 'a new directory'};"
                " give the --model_dir of one"
            )
        return None
    if config.resume == "never":
        raise UsageError(f"--resume=never, but {path} holds a run; give another --model_dir")
    wanted = config.resolved()
    if config.dataset == "auto":  # what that is, is only known once the data was looked for
        wanted = dataclasses.replace(wanted, dataset=recorded.config.get("dataset"))
    differences = wanted.differences(recorded.config)
    if differences:
        raise UsageError(
            f"{path} holds another run: {', '.join(differences)};"
            " give another --model_dir or the run's flags"
        )
    return recorded


def read(path: str) -> Recorded | None:
    """Returns what the run directory `path` has recorded, None if it holds no run.

    Raises:
      UsageError: if a record there is damaged.
    """
    config = _read_json(path, CONFIG, {"config": dict, "settled": dict, "data": dict})
    if config is None:
        return None
    parts = {
        "data.sha256": isinstance(config["data"].get("sha256", {}), dict),
        "settled.precision": config["settled"].get("precision", "float32") in PRECISIONS,
    }
    for field, valid in parts.items():
        if not valid:
            raise _invalid(files.join(path, CONFIG), field)
    metrics = _read_json(path, METRICS, {"finished": bool, "epochs": int})
    return Recorded(config["config"], config["settled"], config["data"], metrics)


def _read_json(directory: str, name: str, fields: Mapping[str, type]) -> dict[str, Any] | None:
    path = files.join(directory, name)
    try:
        text = files.read_text(path)
        if text is None:
            return None
        record = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}; move it away or give another --model_dir"
        ) from None
    if not isinstance(record, dict):
        raise UsageError(f"{path} is not a JSON object; move it away or give another --model_dir")
    for field, kind in fields.items():
        if not isinstance(record.get(field), kind):
            raise _invalid(path, field)
    return record


def _invalid(path: str, field: str) -> UsageError:
    return UsageError(f"{path} has no valid {field!r}; move it away or give another --model_dir")


def check_data(config: Config, recorded: Recorded, sha256: Mapping[str, str]) -> None:
    """Raises `UsageError` unless the run was started on the very same data.

    Args:
      config: with the data set's real name.
      recorded: of the run directory.
      sha256: of the data set's arrays (`Dataset.sha256`).
    """
    differences = config.differences(recorded.config)
    differences += [
        f"{name} differ"
        for name in sha256
        if recorded.data.get("sha256", {}).get(name) != sha256[name]
    ]
    if differences:
        raise UsageError(
            f"{config.model_dir} holds a run on other data: {', '.join(differences)};"
            " give another --model_dir or the run's data"
        )


def finished_line(config: Config, recorded: Recorded) -> str:
    """Returns what to say of a run that is finished already."""
    return (
        f"{config.model_dir}: finished already, {counted(recorded.metrics['epochs'], 'epoch')};"
        " more --epochs continue it"
    )


def _check_writable(path: str, is_chief: bool) -> None:
    """Tries to write where `path` is, or is going to be, and leaves nothing behind."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UsageError(f"--model_dir={path} is not a directory; give another one")
    if not is_chief:
        return
    place = os.path.abspath(path)
    try:
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UsageError(
            f"cannot write to --model_dir={path}: {error.strerror}; give another one"
        ) from None


def checkpoint_steps(path: str) -> list[int]:
    """Returns the steps of the checkpoints in the run directory `path`, newest first.

    They are read off the files, so that a damaged list of TensorFlow's manager hides none.
    """
    pattern = re.compile(re.escape(CHECKPOINT_PREFIX) + r"(\d+)\.index")
    names = map(pattern.fullmatch, files.names_in(files.join(path, CHECKPOINTS)))
    return sorted((int(match[1]) for match in names if match), reverse=True)


def write_json(directory: str, name: str, record: Mapping[str, Any]) -> None:
    """Writes a record as the file `name` of the run directory."""
    files.write_text(files.join(directory, name), json.dumps(record, indent=2) + "\n")


def write_history(directory: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `history.csv`, a row an epoch; what there is none of (validation) stays empty."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    files.write_text(files.join(directory, HISTORY), text.getvalue())
