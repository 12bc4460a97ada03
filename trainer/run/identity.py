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
from trainer.run import directory, files

# What decides the weights; the rest of the package (pictures, reports) may change within a run.
_COMPUTES = ("config.py", "plan.py", "job.py", "loop.py", "data", "model", "cluster", "run")


def fingerprint(config: Config, data_sha256: Mapping[str, str]) -> dict[str, str]:
    """Returns what all workers have to agree in, by name; `data_sha256` is `Dataset.sha256`."""
    data = repr(sorted(data_sha256.items())).encode()
    return {
        **{f"--{name}": str(value) for name, value in config.within(Scope.RUN, Scope.PART).items()},
        "data": hashlib.sha256(data).hexdigest()[:12],
        "code": _code_digest(),
        "tensorflow": importlib.metadata.version("tensorflow"),
    }


def record(
    plan: Plan, devices: Devices, dataset: Dataset, *, resolved: Mapping[str, Any] | None = None
) -> None:
    """Writes `config.json`; `resolved` is what was recorded before, if training is over."""
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
    content = {
        "config": plan.config.to_dict(),
        "resolved": dict(resolved),
        "data": {"name": dataset.name, "source": dataset.source, "sha256": dict(dataset.sha256)},
        "versions": {
            "trainer": trainer.__version__,
            "code": _code_digest(),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
            "platform": platform.platform(),
        },
    }
    files.remove_leftovers(plan.config.model_dir)
    directory.write_json(plan.config.model_dir, directory.CONFIG, content)


def _code_digest() -> str:
    """Returns the beginning of the SHA-256 of the source files that compute the weights."""
    digest = hashlib.sha256()
    root = pathlib.Path(trainer.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] in _COMPUTES:
            digest.update(f"{name.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
