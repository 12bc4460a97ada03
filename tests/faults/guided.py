"""Inputs that coverage guides: those of `mutants.py`, grown by atheris where it is installed.

Mutants are drawn blindly; here an input that reaches a new line of a reader is kept and mutated
further. Apart from `mutants.py` because atheris (`pip install atheris`, Linux and macOS) is no
dependency of the tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import pathlib
import random
import re
import subprocess
import sys
import tempfile

from .bench import Bench
from .mutants import FORMATS, SLOWEST_S, Wrong
from .table import Row

# A server that answers on a thread of its own is not traced.
_FORMATS = [name for name in FORMATS if name != "requests to trainer.draw"]
_SEEDS = 50
_MEMORY_MB = 2048


def guided(bench: Bench | None, tries: int, seed: int, *formats: str) -> list[Row]:
    """Reads `tries` inputs of each format, in a process of its own; none without atheris."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: nothing is guided by coverage")
        return []
    return [_row(name, tries, seed) for name in formats or _FORMATS]


def _row(name: str, tries: int, seed: int) -> Row:
    root = pathlib.Path(__file__).parents[2]
    with tempfile.TemporaryDirectory(prefix="guided-") as place:
        command = [sys.executable, "-m", "tests.faults.guided", name, str(tries), str(seed), place]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="replace")
    counted = re.search(r"Done ([0-9]+) runs in ([0-9]+) second", done.stderr)
    grown = re.findall(r"cov: ([0-9]+) ", done.stderr)
    wrong = ()
    if done.returncode or not counted:
        wrong = (f"the process ended with {done.returncode}: {done.stderr[-1500:]}",)
    outcome = (
        f"read as they say or refused in one line: 0 with a traceback, 0 over {SLOWEST_S:g} s;"
        f" from {grown[0] if grown else '?'} to {grown[-1] if grown else '?'} edges reached"
    )
    return Row(f"inputs of {name}, guided by coverage", tries, outcome, wrong)


def _fuzz(name: str, tries: int, seed: int, place: pathlib.Path) -> None:
    """Does not return: libFuzzer ends the process, with 0 if nothing was found."""
    import atheris

    with atheris.instrument_imports(include=["trainer"], enable_loader_override=False):
        import trainer.compare

        import trainer.cluster.devices
        import trainer.data.idx
        import trainer.data.npz
        import trainer.picture.digits
        import trainer.predict
        import trainer.results.event_files
        import trainer.run.directory
        import trainer.task  # noqa: F401, they are instrumented here
    from trainer.errors import DataError, UsageError

    (empty := place / "place").mkdir()
    (corpus := place / "corpus").mkdir()
    format, chance = FORMATS[name](empty), random.Random(f"{name} {seed}")
    for number in range(_SEEDS):
        (corpus / str(number)).write_bytes(format.mutant(chance))

    def one(content: bytes) -> None:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                format.judge(content)
        except (DataError, UsageError) as error:
            if "\n" in str(error) or not str(error):
                raise Wrong(f"message {error}") from error

    limits = (f"-timeout={SLOWEST_S:g}", f"-rss_limit_mb={_MEMORY_MB}")
    atheris.Setup(
        [
            "guided",
            str(corpus),
            f"-runs={tries}",
            f"-seed={seed}",
            *limits,
            f"-artifact_prefix={tempfile.gettempdir()}/",
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4]))
