"""What the tests of whole runs share: a tiny data set to learn, and a process for many runs.

That process answers command lines one after the other, so that TensorFlow is imported once.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import traceback
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from data_mirror import gz_files, write

ROOT = pathlib.Path(__file__).parent.parent

# 500 to train on in batches of 50: ten steps an epoch.
TRAIN, VALIDATION, TEST = 600, 100, 130
FLAGS = (f"--validation_examples={VALIDATION}", "--batch_size=50", "--steps_per_loop=4")
STEPS_AN_EPOCH = 10


def tiny_arrays() -> tuple[np.ndarray, ...]:
    """Returns a data set of ten patterns under heavy noise: quick to learn, never quite."""
    rng = np.random.default_rng(7)
    patterns = rng.integers(0, 256, (10, 7, 7)).repeat(4, 1).repeat(4, 2)
    arrays = []
    for count in (TRAIN, TEST):
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        noise = rng.integers(0, 256, (count, 28, 28))
        arrays += [((patterns[labels] + 4 * noise) // 5).astype(np.uint8), labels]
    return tuple(arrays)


def write_tiny(directory: pathlib.Path) -> pathlib.Path:
    """Writes `tiny_arrays` as four gzip IDX files."""
    return write(directory, gz_files(tiny_arrays()))


def environment(**more: str) -> dict[str, str]:
    """Returns this process's environment and `more`, but nothing that names a cluster or data."""
    described = ("TF_CONFIG", "WORKER_COUNT", "MNIST_DATA_DIR", "TF_CPP_MIN_LOG_LEVEL")
    kept = {name: value for name, value in os.environ.items() if name not in described}
    return kept | more


def task(*flags: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen:
    """Starts `python -m trainer.task` as a process of its own, its output piped as text."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.task", *flags],
        cwd=options.pop("cwd", ROOT),
        env=environment(PYTHONPATH=str(ROOT)) if env is None else env,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
    )


def python(program: str, **options: Any) -> subprocess.Popen:
    """Starts `program`, the text of one, as a process of its own, its output piped as text."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *options.pop("args", ())],
        cwd=ROOT,
        env=environment(),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
    )


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command line led to: exit code, output, and whether TensorFlow is imported since."""

    code: int
    out: str
    err: str
    tensorflow: bool

    @property
    def message(self) -> str:
        """The one line on standard error, without `error: `."""
        assert self.err.startswith("error: "), self.err
        assert self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").strip()


class TaskServer:
    """A process that answers `trainer.task`'s command lines in turn; usable in a `with`."""

    def __init__(self, cwd: pathlib.Path):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=cwd,
            env=environment(),
            text=True,
        )

    def __enter__(self) -> TaskServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __call__(self, *flags: str, code: int | None = 0, **env: str) -> Answer:
        """Runs one command line, with `env` added, and checks its exit code unless that is None."""
        self._process.stdin.write(json.dumps([flags, env]) + "\n")
        self._process.stdin.flush()
        answer = Answer(**json.loads(self._process.stdout.readline()))
        assert code is None or answer.code == code, answer
        return answer


def _serve() -> None:
    from trainer import task as entry

    with os.fdopen(os.dup(1), "w") as answers:
        for request in sys.stdin:
            flags, env = json.loads(request)
            answers.write(json.dumps(_answer(entry, flags, env)) + "\n")
            answers.flush()


def _answer(entry: Any, flags: list[str], env: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        for number, held in ((1, out), (2, err)):
            os.dup2(held.fileno(), number)
        os.environ.update(env)
        try:
            code = entry.main(["task", *flags])
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            for name in env:
                del os.environ[name]
        sys.stdout.flush()
        sys.stderr.flush()
        said = []
        for held in (out, err):
            held.seek(0)
            said.append(held.read().decode())
    loaded = "tensorflow" in sys.modules
    return {"code": code, "out": said[0], "err": said[1], "tensorflow": loaded}


def metrics(directory: pathlib.Path | str) -> dict[str, Any]:
    """Returns a run's `metrics.json`."""
    return json.loads(pathlib.Path(directory, "metrics.json").read_text())


def history(directory: pathlib.Path | str) -> list[dict[str, str]]:
    """Returns the rows of a run's `history.csv`."""
    with open(pathlib.Path(directory, "history.csv"), newline="") as file:
        return list(csv.DictReader(file))


def result(directory: pathlib.Path | str) -> dict[str, Any]:
    """Returns what equal runs have in common: weights, metrics and history without the times."""
    timed = ("train_seconds", "wall_seconds", "seconds", "examples_per_second", "resumed_from_step")
    rows = [{k: v for k, v in row.items() if k not in timed} for row in history(directory)]
    found = {k: v for k, v in metrics(directory).items() if k not in timed}
    return found | {"history": rows}


def snapshot(directory: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """Returns the time of change and the content of every file below a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def events(directory: pathlib.Path) -> list[Any]:
    """Returns all records of the event files that lie directly in `directory`, in order."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [
        event
        for path in sorted(directory.glob("*.tfevents.*"))
        for event in EventFileLoader(str(path)).Load()
    ]


def points(directory: pathlib.Path) -> list[tuple[str, int]]:
    """Returns tag and step of all that the event files in `directory` hold."""
    return [(value.tag, event.step) for event in events(directory) for value in event.summary.value]


def scalar_steps(directory: pathlib.Path, tag: str) -> list[int]:
    """Returns the steps at which a curve has points, in the order they lie in the event files."""
    return [step for found, step in points(directory) if found == tag]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        _serve()
