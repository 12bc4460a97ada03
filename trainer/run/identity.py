"""What identifies a run: its flags, its data, the code and the versions that compute it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import trainer
from trainer.cluster.devices import Devices
from trainer.config import Config, Scope
from trainer.data import Dataset
from trainer.plan import Plan
from trainer.process.startup import available_cpus
from trainer.run import directory

# What decides the weights, below the package; the rest (pictures, pages, reports) may change
# within a run.
_COMPUTES = ("config.py", "plan.py", "job.py", "loop.py", "data", "model", "cluster", "run")


def fingerprint(config: Config, data_sha256: Mapping[str, str]) -> dict[str, str]:
    """Returns what all workers of a run have to agree in, by the name an error calls it.

    `data_sha256` is `Dataset.sha256`.
    """
    flags = config.within(Scope.RUN, Scope.PART)
    data = repr(sorted(data_sha256.items())).encode()
    return {
        **{f"--{name}": str(value) for name, value in flags.items()},
        "data": hashlib.sha256(data).hexdigest()[:12],
        "code": code_sha256()[:12],
        "tensorflow": importlib.metadata.version("tensorflow"),
    }


def record(
    plan: Plan, devices: Devices, dataset: Dataset, *, resolved: Mapping[str, Any] | None = None
) -> None:
    """Makes the run's directory and writes `config.json`.

    `resolved` is what was recorded before, if this process does not train any more.
    """
    path = plan.config.model_dir
    directory.prepare(path)
    resolved = resolved or {
        "precision": plan.precision,
        "jit_compile": plan.jit_compile,
        "steps_per_loop": plan.steps_per_loop,
        "strategy": devices.name,
        "devices": devices.kind,
        "replicas": devices.replicas,
        "workers": len(devices.cluster.workers),
        "cpus": available_cpus(),
    }
    data = {"name": dataset.name, "source": dataset.source, "sha256": dict(dataset.sha256)}
    config = {"config": plan.config.to_dict(), "resolved": dict(resolved), "data": data}
    directory.write_json(path, directory.CONFIG, config | {"versions": versions()})


def versions() -> dict[str, str]:
    """Returns the versions of what computes."""
    return {
        "trainer": trainer.__version__,
        "code": code_sha256()[:12],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        "platform": platform.platform(),
    }


def code_sha256() -> str:
    """Returns a digest of the source files that compute the weights."""
    digest = hashlib.sha256()
    root = pathlib.Path(trainer.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] in _COMPUTES:
            digest.update(f"{name.as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
