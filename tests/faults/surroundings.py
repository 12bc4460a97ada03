"""What surrounds a run: the clock, the reader of its output, the environment, the memory."""

from __future__ import annotations

import ctypes.util
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import runs

from .bench import Bench, steps_saved, unsound
from .table import Row

MEMORY_GB = (0.5, 1, 2, 4, 6, 8)


def surroundings(bench: Bench, tries: int, seed: int) -> list[Row]:
    """Each of these once."""
    return [
        _clock(bench),
        _pipe(bench),
        *(_lives(bench, name, **options) for name, options in _SURROUNDINGS.items()),
        _memory(bench),
    ]


def _bare(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(runs.ROOT), **more}


_SURROUNDINGS: dict[str, dict[str, Any]] = {
    "no HOME, no TMPDIR, LC_ALL=C": {"env": _bare(LC_ALL="C")},
    "HOME and TMPDIR that are not there": {"env": _bare(HOME="/nowhere", TMPDIR="/nowhere")},
    "standard output on a full disk (/dev/full)": {"stdout": "/dev/full"},
    "standard output and error closed": {"preexec_fn": lambda: (os.close(1), os.close(2))},
}


def _lives(bench: Bench, name: str, **options: Any) -> Row:
    directory = bench.place / "surrounded"
    if "stdout" in options:
        options["stdout"] = open(options["stdout"], "w")  # noqa: SIM115, the process's
    process = bench.start(directory, **options)
    err = process.communicate()[1]
    wrong = [] if process.returncode == 0 else [f"exit code {process.returncode}"]
    wrong += [f"said {err[-500:]}"] if err else []
    wrong += bench.differences(directory)
    shutil.rmtree(directory, ignore_errors=True)
    return Row(name, 1, "as if nothing had happened; nothing on standard error", tuple(wrong))


def _pipe(bench: Bench) -> Row:
    directory = bench.place / "piped"
    process = bench.start(directory)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    wrong = [] if process.wait() == 0 else [f"exit code {process.returncode}"]
    wrong += [f"said {err[-500:]}"] if err else []
    wrong += bench.differences(directory)
    shutil.rmtree(directory, ignore_errors=True)
    return Row("a reader that leaves (`| head -1`)", 1, "went on to the same end", tuple(wrong))


def _clock(bench: Bench) -> Row:
    """Kills a run in the middle and resumes it a year before."""
    name = "the clock set back a year between two starts"
    library = _faketime()
    if not library:
        return Row(name, 0, "skipped: needs libfaketime (Debian: faketime)")
    directory = bench.place / "back"
    process = bench.start(directory)
    while process.poll() is None and steps_saved(directory) < 45:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    preloaded = {"LD_PRELOAD": library, "FAKETIME": "-365d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    env = runs.environment(PYTHONPATH=str(runs.ROOT), **preloaded)
    command = [sys.executable, "-c", "import time; print(time.time())"]
    told = float(subprocess.run(command, env=env, capture_output=True, text=True).stdout)
    if time.time() - told < 300 * 86_400:
        return Row(name, 0, "skipped: libfaketime does not work here")
    process = bench.start(directory, env=env)
    err = process.communicate()[1]
    wrong = [] if process.returncode == 0 else [f"exit code {process.returncode}: {err[-500:]}"]
    wrong += bench.differences(directory)
    shutil.rmtree(directory, ignore_errors=True)
    return Row(name, 1, "same weights, metrics, history and events", tuple(wrong))


def _faketime() -> str | None:
    given = os.environ.get("FAKETIME_LIBRARY")
    places = [*([given] if given else []), "/usr/lib/*/faketime/libfaketimeMT.so.1"]
    found = [path for place in places for path in pathlib.Path("/").glob(place.lstrip("/"))]
    return str(found[0]) if found else ctypes.util.find_library("faketimeMT")


def _memory(bench: Bench) -> Row:
    """Gives a run less address space than it needs, then enough."""
    ends, wrong = [], []
    for gigabytes in MEMORY_GB:
        directory = bench.place / "tight"
        size = int(gigabytes * (1 << 30))
        process = bench.start(
            directory,
            preexec_fn=lambda size=size: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        )
        process.communicate()
        code = process.returncode
        ends.append(
            f"{gigabytes} GB: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        )
        if directory.exists():
            wrong += unsound(directory)
        wrong += bench.finish(directory)[1]
        shutil.rmtree(directory, ignore_errors=True)
    outcome = f"{', '.join(ends)}; nothing torn, and then, with enough, as if nothing had happened"
    return Row("less memory than it needs (RLIMIT_AS)", len(MEMORY_GB), outcome, tuple(wrong))
