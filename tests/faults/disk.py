"""A disk that is full and a directory that became read-only, at each kind of write."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from .bench import LAST, Bench, listed, steps_saved, unsound
from .table import Row

_DISK = 24 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
# linux/mount.h, linux/prctl.h, linux/capability.h
_MS_REMOUNT, _PR_CAPBSET_DROP, _CAPABILITIES = 32, 24, (1, 2)
_TRIES = 6  # the last files are written within milliseconds of each other

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
    if sys.platform != "linux":
        return [Row("a read-only directory", 0, "skipped: needs Linux")]
    place = bench.place / "run"
    return [_try(bench, place, name, "a read-only directory", _locked) for name in MOMENTS]


def _bound_by_modes() -> None:
    """Takes from root the capabilities to pass over the mode of a file (capabilities(7))."""
    if os.geteuid() == 0:
        for capability in _CAPABILITIES:
            _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _try(
    bench: Bench,
    directory: pathlib.Path,
    name: str,
    fault: str,
    disturbed: Callable[[pathlib.Path], contextlib.AbstractContextManager[Callable[[], None]]],
) -> Row:
    wrong: list[str] = []
    outcome, tries = "", 0
    while not outcome and tries < _TRIES:
        tries += 1
        outcome = _once(bench, directory, name, disturbed, wrong)
        wrong += bench.finish(directory)[1]
        shutil.rmtree(directory)
    outcome = outcome or "always written before the fault could come"
    what = f"{outcome}; then as if nothing had happened"
    return Row(f"{fault} before {name}", tries, what, tuple(wrong))


def _once(
    bench: Bench,
    directory: pathlib.Path,
    name: str,
    disturbed: Callable[[pathlib.Path], contextlib.AbstractContextManager[Callable[[], None]]],
    wrong: list[str],
) -> str:
    """Returns how the disturbed run failed; nothing if it was faster than the fault."""
    directory.mkdir()
    with disturbed(directory) as disturb:
        if name == "config.json":
            disturb()
        process = bench.start(directory, preexec_fn=_bound_by_modes)
        while process.poll() is None and not MOMENTS[name](directory):
            time.sleep(0.0001)
        while process.poll() is None:
            disturb()
            time.sleep(0.001)
        code, err = process.returncode, process.communicate()[1]
    wrong += unsound(directory)
    if code == 0:
        return ""
    if not re.fullmatch(r"error: [^\n]+\n", err):
        wrong.append(f"exit code {code}, and said: {err[-600:]}")
    return f"exit code {code}: {err[7:].strip().replace(str(directory), 'DIR')}"


@contextlib.contextmanager
def _filled(directory: pathlib.Path) -> Iterator[Callable[[], None]]:
    disk = directory.parent

    def resize(size: int) -> None:
        options = f"size={size}".encode()
        _LIBC.mount(b"none", str(disk).encode(), b"tmpfs", _MS_REMOUNT, options)

    def fill() -> None:
        now = os.statvfs(disk)
        resize(max(1, now.f_blocks - now.f_bfree) * now.f_bsize)

    yield fill
    resize(_DISK)


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[Callable[[], None]]:
    def give(mode: int) -> None:
        for place in (directory, *directory.rglob("*")):
            with contextlib.suppress(OSError):
                if place.is_dir():
                    place.chmod(mode)

    yield lambda: give(0o555)
    give(0o755)
