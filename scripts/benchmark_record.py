"""What a benchmark measured: every run, the table, and the machine; printed and written as JSON."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSIONS = ("tensorflow", "keras", "numpy", "matplotlib")

# What is measured: its name in the JSON file, its name in a table, and its format there.
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "test_accuracy": ("test accuracy", "{:.2%}".format),
    "standard_deviation": ("standard deviation", "{:.2%}".format),
    "calibration_error": ("calibration error", "{:.1%}".format),
    "parameters": ("parameters", "{:,}".format),
    "train_seconds": ("training", "{:.1f} s".format),
    "wall_seconds": ("whole process", "{:.1f} s".format),
    "step_seconds": ("a step", lambda seconds: f"{1e3 * seconds:.3f} ms"),
    "digits_per_second": ("digits a second", "{:,.0f}".format),
    "peak_bytes": ("peak memory", lambda size: f"{size / 1e6:,.0f} MB"),
    "numbers_read": ("numbers read exactly", "{:.1%}".format),
    "digits_in_place": ("digits in their places", "{:.1%}".format),
    "single_digits_read": ("single digits", "{:.1%}".format),
    "unsure": ("digits marked unsure", "{:.1%}".format),
    "nothing_read": ("nothing read for sure", "{:.1%}".format),
    "processor_seconds": ("median processor time", "{:.3f} s".format),
    "most_seconds": ("longest", "{:.3f} s".format),
    "batch_size": ("batch", str),
    "times_as_fast": ("times as fast as it", "{:.2f}".format),
    "ratio": ("ratio", "{:.2f}".format),
    "time_ratio": ("share of its time", "{:.2f}".format),
    "memory_ratio": ("share of its memory", "{:.2f}".format),
}


class Record:
    """The runs and the table of one benchmark."""

    def __init__(self):
        self.runs: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def run(self, **values: Any) -> dict[str, Any]:
        """Adds a run, prints it, and returns it."""
        self.runs.append(values)
        print(", ".join(" ".join(_cell(*value)) for value in values.items()), flush=True)
        return values

    def row(self, **values: Any) -> None:
        """Adds a row to the table."""
        self.rows.append(values)

    def table(self) -> str:
        """Returns the rows in Markdown; where the columns change another table begins."""
        lines: list[str] = []
        for columns, rows in itertools.groupby(self.rows, key=tuple):
            cells = [[_cell(*value) for value in row.items()] for row in rows]
            lines += ["", _line(name for name, _ in cells[0]), _line("---" for _ in columns)]
            lines += [_line(text for _, text in row) for row in cells]
        return "\n".join(lines)

    def write(self, path: pathlib.Path, arguments: Sequence[str], started: float) -> None:
        """Writes everything as JSON, with the machine."""
        everything = {
            "arguments": list(arguments),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "machine": machine(),
            "table": self.rows,
            "runs": self.runs,
        }
        path.write_text(json.dumps(everything, indent=2) + "\n")


def _cell(name: str, value: Any) -> tuple[str, str]:
    """Returns the heading and the text of a value."""
    heading, text = COLUMNS.get(name, (name.replace("_", " "), str))
    return heading, "-" if value is None else text(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> dict[str, Any]:
    """Returns where this was measured and with what."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        fields = dict(map(str.strip, line.split(":", 1)) for line in file if ":" in line)
    features = set(fields.get("flags", fields.get("Features", "")).split())
    wide = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "bf16")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in wide if name in features],
        "cores": len(cores),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _output("nvidia-smi", "--list-gpus").splitlines(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "commit": _output("git", "describe", "--always", "--dirty"),
    }


def _output(*command: str) -> str:
    """Returns what a program prints, or nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
