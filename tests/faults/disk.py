"""A disk that is full and a directory that became read-only, at each kind of write."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import runs

from .bench import LAST, Bench, listed, steps_saved, unsound
from .table import Row

_DISK = 24 << 20
_NOBODY = 65534

# What is the next thing to be written when the fault comes, and how one sees that it is.
MOMENTS: dict[str, Callable[[pathlib.Path], bool]] = {
    "config.json": lambda run: True,
    "the first events": lambda run: (run / "config.json").exists(),
    "a checkpoint": lambda run: steps_saved(run) > 0,
    "history.csv": lambda run: (run / "history.csv").exists(),
    "the SavedModel": lambda run: steps_saved(run) == LAST,
    "predictions.png": lambda run: str(LAST) in listed(run / "saved_model"),
    "the figures": lambda run: (run / "predictions.png").exists(),
    "the report": lambda run: any(name.endswith("svg") for name in listed(run / "figures")),
    "metrics.json": lambda run: (run / "report.html").exists(),
}


def full(bench: Bench, tries: int, seed: int) -> list[Row]:
    """Fills the disk before each kind of write; what the run says; then there is room again."""
    place = bench.place / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        return [Row("a full disk", 0, "skipped: only root can mount a small disk")]
    try:
        return [_try(bench, place / "run", name, "a full disk", _filled) for name in MOMENTS]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def read_only(bench: Bench, tries: int, seed: int) -> list[Row]:
    """Takes away the right to write before each kind of write; then gives it back."""
    place = bench.place / "other"
    place.mkdir()
    options = {}
    if os.geteuid() == 0:  # whom no mode binds
        os.chown(place, _NOBODY, _NOBODY)
        for path in (bench.place, *bench.place.parents):
            if not stat.S_IMODE(path.stat().st_mode) & 0o001:
                path.chmod(0o755)
        options = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        home = str(place)
        options["env"] = runs.environment(PYTHONPATH=str(runs.ROOT), HOME=home)
        able = subprocess.run(
            [sys.executable, "-c", "import numpy"], capture_output=True, **options
        )
        if able.returncode:
            return [Row("a read-only directory", 0, "skipped: only root can read this Python")]
    return [
        _try(
            bench, place / name.replace(" ", "-"), name, "a read-only directory", _locked, **options
        )
        for name in MOMENTS
    ]


def _try(
    bench: Bench,
    directory: pathlib.Path,
    name: str,
    fault: str,
    disturbed: Callable[[pathlib.Path], contextlib.AbstractContextManager[Callable[[], None]]],
    **options,
) -> Row:
    directory.mkdir()
    if options:
        os.chown(directory, options["user"], options["group"])
    wrong: list[str] = []
    with disturbed(directory) as disturb:
        if name == "config.json":
            disturb()
        process = bench.start(directory, **options)
        while process.poll() is None and not MOMENTS[name](directory):
            time.sleep(0.0005)
        while process.poll() is None:
            disturb()
            time.sleep(0.002)
        code, err = process.returncode, process.communicate()[1]
    wrong += unsound(directory)
    told = re.fullmatch(r"error: [^\n]+\n", err)
    if code == 0:
        outcome = "went on to its end"
    elif told:
        said = re.sub(
            r"\S*/(run|other)\S*", lambda m: "DIR" + m[0].partition("run")[2], err[7:].strip()
        )
        outcome = f"exit code {code}: {said}"
    else:
        outcome = f"exit code {code}"
        wrong.append(f"exit code {code}, and said: {err[-600:]}")
    wrong += bench.finish(directory)[1]
    shutil.rmtree(directory)
    return Row(
        f"{fault} before {name}", 1, outcome + "; then as if nothing had happened", tuple(wrong)
    )


@contextlib.contextmanager
def _filled(directory: pathlib.Path) -> Iterator[Callable[[], None]]:
    ballast = directory.parent / "ballast"

    def fill() -> None:
        with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    yield fill
    ballast.unlink()


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[Callable[[], None]]:
    def lock() -> None:
        for place in (directory, *directory.rglob("*")):
            with contextlib.suppress(OSError):
                if place.is_dir():
                    place.chmod(0o555)

    yield lock
    for place in (directory, *directory.rglob("*")):
        if place.is_dir():
            place.chmod(0o755)
