"""What identifies a run: its flags and data; the code and the versions that compute it."""

import dataclasses
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Callable, Mapping
from typing import Any

import trainer
from trainer.config import Config, Scope
from trainer.errors import UsageError
from trainer.process.console import Console

# What decides the weights; the rest of the package (pictures, reports) may change within a run.
_COMPUTES = ("config.py", "recipes.py", "plan.py", "loop.py", "data", "model", "cluster", "run")


def fingerprint(config: Config, data_sha256: Mapping[str, str]) -> dict[str, str]:
    """Returns what all workers have to agree in, by name; `data_sha256` is `Dataset.sha256`."""
    data = repr(sorted(data_sha256.items())).encode()
    return {
        **{f"--{name}": str(value) for name, value in config.within(Scope.RUN, Scope.PART).items()},
        "data": hashlib.sha256(data).hexdigest()[:12],
        "code": _code_digest(),
        "tensorflow": importlib.metadata.version("tensorflow"),
    }


def check_same_run(
    config: Config,
    recorded: Mapping[str, Any],
    data_sha256: Mapping[str, str],
    recorded_sha256: Mapping[str, str],
) -> None:
    """Raises `UsageError` if configuration or data are of another run than those recorded."""
    wanted = config.resolved()
    # What these are, is only known once the data was looked for.
    for name, unknown in (("dataset", "auto"), ("validation_examples", None)):
        if getattr(config, name) == unknown:
            wanted = dataclasses.replace(wanted, **{name: recorded.get(name)})
    differences = wanted.differences(recorded)
    for name, digest in data_sha256.items():
        if recorded_sha256.get(name) != digest:
            differences.append(f"{name} differ")
    if differences:
        raise UsageError(
            f"{config.model_dir} holds another run: {', '.join(differences)};"
            " give another --model_dir, or the run's flags and data"
        )


def say_where_sums_differ(
    before: Mapping[str, Any], now: Mapping[str, Any], differing: Callable, console: Console
) -> None:
    """Says where sums are rounded otherwise: now than before a resume, or on another worker."""
    # The threads of a CPU may decide the order of sums; in convolutions they always do.
    names = ["replicas", "devices", "processor", *["cpus"] * (now.get("devices") == "CPU")]
    there, here = ({name: str(each.get(name)) for name in names} for each in (before, now))
    notes = [f"{n} was {there[n]} so far, is {here[n]}" for n in names if there[n] != here[n]]
    for note in filter(None, [differing(here), *notes]):
        console.line(f"note: {note}; the weights may differ in the last bits")


def versions() -> dict[str, str]:
    """Returns the versions of what computes the weights."""
    return {
        "trainer": trainer.__version__,
        "code": _code_digest(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        "platform": platform.platform(),
    }


def _code_digest() -> str:
    """Returns the beginning of the SHA-256 of the source files that compute the weights."""
    digest = hashlib.sha256()
    root = pathlib.Path(trainer.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] in _COMPUTES:
            digest.update(f"{name.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
