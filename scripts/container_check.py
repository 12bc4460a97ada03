#!/usr/bin/env python3
"""Runs the pods of the CPU overlays under `podman kube play`, without a cluster.

  scripts/container_check.py                   builds the CPU image, then checks it
  scripts/container_check.py --image IMAGE     checks an image that is there

Needs Linux, root, podman, kubectl, PyYAML and absl-py. Trains on the MNIST files in
$MNIST_DATA_DIR, or on synthetic digits.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import manifests

IMAGE = "localhost/number-recognition:check"
NETWORK, ADDRESSES = "container-check", ("10.213.0.10", "10.213.0.11")
RUNS, DATA = "container-check-runs", "container-check-data"
PODS = ("wrong-0", "whole-0", "stopped-0", "devices-0", "several-0", "several-1")


def main() -> int:
    """Returns 0 if every check passed, 1 if one failed, 2 if they cannot run."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--image", help="check this image instead of building one")
    image = parser.parse_args().image
    if os.geteuid() or not (shutil.which("podman") and shutil.which("kubectl")):
        parser.error("needs root, podman and kubectl")
    if not image:
        image = IMAGE
        argument = "--build-arg=REQUIREMENTS=requirements/cpu.txt"
        file = ("--file", str(manifests.ROOT / "Dockerfile.gpu"))
        podman("build", "--quiet", *file, argument, "--tag", image, str(manifests.ROOT))
    podman("network", "create", "--subnet=10.213.0.0/24", NETWORK)
    try:
        check(image)
    finally:
        podman("pod", "rm", "--force", "--ignore", *PODS)
        podman("network", "rm", NETWORK)
        files = [f"{pod}-tmp" for pod in PODS] + [f"{pod[:-2]}-flags" for pod in PODS]
        for name in (RUNS, DATA, *files):
            subprocess.run(["podman", "volume", "rm", "--force", name], capture_output=True)
    print("every check passed")
    return 0


def podman(*arguments: str, stdin: str | None = None) -> str:
    """Runs podman and returns what it prints."""
    command = ["podman", *arguments]
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def check(image: str) -> None:
    """Runs every check; the first that fails ends the program."""
    mnist = os.environ.get("MNIST_DATA_DIR")
    flags = ["--epochs=20", *([] if mnist else ["--dataset=synthetic"])]
    (pod,) = play("cpu", "wrong", image, ["--resume=must"])
    expect("a run that is not there to be resumed gives 2", wait(pod), 2, pod)
    if mnist:
        directory = volume(DATA) / "number-recognition/mnist"
        shutil.copytree(mnist, directory)
        for path in (directory.parent, directory, *directory.iterdir()):
            os.chown(path, 10001, 10001)

    (pod,) = play("cpu", "whole", image, flags)
    expect("the pod of overlays/cpu runs to the end", wait(pod), 0, pod)
    owners = {path.stat().st_uid for path in (volume(RUNS) / "whole").rglob("*")}
    expect("what it wrote belongs to its user", owners, {10001}, pod)

    (pod,) = play("cpu", "stopped", image, flags)
    wait_for_checkpoint("stopped", pod)
    podman("stop", "--time=120", f"{pod}-trainer")
    expect("SIGTERM in the middle gives 143", wait(pod), 143, pod)
    (pod,) = play("cpu", "stopped", image, flags)
    expect("the next pod runs to the end", wait(pod), 0, pod)
    same = metrics("stopped")["weights_sha256"] == metrics("whole")["weights_sha256"]
    expect("with the weights of the run that was not stopped", same, True, pod)

    (pod,) = play("cpu", "devices", image, [*flags, "--virtual_devices=2", "--batch_size=120"])
    expect("a pod with two devices runs to the end", wait(pod), 0, pod)
    checkpoint = b""
    for victim in (1, 0):
        pods = play("multi-worker", "several", image, flags)
        checkpoint = wait_for_checkpoint("several", pods[0], checkpoint)
        podman("kill", f"{pods[victim]}-trainer")
        code = wait(pods[1 - victim])
        expect(f"worker {victim} killed: the other one gives 138", code, 138, pods[1 - victim])
    pods = play("multi-worker", "several", image, flags)
    expect("both started again run to the end", [wait(pod) for pod in pods], [0, 0], pods[0])
    expect("together", metrics("several")["workers"], 2, pods[0])
    same = metrics("several")["weights_sha256"] == metrics("devices")["weights_sha256"]
    expect("with the weights of the two devices", same, True, pods[0])


