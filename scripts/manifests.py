"""The Kubernetes manifests of a run: rendered by kustomize, then edited as data."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
OVERLAYS = ROOT / "k8s/overlays"
# What the manifests call a run, and the container in which the trainer runs.
DEFAULT_RUN, TRAINER = "default-run", "trainer"


class RequestError(Exception):
    """A run that cannot be had as it was asked for."""


def render(
    overlay: str,
    run: str,
    flags: Sequence[str] = (),
    *,
    image: str | None = None,
    workers: str | None = None,
    namespace: str | None = None,
) -> list[dict]:
    """Returns the objects of a run, and those that all runs share; the overlay has the defaults.

    Raises:
      RequestError: with what cannot be, and what to do.
      subprocess.CalledProcessError: kubectl failed, and has said why.
    """
    lines = flag_lines(run, flags)
    command = ["kubectl", "kustomize", str(OVERLAYS / overlay)]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    objects = replace_name(list(yaml.safe_load_all(text)), run)
    (job,) = [each for each in objects if each["kind"] == "Job"]
    (config,) = [each for each in objects if "run.flags" in each.get("data", {})]
    config["data"]["run.flags"] = "".join(f"{line}\n" for line in lines)
    if workers:
        set_workers(job, int(workers))
    check_batch(job, config["data"])
    for each in objects:
        if namespace:
            each["metadata"]["namespace"] = namespace
        if image and each["kind"] in ("Job", "Deployment"):
            for container in each["spec"]["template"]["spec"]["containers"]:
                if container["name"] in (TRAINER, "tensorboard"):
                    container["image"] = image
    return objects


def replace_name(value: Any, run: str) -> Any:
    """Returns manifests with the run's name in all names, labels, selectors and references."""
    if isinstance(value, dict):
        return {key: replace_name(each, run) for key, each in value.items()}
    if isinstance(value, list):
        return [replace_name(each, run) for each in value]
    return value.replace(DEFAULT_RUN, run) if isinstance(value, str) else value


def trainer_container(job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the container of a Job in which the trainer runs."""
    containers = job["spec"]["template"]["spec"]["containers"]
    return next(each for each in containers if each["name"] == TRAINER)


def set_workers(job: Mapping[str, Any], workers: int) -> None:
    """Sets the number of workers of an Indexed Job."""
    if job["spec"].get("completionMode") != "Indexed":
        raise RequestError("--workers is for an overlay with several workers (multi-worker)")
    job["spec"].update(completions=workers, parallelism=workers)
    for variable in trainer_container(job)["env"]:
        if variable["name"] == "WORKER_COUNT":
            variable["value"] = str(workers)


def check_batch(job: Mapping[str, Any], flags: Mapping[str, str]) -> None:
    """Refuses a batch that the workers cannot share evenly, before any pod is scheduled."""
    files = [os.path.basename(argument) for argument in trainer_container(job)["args"]]
    text = "\n".join(flags[name] for name in files if name in flags)
    sizes = re.findall(r"^--?batch_size=([1-9]\d*)$", text, re.MULTILINE)  # the last one counts
    workers = job["spec"].get("completions", 1)
    if sizes and int(sizes[-1]) % workers:
        near = max(1, round(int(sizes[-1]) / workers)) * workers
        raise RequestError(
            f"--batch_size={sizes[-1]} is not divisible by {workers} workers;"
            f" give one that is after --, for example --batch_size={near}"
        )


def flag_lines(run: str, flags: Sequence[str]) -> list[str]:
    """Returns the lines of an absl flag file: one argument a line, verbatim."""
    lines: list[str] = []
    for flag in flags:
        if re.match(r"--?[A-Za-z]", flag):
            lines.append(flag)
        elif lines and "=" not in lines[-1]:  # the 5 of `--epochs 5`
            lines[-1] += f"={flag}"
        else:
            raise RequestError(f"{flag!r} after -- is no flag of the trainer")
    for line in lines:
        if re.match(r"--?model_dir\b", line):
            raise RequestError(f"{line}: the run's name decides its directory; use --name")
        if re.match(r"--?flagfile\b", line):
            raise RequestError(f"{line}: the file is not on the cluster; give its flags here")
        if "\n" in line or line != line.rstrip():
            raise RequestError(f"{line!r}: no line break or last space fits into a flag file")
    return [f"--model_dir=/outputs/{run}", *lines]


def to_yaml(objects: Sequence[dict]) -> str:
    """Returns the text of manifests."""

    class Dumper(yaml.SafeDumper):
        def represent_text(self, value: str) -> yaml.Node:
            # Quoted: what kubectl's reader, unlike PyYAML, takes for a boolean or a number.
            style = "|" if "\n" in value else '"' if re.match(r"[yn]$|[+.-]?\d", value) else None
            return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, Dumper.represent_text)
    return yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=200)
