"""A run to disturb, what it comes to undisturbed, and the questions asked of what a fault left."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import os
import pathlib
import re
import resource
import subprocess
import xml.etree.ElementTree
from typing import Any

import runs

from trainer.process import startup

# 90 steps, a checkpoint every third: whenever a run ends, it is between two of them.
FLAGS = (
    *("--epochs=9", "--checkpoint_every=3", "--jit_compile=off", "--keep_checkpoints=2"),
    *runs.FLAGS,
)
LAST = 90

# What a process that was killed may leave, and the next one clears away.
LEFTOVER = re.compile(r"\.partial-|_temp|\.tempstate|^\.lock$")


@dataclasses.dataclass(frozen=True)
class Bench:
    """A place to run in.

    Attributes:
      place: an empty directory.
      data: the tiny data set.
      undisturbed: the directory of a run that nobody disturbed.
      life_s: seconds of CPU that it took, from the start of the process to its end: the clock of a
        process, which does not go faster or slower with the load of the machine.
    """

    place: pathlib.Path
    data: pathlib.Path
    undisturbed: pathlib.Path
    life_s: float

    def start(self, directory: pathlib.Path, *more: str, **options: Any) -> subprocess.Popen:
        """Starts the run of FLAGS as a process of its own."""
        return _start(self.data, directory, *more, **options)

    def differences(self, directory: pathlib.Path) -> list[str]:
        """Returns in what a finished run differs from the undisturbed one, and what is unsound."""
        found = [] if (directory / "metrics.json").exists() else ["no metrics.json"]
        found += unsound(directory)
        if found:
            return found
        here, there = runs.result(directory), runs.result(self.undisturbed)
        found += [f"{name} differs" for name in there if here.get(name) != there[name]]
        for part in ("train", "validation", "test"):
            curves = [
                sorted(runs.points(run / "tensorboard" / part))
                for run in (directory, self.undisturbed)
            ]
            if curves[0] != curves[1]:
                found.append(f"the events of {part} differ")
        names = [_names(run) for run in (directory, self.undisturbed)]
        found += [f"left over: {name}" for name in sorted(names[0] - names[1])]
        found += [f"missing: {name}" for name in sorted(names[1] - names[0])]
        return found

    def finish(self, directory: pathlib.Path, *more: str) -> tuple[str, list[str]]:
        """Runs the same command again, undisturbed; returns its errors, and what is wrong."""
        process = self.start(directory, *more)
        err = process.communicate()[1]
        if process.returncode:
            return err, [f"exit code {process.returncode}: {err[-500:]}"]
        return err, self.differences(directory)


def _names(directory: pathlib.Path) -> set[str]:
    """Returns what lies in a run's directory; event files are called after the time."""
    paths = (str(path.relative_to(directory)) for path in directory.rglob("*"))
    return {re.sub(r"\.tfevents\..*", ".tfevents", path) for path in paths}


def _start(
    data: pathlib.Path, directory: pathlib.Path, *more: str, **options: Any
) -> subprocess.Popen:
    return runs.task(*FLAGS, f"--data_dir={data}", f"--model_dir={directory}", *more, **options)


def make(place: pathlib.Path) -> Bench:
    """Makes the data and the undisturbed run below an empty directory."""
    data = runs.write_tiny(place / "data")
    undisturbed = place / "undisturbed"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = _start(data, undisturbed)
    err = process.communicate()[1]
    if process.returncode or err:
        raise RuntimeError(f"the undisturbed run failed: {err}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    life_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Bench(place, data, undisturbed, life_s)


def steps_saved(directory: pathlib.Path) -> int:
    """Returns the newest checkpoint's step, 0 for none."""
    names = (re.fullmatch(r"step-(\d+)\.index", name) for name in listed(directory / "checkpoints"))
    return max((int(match[1]) for match in names if match), default=0)


def listed(directory: pathlib.Path) -> list[str]:
    """Returns the names in a directory, none if it is not there."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def unsound(directory: pathlib.Path) -> list[str]:
    """Returns what is not whole of all that has a final name; temporary files may be anything.

    Event files grow while a run lives, so their last record may be cut until it has finished.
    """
    found = []
    for path in sorted(directory.rglob("*")):
        inner = path.relative_to(directory)
        if any(LEFTOVER.search(part) for part in inner.parts):
            continue
        try:
            _open(path)
        except Exception as error:
            found.append(f"{inner}: {type(error).__name__}: {str(error)[:200]}")
    return found


def _open(path: pathlib.Path) -> None:
    """Reads a file as who uses it would; raises whatever it may if it is not whole."""
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".csv":
        rows = list(csv.reader(path.read_text().splitlines()))
        assert rows
        assert {len(row) for row in rows} == {len(rows[0])}
    elif path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".svg":
        xml.etree.ElementTree.parse(path)
    elif path.suffix == ".html":
        text = path.read_text()
        html.parser.HTMLParser().feed(text)
        assert text.rstrip().endswith("</html>")
    elif path.suffix == ".index" and path.parent.name == "checkpoints":
        reader = startup.import_tensorflow().train.load_checkpoint(str(path.with_suffix("")))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    elif path.parent.name == "saved_model" and path.is_dir():
        tf = startup.import_tensorflow()
        answer = tf.saved_model.load(str(path)).signatures["serving_default"]
        answer(images=tf.zeros((1, 28, 28), tf.uint8))
