"""The directory of a run: the names in it, its records, and what state the run there is in."""

import csv
import dataclasses
import enum
import io
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.cluster.devices import Devices
from trainer.config import PRECISIONS, Config
from trainer.data import Dataset
from trainer.errors import StorageError, UsageError
from trainer.plan import Plan
from trainer.process.console import counted
from trainer.process.startup import available_cpus
from trainer.run import files, identity

CONFIG, METRICS, HISTORY = "config.json", "metrics.json", "history.csv"
CHECKPOINTS, TENSORBOARD, SAVED_MODEL = "checkpoints", "tensorboard", "saved_model"
PREDICTIONS, FIGURES, REPORT = "predictions.png", "figures", "report.html"
KERAS, SAMPLE = "model.keras", "sample.png"
CHECKPOINT_PREFIX = "step-"
Record = Mapping[str, Any]
# A finished run that lost one of these is finished again. Event files cannot be made again.
_RESULTS = (PREDICTIONS, FIGURES, REPORT, HISTORY, KERAS)


class State(enum.Enum):
    """How far the run in a directory has come."""

    NEW = "there is none"
    RESUMABLE = "it goes on from its newest checkpoint"
    TRAINED = "its newest checkpoint is that of its last step; its results are not written"
    FINISHED = "everything is written"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The run that a directory holds: what `config.json` and `metrics.json` say."""

    state: State = State.NEW
    config: Record = dataclasses.field(default_factory=dict)
    resolved: Record = dataclasses.field(default_factory=dict)  # `trained_on`
    data: Record = dataclasses.field(default_factory=dict)  # its name and checksums
    epochs: int = 0  # 0 until the run has finished


def default_path(dataset: str, model: str) -> str:
    """Returns a new path `runs/<dataset>-<model>-<time>`."""
    while os.path.lexists(path := time.strftime(f"runs/{dataset}-{model}-%Y%m%d-%H%M%S")):
        time.sleep(0.1)
    return path


def examine(
    config: Config, *, last_step: int | None = None, data_sha256: Mapping[str, str] | None = None
) -> Recorded:
    """Returns what `config.model_dir` holds.

    `last_step` tells `TRAINED` from `RESUMABLE`; `data_sha256` (`Dataset.sha256`) is compared.
    Raises `UsageError` if a record is damaged, or it is another run, or not what `--resume` allows.
    """
    path = config.model_dir
    recorded = read(path) if path else Recorded()
    if config.init_from and not (path and checkpoint_steps(path)):
        _check_source(config.init_from, config.model)
    if recorded.state is State.NEW:
        if config.resume == "must":
            raise UsageError(f"--resume=must, but {path or 'a new one'} holds no run; name one")
        return recorded
    if config.resume == "never":
        raise UsageError(f"--resume=never, but {path} holds a run; give another --model_dir")
    known = recorded.data["sha256"]
    identity.check_same_run(config, recorded.config, data_sha256 or {}, known)
    if recorded.epochs >= config.epochs:
        return recorded
    trained = checkpoint_steps(path)[:1] == [last_step]
    return dataclasses.replace(recorded, state=State.TRAINED if trained else State.RESUMABLE)


def _check_source(path: str, model: str) -> None:
    """Raises `UsageError` unless the run in `path` has weights for this model."""
    found = read(path).config.get("model")
    if not found or not checkpoint_steps(path):
        raise UsageError(f"--init_from={path} holds no run with a checkpoint; name one that does")
    if found != model:
        raise UsageError(f"--init_from={path} holds weights of {found}; use --model={found}")


def check_path(path: str, *, write: bool) -> None:
    """Raises `UsageError` if the local `path` is no directory, or, if asked, cannot be written."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current directory is gone; change to one that is there") from None
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UsageError(f"--model_dir={path} is not a directory; give another one")
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    try:
        if write:
            tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UsageError(
            f"cannot write to --model_dir={path}: {files.why(error, place)}; give another one"
        ) from None


