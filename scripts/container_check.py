#!/usr/bin/env python3
"""Runs the pods of the CPU overlays for real, without a cluster.

Builds the image with buildah, takes the pods from what `scripts/submit.sh --dry-run` prints, and
runs them under podman with the user, root file system, volumes and limits that they ask for.

  scripts/container_check.py                       build, then every check
  scripts/container_check.py --image IMAGE         every check, on an image that is there
  scripts/container_check.py --debootstrap trixie  build on a base image made of that release of
                                                   Debian, where no registry can be reached

Needs Linux, root, kubectl, PyYAML and Debian's packages podman, buildah and runc (and debootstrap
for the option). Reads MNIST from $MNIST_DATA_DIR; without it, synthetic digits are trained on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGE = "localhost/number-recognition:check"
PODMAN = ("podman", "--runtime", "runc")


def main() -> int:
    """Runs the command; returns 0 if every check passed, 1 if one failed, 2 if none can be run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", help="check this image instead of building one")
    parser.add_argument("--base-image", help="build on this image (default: Dockerfile.gpu's)")
    parser.add_argument(
        "--debootstrap", metavar="SUITE", help="make the base image of this release"
    )
    options = parser.parse_args()
    missing = [tool for tool in ("podman", "buildah", "runc", "kubectl") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        say(f"error: needs {', '.join(missing) or 'to be root'}; see --help")
        return 2
    with tempfile.TemporaryDirectory(prefix="container-check-") as directory:
        scratch = pathlib.Path(directory)
        scratch.chmod(0o755)  # the pods' user must reach the volumes in it
        image = options.image
        if not image:
            base = options.base_image
            if options.debootstrap:
                base = make_base(options.debootstrap, scratch)
            image = build(base, scratch)
        bytes_on_disk = int(output(*PODMAN, "image", "inspect", "--format", "{{.Size}}", image))
        say(f"image {image}: {bytes_on_disk / 1e9:.2f} GB on disk")
        check(image, scratch)
    say("every check passed")
    return 0


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def call(*command: str | pathlib.Path) -> None:
    """Runs a command whose output nobody needs; what it complains about is shown."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def output(*command: str | pathlib.Path, timeout_s: float = 900) -> str:
    """What a command prints."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=timeout_s)
    return done.stdout.strip()


# Building


def make_base(suite: str, scratch: pathlib.Path) -> str:
    """Makes an image with Python and pip in the place of the official one, and returns its name."""
    name = f"localhost/python-from-debian:{suite}"
    if subprocess.run([*PODMAN, "image", "exists", name], check=False).returncode == 0:
        return name
    tree = scratch / "base"
    packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
    call("debootstrap", "--variant=minbase", packages, suite, tree)
    (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for package in (tree / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    shutil.rmtree(tree / "var/lib/apt/lists")
    container = output("buildah", "from", "scratch")
    call("buildah", "add", "--quiet", container, tree, "/")
    call("buildah", "commit", "--quiet", "--rm", container, name)
    shutil.rmtree(tree)
    return name


def build(base: str | None, scratch: pathlib.Path) -> str:
    """Builds the CPU image as Dockerfile.gpu says, and returns its name."""
    started = time.monotonic()
    call(
        *("buildah", "build", "--layers", "--file", "Dockerfile.gpu", "--tag", IMAGE),
        # Asks for no resource limits, which a caller without CAP_SYS_RESOURCE could not give.
        *("--isolation", "chroot"),
        *("--network", "host"),
        *("--build-arg", "REQUIREMENTS=requirements/cpu.txt"),
        *(("--build-arg", f"BASE_IMAGE={base}") if base else ()),
        *pip_settings(scratch),
        ".",
    )
    say(f"built in {time.monotonic() - started:.0f} s")
    return IMAGE


def pip_settings(scratch: pathlib.Path) -> list[str]:
    """Options that lend this machine's pip settings, and the files they name, to a build.

    As volumes: no layer keeps them.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    # The environment's settings are listed first and go before those of files.
    settings: dict[str, str] = {}
    for key, value in re.findall(r"^\S+?\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        settings.setdefault(key, value)
    file = scratch / "pip.conf"
    file.write_text(
        "\n".join(["[global]", "quiet = 2", *(f"{key} = {settings[key]}" for key in settings)])
    )
    named = re.findall(r"(?:^|\s|file://)(/\S+)", "\n".join(settings.values()))
    # The packages lie beside the index that points to them.
    places = {os.path.dirname(path) if path.endswith("/simple") else path for path in named}
    volumes = {str(file): "/etc/pip.conf", **{p: p for p in places if os.path.exists(p)}}
    return [f"--volume={source}:{target}:ro" for source, target in volumes.items()]


# From a rendered pod to podman


class Pod:
    """A container that is run as the pod of a rendered Job or Deployment would be.

    Args:
      objects: everything that was rendered.
      kind: whose pod: `Job` or `Deployment`.
      scratch: where the volumes and the files of config maps lie.
      index: which pod of an Indexed Job.
      network: a network of podman's, or `none`.
    """

    def __init__(
        self,
        objects: Sequence[dict],
        kind: str,
        scratch: pathlib.Path,
        *,
        index: int | None = None,
        network: str = "none",
    ):
        (owner,) = [o for o in objects if o["kind"] == kind]
        pod = owner["spec"]["template"]["spec"]
        self.name = owner["metadata"]["name"] + ("" if index is None else f"-{index}")
        self._grace_s = pod.get("terminationGracePeriodSeconds", 30)
        self._arguments = [
            f"--network={network}",
            *identity_arguments(owner, index),
            *volume_arguments(pod, objects, scratch),
            *container_arguments(pod),  # the last: they end with the image and what it is told
        ]

    def start(self) -> Pod:
        """Starts it anew: the one before is gone, as it is when a Job replaces a pod."""
        self.remove()
        call(*PODMAN, "run", "--detach", f"--name={self.name}", *self._arguments)
        return self

    def wait(self) -> int:
        """Waits for the end and returns the exit code."""
        return int(output(*PODMAN, "wait", self.name))

    def stop(self) -> int:
        """SIGTERM, the grace period, then SIGKILL, as the kubelet does; returns the exit code."""
        call(*PODMAN, "stop", f"--time={self._grace_s}", self.name)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, as when its node dies."""
        call(*PODMAN, "kill", "--signal=KILL", self.name)

    def wait_for(self, what: Callable[[], object], timeout_s: float = 300) -> None:
        """Waits until `what()` holds; the end of the pod or of the time ends the program."""
        give_up_s = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > give_up_s or self.inspect(".State.Status") == "exited":
                sys.exit(f"FAILED {self.name} did not come so far:\n{self.log()}")
            time.sleep(0.1)

    def log(self) -> str:
        """What it printed."""
        both = subprocess.STDOUT
        return subprocess.run(
            [*PODMAN, "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=both,
            text=True,
            check=False,
        ).stdout

    def inspect(self, field: str) -> str:
        """What podman knows about the container, by the name that a Go template gives it."""
        return output(*PODMAN, "inspect", "--format", "{{" + field + "}}", self.name)

    def remove(self) -> None:
        """Kills and forgets it."""
        call(*PODMAN, "rm", "--force", "--ignore", "--time=0", self.name)


def known(mapping: dict, *fields: str) -> dict:
    """The mapping, which must have no other field: one that is passed over would not be checked."""
    if set(mapping) - set(fields):
        sys.exit(f"FAILED no translation to podman for {sorted(set(mapping) - set(fields))}")
    return mapping


def identity_arguments(owner: dict, index: int | None) -> list[str]:
    """Who the pod is: its variables, and what the Job controller and the Service would call it."""
    name, pod = owner["metadata"]["name"], owner["spec"]["template"]["spec"]
    variables = {}
    for variable in pod["containers"][0].get("env", ()):
        value = variable.get("value")
        if value is None:
            wanted = {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}
            value = name if variable["valueFrom"]["fieldRef"] == wanted else sys.exit(variable)
        variables[variable["name"]] = value
    host = []
    if index is not None:
        variables["JOB_COMPLETION_INDEX"] = str(index)
        host = [f"--hostname={name}-{index}", f"--network-alias={name}-{index}.{pod['subdomain']}"]
    return [*host, *(f"--env={variable}={variables[variable]}" for variable in variables)]


def volume_arguments(pod: dict, objects: Sequence[dict], scratch: pathlib.Path) -> list[str]:
    """The mounts of the one container."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    result = []
    for mount in pod["containers"][0]["volumeMounts"]:
        known(mount, "name", "mountPath", "subPath", "readOnly")
        volume, path = volumes[mount["name"]], mount["mountPath"]
        if "emptyDir" in volume:
            limit = to_bytes(known(volume["emptyDir"], "sizeLimit")["sizeLimit"])
            result.append(f"--tmpfs={path}:size={limit},mode=1777")
            continue
        if "configMap" in volume:
            name = volume["configMap"]["name"]
            source = scratch / name
            source.mkdir(exist_ok=True)
            for o in objects:
                if (o["kind"], o["metadata"]["name"]) == ("ConfigMap", name):
                    for file, text in o["data"].items():
                        (source / file).write_text(text)
        else:
            source = scratch / volume["persistentVolumeClaim"]["claimName"] / mount["subPath"]
            # The kubelet gives the volume to the group fsGroup and makes subpaths alike.
            for directory in (source.parent, source):
                directory.mkdir(exist_ok=True)
                os.chown(directory, 0, pod["securityContext"]["fsGroup"])
                directory.chmod(0o2775)
        result.append(f"--volume={source}:{path}:{'ro' if mount.get('readOnly') else 'rw'}")
    return result


def container_arguments(pod: dict) -> list[str]:
    """The rest: user, rights, limits, image and arguments."""
    known(
        pod,
        *("containers", "volumes", "securityContext", "subdomain", "terminationGracePeriodSeconds"),
        # Of a cluster alone: when and where a pod runs, and who it is there.
        *("restartPolicy", "affinity", "tolerations", "enableServiceLinks"),
        *("serviceAccountName", "automountServiceAccountToken"),
    )
    (container,) = pod["containers"]
    known(
        container,
        *("name", "image", "imagePullPolicy", "command", "args", "env", "volumeMounts"),
        *("resources", "securityContext", "ports"),
        *("startupProbe", "readinessProbe", "livenessProbe"),
    )
    user = known(
        pod["securityContext"],
        *("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy"),
        "seccompProfile",  # RuntimeDefault: what podman does unasked
    )
    rights = known(
        container["securityContext"],
        *("allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"),
    )
    limits = known(container["resources"]["limits"], "cpu", "memory", "ephemeral-storage")
    memory = to_bytes(limits["memory"])
    result = [
        f"--user={user['runAsUser']}:{user['runAsGroup']}",
        f"--group-add={user['fsGroup']}",
        f"--read-only={str(rights['readOnlyRootFilesystem']).lower()}",
        "--read-only-tmpfs=false",  # else podman adds a writable /tmp, /run and /var/tmp
        f"--security-opt=no-new-privileges={str(not rights['allowPrivilegeEscalation']).lower()}",
        *(f"--cap-drop={name}" for name in rights["capabilities"]["drop"]),
        f"--cpus={limits['cpu']}",
        f"--memory={memory}",
        f"--memory-swap={memory}",
        *ulimits(),
    ]
    if "command" in container:
        result.append(f"--entrypoint={json.dumps(container['command'])}")
    return [*result, container["image"], *container.get("args", ())]


def ulimits() -> list[str]:
    """Limits that any root may give: podman's own are beyond one without CAP_SYS_RESOURCE."""
    limits = []
    for name, which in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(which)[1]
        number = 4096 if hard < 0 else min(4096, hard)
        limits.append(f"--ulimit={name}={number}:{number}")
    return limits


def to_bytes(quantity: str) -> int:
    """Of a quantity like 4Gi."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


# The checks


def check(image: str, scratch: pathlib.Path) -> None:
    """Runs every check; the first that fails ends the program with the pod's log."""
    runs = scratch / "number-recognition/runs"
    mnist = os.environ.get("MNIST_DATA_DIR")
    flags = ["--epochs=20"] if mnist else ["--epochs=20", "--dataset=synthetic"]
    with contextlib.ExitStack() as stack:

        def start(objects: Sequence[dict], kind: str = "Job", **options) -> Pod:
            pod = Pod(objects, kind, scratch, **options)
            stack.callback(pod.remove)
            return pod.start()

        tools = "cc gcc c++ g++ clang ld make nvcc"
        found = in_image(
            image, f"for tool in {tools}; do command -v $tool; done; ls -d /root/.cache"
        )
        expect("the image holds no compiler and no cache", found, "")

        pod = start(manifests("cpu", "wrong", image, "--epochs=0"))
        expect("a wrong flag gives 2", pod.wait(), 2, pod)
        pod = start(manifests("cpu", "nothing", image))
        expect("neither data nor network gives 3", pod.wait(), 3, pod)
        if mnist:
            put_data(pathlib.Path(mnist), scratch / "number-recognition/data")

        pod = start(manifests("cpu", "whole", image, *flags))
        expect("the pod of overlays/cpu runs to the end", pod.wait(), 0, pod)
        whole = metrics(runs / "whole")
        say(
            f"   {whole['dataset']}, {whole['steps']} steps, test accuracy {whole['test_accuracy']}"
        )
        say(
            f"   user {pod.inspect('.Config.User')},"
            f" read-only root {pod.inspect('.HostConfig.ReadonlyRootfs')},"
            f" capabilities {pod.inspect('.EffectiveCaps')},"
            f" memory {pod.inspect('.HostConfig.Memory')},"
            f" CPUs {int(pod.inspect('.HostConfig.NanoCpus')) / 1e9:g}"
        )
        owners = {path.stat().st_uid for path in (runs / "whole").rglob("*")}
        expect("what it wrote is its user's", owners, {10001}, pod)
        expect("once finished it is left as it is", pod.start().wait(), 0, pod)

        pod = start(manifests("cpu", "cut", image, *flags))
        pod.wait_for((runs / "cut/checkpoints/checkpoint").exists)
        expect("SIGTERM in mid-run gives 143", pod.stop(), 143, pod)
        say("   " + pod.log().strip().splitlines()[-1])
        expect("... before the end", (runs / "cut/metrics.json").exists(), False, pod)
        expect("the next pod of that Job runs to the end", pod.start().wait(), 0, pod)
        cut = metrics(runs / "cut")
        say(f"   resumed from step {cut['resumed_from_step']} of {cut['steps']}")
        expect("... with the steps before", cut["resumed_from_step"] > 0, True, pod)
        same = cut["weights_sha256"] == whole["weights_sha256"]
        expect("... and the weights of the run that was not stopped", same, True, pod)

        network = stack.enter_context(bridge())

        def start_workers(run: str) -> list[Pod]:
            rendered = manifests("multi-worker", run, image, *flags)
            return [start(rendered, index=index, network=network) for index in (0, 1)]

        def expect_end(workers: list[Pod], code: int, when: str) -> None:
            for pod in workers:
                expect(f"{when}: {pod.name} leaves with {code}", pod.wait(), code, pod)

        workers = start_workers("several")
        expect_end(workers, 0, "two workers of overlays/multi-worker")
        several = metrics(runs / "several")
        say(f"   {several['workers']} workers, test accuracy {several['test_accuracy']}")
        together = (several["workers"], several["replicas"]) == (2, 2)
        expect("... that trained together", together, True, workers[0])

        newest = runs / "struck/checkpoints/checkpoint"
        chief, other = workers = start_workers("struck")
        chief.wait_for(newest.exists)
        other.kill()
        expect_end([chief], 138, "a worker killed")
        before = newest.read_text()
        for pod in workers:
            pod.start()
        chief.wait_for(lambda: newest.read_text() != before)
        expect("a worker preempted leaves with 143", other.stop(), 143, other)
        expect_end([chief], 143, "its peer")
        for pod in workers:
            pod.start()
        expect_end(workers, 0, "both started again")
        same = metrics(runs / "struck")["weights_sha256"] == several["weights_sha256"]
        expect("... with the weights of the workers left in peace", same, True, chief)

        objects = manifests("multi-worker", "several", image)
        board = start(objects, "Deployment", network=network)
        address = board.inspect("range .NetworkSettings.Networks}}{{.IPAddress}}{{end")
        board.wait_for(lambda: fetch(f"http://{address}:6006/data/runs"))
        shown = set(json.loads(fetch(f"http://{address}:6006/data/runs")))
        wanted = {f"{run}/tensorboard/train" for run in ("whole", "cut", "several")}
        expect("the pod of TensorBoard shows the runs", wanted - shown, set(), board)


def manifests(overlay: str, run: str, image: str, *flags: str) -> list[dict]:
    """What scripts/submit.sh would send."""
    submit = (ROOT / "scripts/submit.sh", overlay, "--name", run, "--image", image, "--dry-run")
    return list(yaml.safe_load_all(output(*submit, "--", *flags)))


def in_image(image: str, script: str) -> str:
    """What a shell script prints in a container without anything."""
    shell = (*PODMAN, "run", "--rm", "--network=none", "--user=0", *ulimits(), "--entrypoint=sh")
    return output(*shell, image, "-c", f"{{ {script}; }} 2>/dev/null; true")


def put_data(source: pathlib.Path, volume: pathlib.Path) -> None:
    """Puts MNIST where a pod with a network would have put it."""
    directory = volume / "number-recognition/mnist"
    directory.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*-ubyte*"):
        shutil.copyfile(file, directory / file.name)
    for path in (directory.parent, directory, *directory.iterdir()):
        os.chown(path, 10001, 10001)


def metrics(run: pathlib.Path) -> dict:
    """The result of a run."""
    return json.loads((run / "metrics.json").read_text())


def expect(what: str, value: object, expected: object, pod: Pod | None = None) -> None:
    """Says that a check passed, or ends the program with what happened instead."""
    if value != expected:
        log = f"; log of {pod.name}:\n{pod.log()}" if pod else ""
        sys.exit(f"FAILED {what}: {value!r}, not {expected!r}{log}")
    say(f"ok {what}")


@contextlib.contextmanager
def bridge() -> Iterator[str]:
    """A network of its own, whose containers find each other by name."""
    name = f"container-check-{os.getpid()}"
    call(*PODMAN, "network", "create", name)
    try:
        yield name
    finally:
        call(*PODMAN, "network", "rm", "--force", "--time=0", name)


def fetch(url: str) -> bytes:
    """What a server answers; nothing where none does."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as reply:
        return reply.read()
    return b""


if __name__ == "__main__":
    sys.exit(main())
