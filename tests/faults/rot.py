"""Files that rot: checkpoints and event files cut, altered, emptied and lost, newest and all."""

from __future__ import annotations

import collections
import pathlib
import random
import re
import shutil
from collections.abc import Callable

import runs

from .bench import LAST, Bench
from .table import Row


def _flip(path: pathlib.Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _cut(path: pathlib.Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def _lose(path: pathlib.Path, chance: random.Random) -> None:
    path.unlink()


DAMAGE: dict[str, Callable[[pathlib.Path, random.Random], None]] = {
    "a flipped bit in": _flip,
    "cut short:": _cut,
    "missing:": _lose,
}
FILES = {
    "data": "step-*.data-*",
    "index": "step-*.index",
    "list (`checkpoint`)": "checkpoint",
}


def checkpoints(bench: Bench, tries: int, seed: int) -> list[Row]:
    """Damages each file of a checkpoint of a run that has come to its last step."""
    chance = random.Random(seed)
    return [
        _checkpoint(bench, chance, damage, file, which)
        for damage in DAMAGE
        for file in FILES
        for which in ("newest", "all")
        if which == "newest" or file in ("data", "index")
    ]


def _checkpoint(bench: Bench, chance: random.Random, damage: str, file: str, which: str) -> Row:
    directory = _unfinished(bench)
    paths = sorted((directory / "checkpoints").glob(FILES[file]))
    for path in paths[-1:] if which == "newest" else paths:
        DAMAGE[damage](path, chance)
    err, wrong = bench.finish(directory)
    told = re.fullmatch(r"(warning: damaged checkpoint passed over: [^\n]+\n)*", err)
    if not told:
        wrong.append(f"said {err[:400]}")
    outcome = "nothing"
    if not wrong:
        from_step = runs.metrics(directory)["resumed_from_step"]
        count = err.count("\n")
        where = f"resumed at step {from_step} of {LAST}" if from_step else "began again"
        outcome = f"{count} passed over with a warning each; {where}; same `weights_sha256`"
    shutil.rmtree(directory)
    of = "" if file not in ("data", "index") else f" of {which}"
    return Row(f"checkpoints, {damage} the {file}{of}", 1, outcome, tuple(wrong))


def _unfinished(bench: Bench) -> pathlib.Path:
    directory = bench.place / "rotten"
    shutil.copytree(bench.undisturbed, directory)
    (directory / "metrics.json").unlink()
    return directory


def events(bench: Bench, tries: int, seed: int) -> list[Row]:
    """Damages an event file of a run that is to finish; its curves may have lost what was there."""
    chance = random.Random(seed)
    rows = []
    for damage in DAMAGE:
        outcomes: collections.Counter[str] = collections.Counter()
        wrong: list[str] = []
        for part in ("train", "validation"):
            directory = _unfinished(bench)
            DAMAGE[damage](next((directory / "tensorboard" / part).glob("*.tfevents.*")), chance)
            err, found = bench.finish(directory)
            # Nothing can bring back the points that were in it.
            lost = (
                f"the events of {part} differ",
                f"missing: tensorboard/{part}/events.out.tfevents",
            )
            found = [what for what in found if what not in lost]
            wrong += [*found, *([f"said {err[:400]}"] if err else [])]
            here, there = (
                runs.points(run / "tensorboard" / part) for run in (directory, bench.undisturbed)
            )
            if not set(here) <= set(there) or len(set(here)) < len(here):
                wrong.append(f"{part} has points that it should not have")
            outcomes[f"{len(here)} of {len(there)} points of {part} left"] += 1
            shutil.rmtree(directory)
        outcome = "; ".join(outcomes) + "; all else as if nothing had happened"
        rows.append(Row(f"{damage} an event file", 2, outcome, tuple(wrong)))
    return rows