def finished_line(config: Config, recorded: Recorded) -> str:
    """Returns what to print about a run that is finished already."""
    epochs = counted(recorded.epochs, "epoch")
    return f"{config.model_dir}: finished already, {epochs}; more --epochs continue it"


def has_finished(config: Config) -> bool:
    """Returns whether the run is finished: another worker may have done it meanwhile."""
    return read(config.model_dir).epochs >= config.epochs


def read(path: str) -> Recorded:
    """Returns what the run directory `path` has recorded; raises `UsageError` if it is damaged."""
    file = files.join(path, CONFIG)
    advice = "put it back from a copy, or give another --model_dir"
    try:
        if (text := files.read_text(file)) is None and not checkpoint_steps(path):
            return Recorded()
        if text is None:
            raise UsageError(f"{path} has checkpoints, but no {CONFIG} that says of what; {advice}")
        record = json.loads(text)
        config, resolved, data = ({**record[name]} for name in ("config", "resolved", "data"))
        data["sha256"] = {**data.get("sha256", {})}
        if resolved.get("precision", "float32") not in PRECISIONS:
            raise ValueError(f"precision is {resolved['precision']}")
        file, advice = files.join(path, METRICS), "remove it, and it is written again"
        metrics = json.loads(files.read_text(file) or "{}")
        results = (*_RESULTS, files.join(SAVED_MODEL, str(metrics.get("steps"))))
        whole = all(files.exists(files.join(path, name)) for name in results)
        epochs = int(metrics["epochs"]) if metrics.get("finished") is True and whole else 0
    except OSError as error:  # of a file system that may come back
        why = files.why(error, path)
        raise StorageError(f"{error.filename} cannot be read: {why}; try again") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read ({error!r:.100}); {advice}") from None
    state = State.FINISHED if epochs else State.RESUMABLE
    return Recorded(state, config, resolved, data, epochs)


def checkpoint_steps(path: str) -> list[int]:
    """Returns the steps of a run's checkpoints, newest first; a damaged list of them hides none."""
    pattern = re.compile(CHECKPOINT_PREFIX + r"(\d+)\.index")
    names = map(pattern.fullmatch, files.names_in(files.join(path, CHECKPOINTS)))
    return sorted((int(match[1]) for match in names if match), reverse=True)


def trained_on(plan: Plan, devices: Devices) -> dict[str, Any]:
    """Returns the `resolved` part of `config.json`: what `auto` became, devices and processor."""
    return {
        "precision": plan.precision,
        "jit_compile": plan.jit_compile,
        "steps_per_loop": plan.steps_per_loop,
        "strategy": devices.name,
        "devices": devices.hardware.kind,
        "processor": devices.hardware.name,
        "replicas": devices.replicas,
        "workers": len(devices.cluster.workers),
        "cpus": available_cpus(),
    }


def record(
    plan: Plan, resolved: Record, dataset: Dataset, history: Sequence[Record], initial: Record
) -> None:
    """Writes `config.json`, and `history.csv` as it is in the checkpoint that the run begins at."""
    content = {
        "config": dataclasses.asdict(plan.config),
        "resolved": dict(resolved),
        "data": {"name": dataset.name, "source": dataset.source, "sha256": dict(dataset.sha256)},
        "initial_weights": dict(initial),
        "versions": identity.versions(),
    }
    files.remove_leftovers(plan.config.model_dir)
    write_json(plan.config.model_dir, CONFIG, content)
    if history:
        write_history(plan.config.model_dir, history)


def write_json(path: str, name: str, record: Mapping[str, Any]) -> None:
    """Writes a record as the file `name` of the run directory `path`."""
    files.write_text(files.join(path, name), json.dumps(record, indent=2) + "\n")


def write_history(path: str, rows: Sequence[Record]) -> None:
    """Writes `history.csv`, a row an epoch; what was not measured (validation) stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(files.join(path, HISTORY), text.getvalue())
