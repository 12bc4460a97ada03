"""SIGKILL at every kind of moment: a run that died many deaths ends as one that was left alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable

from .bench import LAST, Bench, steps_saved, unsound
from .table import Row

KILLS_A_RUN = 10
# Files that are being written live for milliseconds.
_LOOK_S = 0.0003
_HALF = re.compile(r"\.partial-")


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: once a name that fits is new in one of the places, then up to `more_s` more."""

    name: str
    fits: str
    places: tuple[str, ...]
    more_s: float = 0.0

    def come(self, directory: pathlib.Path, since_ns: int) -> bool:
        """Whether the process that was started at `since_ns` has come to it."""
        for place in self.places:
            with contextlib.suppress(OSError), os.scandir(directory / place) as entries:
                for entry in entries:
                    # What an earlier process left may be there still.
                    if re.search(self.fits, entry.name) and entry.stat().st_ctime_ns > since_ns:
                        return True
        return False


ANY = "at any moment of the clock"
TRAINING = "in training"
CHECKPOINT = Moment("while a checkpoint is written", r"\.partial-", ("checkpoints",))
SAVED_MODEL = Moment("while the SavedModel is written", r"\.partial-", ("saved_model",), 0.3)
PICTURE = Moment("while the pictures are drawn", r"^\d+$", ("saved_model",), 0.8)
REPORT = Moment(
    "while a picture, the report or the result is written",
    r"\.partial-.*(png|svg|html|metrics\.json)$",
    ("", "figures"),
)
MOMENTS = (ANY, TRAINING, *(m.name for m in (CHECKPOINT, SAVED_MODEL, PICTURE, REPORT)))


@dataclasses.dataclass
class Tally:
    """Kills of a kind; how many left a half-written file behind; what was not whole after them."""

    kills: int = 0
    caught: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)


def kills(bench: Bench, tries: int, seed: int) -> list[Row]:
    """Kills `tries` processes, `KILLS_A_RUN` a run, and compares how each run ends."""
    chance = random.Random(seed)
    tallies = {name: Tally() for name in MOMENTS}
    ends: list[list[str]] = []
    done = 0
    while done < tries:
        directory = bench.place / "killed"
        _life(bench, directory, min(KILLS_A_RUN, tries - done), chance, tallies)
        err, differing = bench.finish(directory)
        ends.append([*differing, *([f"it said {err[:300]}"] if err else [])])
        shutil.rmtree(directory)
        done = sum(tally.kills for tally in tallies.values())
        print(f"  {done} kills, {len(ends)} runs; the last {ends[-1] or 'equal'}", flush=True)
    rows = [
        Row(
            f"SIGKILL {name}",
            tally.kills,
            f"{tally.caught} left a half-written file, under a temporary name; all under a final"
            " name were whole",
            tuple(tally.wrong),
        )
        for name, tally in tallies.items()
    ]
    differing = tuple(what for end in ends for what in end)
    outcome = (
        "all ended with exit code 0, nothing on standard error, and the undisturbed run's"
        " `weights_sha256`, metrics, history and events, and no leftovers:"
        f" {sum(map(bool, ends))} differ"
    )
    return [*rows, Row(f"runs that took these {done} SIGKILLs", len(ends), outcome, differing)]


def _life(
    bench: Bench,
    directory: pathlib.Path,
    kills: int,
    chance: random.Random,
    tallies: dict[str, Tally],
) -> None:
    """Starts a run and kills it, up to `kills` times."""
    for number in range(kills):
        before = steps_saved(directory)
        since = time.time_ns()
        process = bench.start(directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The first six kills shall leave something to train for the ones after them.
        left = kills - 4 - number
        far = chance.randint(3, max(6, (LAST - before) // max(1, left)))
        target = min(before + far, LAST)
        kind = chance.choice(
            [ANY, TRAINING, TRAINING, CHECKPOINT, CHECKPOINT]
            if before < LAST and left > 0
            else [ANY, SAVED_MODEL, PICTURE, REPORT]
        )
        if kind == ANY:
            moment = chance.uniform(0, bench.life_s)
            _wait(process, lambda p=process, end=moment: _lived_s(p) >= end)
        elif kind == TRAINING:
            _wait(process, lambda target=target: steps_saved(directory) >= target)
            _sleep(process, chance.uniform(0, 0.05))
        else:
            if kind is CHECKPOINT:
                _wait(process, lambda target=target: steps_saved(directory) >= target - 3)
            _wait(process, lambda kind=kind, since=since: kind.come(directory, since))
            _sleep(process, chance.uniform(0, kind.more_s))
        process.kill()
        if process.wait() == 0:  # it was faster
            return
        tally = tallies[kind if isinstance(kind, str) else kind.name]
        tally.kills += 1
        tally.caught += any(
            _HALF.search(path.name) and path.lstat().st_ctime_ns > since
            for path in directory.rglob("*")
        )
        tally.wrong += unsound(directory)


def _wait(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(_LOOK_S)


def _sleep(process: subprocess.Popen, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))


def _lived_s(process: subprocess.Popen) -> float:
    """Seconds of CPU that a process has taken: utime and stime of proc_pid_stat(5)."""
    with contextlib.suppress(OSError):
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return float("inf")
