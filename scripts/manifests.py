"""The Kubernetes manifests of a run: rendered by kustomize, then edited as data."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the trainer need not be installed
from trainer import config, errors  # noqa: E402
from trainer.process import command_line  # noqa: E402

OVERLAYS = ROOT / "k8s/overlays"
# What the manifests call a run, and their containers.
DEFAULT_RUN, TRAINER = "default-run", "trainer"
BOARD, COLLECTOR = "tensorboard", "collector"
FLAG_FILES, INSTANCE = "/etc/trainer", "app.kubernetes.io/instance"  # the label with a run's name


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
    (files,) = [each["data"] for each in objects if "run.flags" in each.get("data", {})]
    files["run.flags"] = "".join(f"{line}\n" for line in lines)
    if workers:
        set_workers(job, int(workers))
    check_flags(job, files)
    for each in objects:
        if namespace:
            each["metadata"]["namespace"] = namespace
        if each["kind"] in ("Job", "Deployment"):
            main_container(each)["image"] = image or main_container(each)["image"]
    # Pods last: the policies for them are there before.
    return sorted(objects, key=lambda each: each["kind"] in ("Job", "Deployment"))


def replace_name(value: Any, run: str) -> Any:
    """Returns manifests with the run's name in all names, labels, selectors and references."""
    if isinstance(value, dict):
        return {key: replace_name(each, run) for key, each in value.items()}
    if isinstance(value, list):
        return [replace_name(each, run) for each in value]
    return value.replace(DEFAULT_RUN, run) if isinstance(value, str) else value


def main_container(workload: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the container of a Job or Deployment of the trainer or of TensorBoard."""
    containers = workload["spec"]["template"]["spec"]["containers"]
    return next(each for each in containers if each["name"] in (TRAINER, BOARD))


def set_workers(job: Mapping[str, Any], workers: int) -> None:
    """Sets the number of workers of an Indexed Job."""
    if job["spec"].get("completionMode") != "Indexed":
        raise RequestError("--workers is for an overlay with several workers (multi-worker)")
    job["spec"].update(completions=workers, parallelism=workers)
    for variable in main_container(job)["env"]:
        if variable["name"] == "WORKER_COUNT":
            variable["value"] = str(workers)


def check_flags(job: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Refuses what the trainer would refuse: its own parser reads the flag files as in the pod."""
    values = config.flag_values()
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            pathlib.Path(directory, name).write_text(text)
        arguments = [each.replace(FLAG_FILES, directory) for each in main_container(job)["args"]]
        try:
            if words := command_line.parse(["trainer.task", *arguments], values, usage=""):
                raise errors.UsageError(f"unexpected argument {words[0]!r}; flags begin with --")
            config.from_flags(values).check_batch(job["spec"].get("completions", 1))
        except errors.UsageError as error:
            raise RequestError(f"trainer.task: {error}") from None


def flag_lines(run: str, flags: Sequence[str]) -> list[str]:
    """Returns the lines of an absl flag file: one argument a line, verbatim."""
    lines: list[str] = []
    for flag in flags:
        if lines and "=" not in lines[-1] and not re.match(r"--?[A-Za-z]", flag):
            lines[-1] += f"={flag}"  # the 5 of `--epochs 5`
        else:
            lines.append(flag)
    for line in lines:
        if re.match(r"--?model_dir\b", line):
            raise RequestError(f"{line}: the run's name decides its directory; use --name")
        if re.match(r"--?flagfile\b", line):
            raise RequestError(f"{line}: the file is not on the cluster; give its flags here")
        if "\n" in line or line != line.strip():
            raise RequestError(f"{line!r}: no line break or last space fits into a flag file")
    return [f"--model_dir=/outputs/{run}", *lines]


def owned_by(job: Mapping[str, Any], objects: Sequence[dict]) -> list[dict]:
    """Returns the run's own objects, to be removed by the cluster when its Job is removed."""
    names = {key: job["metadata"][key] for key in ("name", "uid")}
    own = [each for each in objects if INSTANCE in each["metadata"]["labels"]]
    for each in own:
        each["metadata"]["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", **names}]
    return [each for each in own if each["kind"] != "Job"]


def collector(name: str, image: str) -> dict[str, Any]:
    """Returns the pod through which the volume is read."""
    pod = yaml.safe_load((ROOT / "k8s/collector.yaml").read_text())
    pod["metadata"]["name"], pod["spec"]["containers"][0]["image"] = name, image
    return pod


def to_yaml(objects: Sequence[dict]) -> str:
    """Returns the text of manifests."""

    class Dumper(yaml.SafeDumper):
        def represent_text(self, value: str) -> yaml.Node:
            # Quoted: what kubectl's reader, unlike PyYAML, takes for a boolean or a number.
            style = "|" if "\n" in value else '"' if re.match(r"[yn]$|[+.-]?\d", value) else None
            return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, Dumper.represent_text)
    return yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=200)
