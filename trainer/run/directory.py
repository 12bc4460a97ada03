"""The directory of a run: the names in it, its records, and what state the run there is in."""

from __future__ import annotations

import csv
import dataclasses
import enum
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


class State(enum.Enum):
    """How far the run in a directory has come."""

    NEW = "there is none"
    RESUMABLE = "it goes on from its newest checkpoint"
    TRAINED = "its newest checkpoint is that of its last step; its results are not written"
    FINISHED = "everything is written"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The run that a directory holds.

    Attributes:
      state: how far it has come.
      config: the resolved configuration, `Config.to_dict`; empty if there is no run.
      resolved: what `auto` became, the devices and the cluster it was last trained on.
      data: name and checksums of the data set.
      epochs: of the finished run; 0 before.
    """

    state: State
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 0


def default_path(dataset: str, model: str) -> str:
    """Returns a new path `runs/<dataset>-<model>-<time>`."""
    first = os.path.join("runs", f"{dataset}-{model}-{time.strftime('%Y%m%d-%H%M%S')}")
    paths = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    return next(path for path in paths if not os.path.lexists(path))


def examine(
    config: Config,
    *,
    is_chief: bool = True,
    last_step: int | None = None,
    data_sha256: Mapping[str, str] | None = None,
) -> Recorded:
    """Returns what `config.model_dir` holds.

    Args:
      config: as the flags gave it, or with the data set's real name.
      is_chief: whether this process is going to write there.
      last_step: of the whole run; without it `TRAINED` cannot be told from `RESUMABLE`.
      data_sha256: of the data set's arrays, once they are known (`Dataset.sha256`).

    Raises:
      UsageError: the path is no directory or not writable, a record in it is damaged, or the run
        there is another one than this, or not what `--resume` allows.
    """
    path = config.model_dir or "runs"
    if files.is_local(path):
        _check_writable(path, is_chief)
    recorded = read(config.model_dir) if config.model_dir else Recorded(State.NEW)
    if recorded.state is State.NEW:
        if config.resume == "must":
            raise UsageError(
                f"--resume=must, but there is no run in {config.model_dir or 'a new directory'};"
                " give the --model_dir of one"
            )
        return recorded
    if config.resume == "never":
        raise UsageError(f"--resume=never, but {path} holds a run; give another --model_dir")
    _check_same_run(config, recorded, data_sha256 or {})
    if recorded.state is State.FINISHED and recorded.epochs >= config.epochs:
        return recorded
    trained = last_step is not None and checkpoint_steps(path)[:1] == [last_step]
    return dataclasses.replace(recorded, state=State.TRAINED if trained else State.RESUMABLE)


def finished_line(config: Config, recorded: Recorded) -> str:
    """Returns what to print about a run that is finished already."""
    return (
        f"{config.model_dir}: finished already, {counted(recorded.epochs, 'epoch')};"
        " more --epochs continue it"
    )


def has_finished(config: Config) -> bool:
    """Returns whether the run is finished: another worker may have done it meanwhile."""
    recorded = read(config.model_dir)
    return recorded.state is State.FINISHED and recorded.epochs >= config.epochs


def read(path: str) -> Recorded:
    """Returns what the run directory `path` has recorded.

    Raises:
      UsageError: a record there is damaged.
    """
    file = files.join(path, CONFIG)
    try:
        text = files.read_text(file)
        if text is None:
            return Recorded(State.NEW)
        record = json.loads(text)
        config, resolved, data = ({**record[name]} for name in ("config", "resolved", "data"))
        data["sha256"] = {**data.get("sha256", {})}
        if resolved.get("precision", "float32") not in PRECISIONS:
            raise ValueError(f"precision is {resolved['precision']}")
        file = files.join(path, METRICS)
        metrics = json.loads(files.read_text(file) or "{}")
        epochs = int(metrics["epochs"]) if metrics.get("finished", False) is True else 0
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{file} cannot be read ({error!r:.100}); move it away or give another --model_dir"
        ) from None
    state = State.FINISHED if epochs else State.RESUMABLE
    return Recorded(state, config, resolved, data, epochs)


def checkpoint_steps(path: str) -> list[int]:
    """Returns the steps of the checkpoints in the run directory `path`, newest first.

    They are read off the files, so that a damaged list of TensorFlow's manager hides none.
    """
    pattern = re.compile(re.escape(CHECKPOINT_PREFIX) + r"(\d+)\.index")
    names = map(pattern.fullmatch, files.names_in(files.join(path, CHECKPOINTS)))
    return sorted((int(match[1]) for match in names if match), reverse=True)


def prepare(path: str) -> None:
    """Makes the run directory and removes the temporary files that a killed process left in it."""
    files.make_directory(path)
    for name in (SAVED_MODEL, CHECKPOINTS, FIGURES):
        files.remove_leftovers(files.join(path, name))
    files.remove_leftovers(path)


def write_json(path: str, name: str, record: Mapping[str, Any]) -> None:
    """Writes a record as the file `name` of the run directory `path`."""
    files.write_text(files.join(path, name), json.dumps(record, indent=2) + "\n")


def write_history(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `history.csv`, a row an epoch; what was not measured (validation) stays empty."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    files.write_text(files.join(path, HISTORY), text.getvalue())


def _check_same_run(config: Config, recorded: Recorded, data_sha256: Mapping[str, str]) -> None:
    wanted = config.resolved()
    if config.dataset == "auto":  # what that is, is only known once the data was looked for
        wanted = dataclasses.replace(wanted, dataset=recorded.config.get("dataset"))
    differences = wanted.differences(recorded.config)
    known = recorded.data.get("sha256", {})
    differences += [
        f"{name} differ" for name in data_sha256 if known.get(name) != data_sha256[name]
    ]
    if differences:
        raise UsageError(
            f"{config.model_dir} holds another run: {', '.join(differences)};"
            " give another --model_dir, or the run's flags and data"
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
        raise unwritable(path, error.strerror) from None


def unwritable(path: str, reason: object) -> UsageError:
    """Returns the error for a run directory that cannot be written from the start."""
    return UsageError(f"cannot write to --model_dir={path}: {reason}; give another one")