def play(overlay: str, run: str, image: str, flags: list[str]) -> list[str]:
    """Starts the pods of a run, replacing those before them; returns the names of the pods."""
    objects = manifests.render(overlay, run, flags, image=image)
    (job,) = [each for each in objects if each["kind"] == "Job"]
    settings = [each for each in objects if each["kind"] == "ConfigMap"]
    pods = [to_pod(job, index) for index in range(job["spec"].get("completions", 1))]
    for pod, address in zip(pods, ADDRESSES, strict=False):
        text = manifests.to_yaml([*settings, pod])
        podman(
            "kube", "play", "--replace", f"--network={NETWORK}", f"--ip={address}", "-", stdin=text
        )
    return [pod["metadata"]["name"] for pod in pods]


def to_pod(job: dict, index: int) -> dict[str, Any]:
    """Returns the pod that the Job controller would make for an index."""
    name, spec = job["metadata"]["name"], copy.deepcopy(job["spec"]["template"]["spec"])
    (container,) = spec["containers"]
    container.pop("ports", None)  # podman would publish them on this machine
    if service := spec.pop("subdomain", None):
        hosts = [(address, f"{name}-{i}.{service}") for i, address in enumerate(ADDRESSES)]
        spec["hostAliases"] = [{"ip": address, "hostnames": [host]} for address, host in hosts]
        container["env"].append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
    for each in (*spec["volumes"], *container["volumeMounts"]):
        if each["name"] == "tmp":  # podman makes a volume of this name
            each["name"] = f"{name}-{index}-tmp"
    # podman knows no subPath of a claim: each gets a volume of its own.
    for mount in container["volumeMounts"]:
        if "subPath" in mount:
            claim = f"container-check-{mount.pop('subPath')}"
            mount["name"] = claim
            source = {"claimName": claim}
            spec["volumes"].append({"name": claim, "persistentVolumeClaim": source})
    labels = {"batch.kubernetes.io/job-name": name}
    metadata = {"name": f"{name}-{index}", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def wait(pod: str) -> int:
    """Waits for the end of a pod and returns the trainer's exit code."""
    return int(podman("wait", f"{pod}-trainer"))


def wait_for_checkpoint(run: str, pod: str, before: bytes = b"") -> bytes:
    """Returns the index of a run's checkpoints once it differs; its pod must not end before."""
    index = volume(RUNS) / run / "checkpoints/checkpoint"
    while not index.exists() or index.read_bytes() == before:
        if podman("inspect", "--format={{.State.Running}}", f"{pod}-trainer") != "true":
            expect("a checkpoint", "the end", "saved", pod)
        time.sleep(0.1)
    return index.read_bytes()


def volume(name: str) -> pathlib.Path:
    """Returns the directory of a volume."""
    return pathlib.Path(podman("volume", "inspect", "--format={{.Mountpoint}}", name))


def metrics(run: str) -> dict[str, Any]:
    """Returns the metrics of a finished run."""
    return json.loads((volume(RUNS) / run / "metrics.json").read_text())


def expect(what: str, value: object, expected: object, pod: str) -> None:
    """Prints that a check passed, or ends the program with the log of a pod."""
    if value != expected:
        subprocess.run(["podman", "logs", f"{pod}-trainer"], check=False)
        sys.exit(f"FAILED {what}: {value!r}, not {expected!r}")
    print(f"ok {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
