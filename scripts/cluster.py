#!/usr/bin/env python3
"""Submits training runs to a Kubernetes cluster, follows them and copies their results.

  scripts/cluster.py submit gpu --name first --image registry.example/digits:gpu -- --model=cnn
  scripts/cluster.py follow first
  scripts/cluster.py collect first runs/first

Needs kubectl and PyYAML. Exit codes: 2, a wrong request; 1, it did not work; while following, the
run's own: 0, or what it failed with.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

try:
    import yaml
except ImportError:
    print("error: no PyYAML here; call .venv/bin/python scripts/cluster.py", file=sys.stderr)
    sys.exit(2)
import manifests

# The names in k8s/base of what all runs share.
CLAIM, TENSORBOARD = "number-recognition", "number-recognition-tensorboard"
POLL_S = float(os.environ.get("CLUSTER_POLL_S", "2"))
MAX_FAILED_POLLS = 10  # in a row


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns the exit code."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    split = argv.index("--") if "--" in argv else len(argv)
    options = parser(flags=argv[split + 1 :]).parse_args(argv[:split])
    if not shutil.which("kubectl"):
        die(2, "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/")
    try:
        return options.command(Kubectl(options.namespace), options)
    except manifests.RequestError as error:
        die(2, str(error))
    except subprocess.CalledProcessError:
        return 1
    except KeyboardInterrupt:
        return 130


def parser(flags: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser of the command line up to `--`; `flags` are what follows it."""
    parser = argparse.ArgumentParser(
        usage="scripts/cluster.py COMMAND ... [-- flags of trainer.task]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[..., int], usage: str) -> argparse.ArgumentParser:
        name, text = function.__name__, function.__doc__
        usage = f"scripts/cluster.py {name} [--namespace NS] {usage}"
        added = commands.add_parser(name, help=text, description=text, usage=usage)
        added.set_defaults(command=function)
        added.add_argument("--namespace", metavar="NS", type=namespace, help="the context's")
        return added

    added = command(submit, "[OVERLAY] [options] [-- flags of trainer.task]")
    overlays = sorted(path.parent.name for path in manifests.OVERLAYS.glob("*/kustomization.yaml"))
    added.add_argument("overlay", nargs="?", default="cpu", choices=overlays, help="default: cpu")
    added.add_argument("--name", type=run_name, metavar="RUN", help="default: OVERLAY-DATE-TIME")
    added.add_argument("--image", type=image, help="default: the overlay's")
    added.add_argument("--workers", type=count, metavar="N", help="default: the overlay's number")
    added.add_argument("--dry-run", action="store_true", help="print the manifests, send nothing")
    added.add_argument("--follow", action="store_true", help="then do as `follow` does")
    added.set_defaults(flags=flags)
    for function in (follow, clean):
        command(function, "RUN").add_argument("run", type=run_name, help="the name of a run")
    added = command(collect, "RUN DIR")
    added.add_argument("run", type=run_name, help="the name of a run")
    added.add_argument("directory", type=pathlib.Path, help="is made")
    command(monitor, "[--port PORT]").add_argument("--port", type=port, default=6006)
    return parser


def matching(pattern: str, meaning: str) -> Callable[[str], str]:
    """Returns a type of arguments: text that matches."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
        return text

    return check


# 50: a worker's host name has at most 63 characters, and adds its index and the Service's name.
run_name = matching(
    "[a-z]([a-z0-9-]{0,48}[a-z0-9])?",
    "a run's name: up to 50 lower-case letters, digits and '-', first a letter, last no '-'",
)
namespace = matching("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a name of a namespace")
image = matching(r"[A-Za-z0-9]([A-Za-z0-9./:@_-]*[A-Za-z0-9])?", "an image of a registry")
count = matching("[1-9][0-9]{0,2}", "a number from 1 to 999")
port = matching("[1-9][0-9]{0,4}", "a port")


def die(code: int, message: str) -> NoReturn:
    """Ends with an error of one line."""
    note(f"error: {message}")
    raise SystemExit(code)


def note(message: str) -> None:
    """Prints a line on standard error; a log goes to standard output."""
    print(message, file=sys.stderr, flush=True)


class Kubectl:
    """kubectl in a namespace; where it fails it has said why, and CalledProcessError is raised."""

    def __init__(self, namespace: str | None = None):
        self._command = ["kubectl", *(["--namespace", namespace] if namespace else [])]

    def __call__(self, *arguments: str, **options: Any) -> str:
        """Runs a command and returns what it prints; the options are those of subprocess.run."""
        options = {"check": True, "stdout": subprocess.PIPE, "text": True} | options
        return subprocess.run([*self._command, *arguments], **options).stdout

    def start(self, *arguments: str) -> subprocess.Popen:
        """Starts a command whose output is read while it runs."""
        return subprocess.Popen([*self._command, *arguments], stdout=subprocess.PIPE)

    def get(self, *what: str) -> dict[str, Any]:
        """Returns an object, or the List that a selector finds; empty if it does not exist."""
        return json.loads(self("get", *what, "--ignore-not-found", "--output=json") or "{}")

    def check_cluster(self) -> None:
        """Ends with kubectl's reason if no cluster answers."""
        command = ["kubectl", "version", "--request-timeout=10s"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]  # kubectl repeats itself
            die(1, f"no cluster answers (kubectl config current-context names it): {reason}")


def submit(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Submits a run."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    run = options.run = options.name or f"{options.overlay}-{stamp}"
    edits = {key: getattr(options, key) for key in ("image", "workers", "namespace")}
    objects = manifests.render(options.overlay, run, options.flags, **edits)
    if options.dry_run:
        print(manifests.to_yaml(objects), end="")
        return 0
    kubectl.check_cluster()
    if kubectl.get("job", run):
        die(2, f"run {run!r} exists already; choose another --name, or `clean {run}` first")
    if claim := kubectl.get("persistentvolumeclaim", CLAIM):
        objects = without_claim(objects, claim["spec"]["accessModes"])
    kubectl("apply", "--filename=-", input=manifests.to_yaml(objects), stdout=None)
    print(f"Submitted run {run!r}; `collect {run} DIR` copies it when it has finished", flush=True)
    return follow(kubectl, options) if options.follow else 0


def without_claim(objects: Sequence[dict], modes: Sequence[str]) -> list[dict]:
    """Returns the objects without the volume claim: one that exists cannot be changed."""
    (claim,) = [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    if "ReadWriteMany" in claim["spec"]["accessModes"] and "ReadWriteMany" not in modes:
        text = f"the volume claim {CLAIM!r} is {' '.join(modes)}, not ReadWriteMany"
        note(f"warning: {text}: all workers must fit on one node")
    return [each for each in objects if each is not claim]


def follow(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Shows the chief's log through all restarts, and leaves with the run's exit code."""
    kubectl.check_cluster()
    log, code, failed_polls = ChiefLog(kubectl, options.run), None, 0
    try:
        while code is None:
            try:
                code = log.poll()
                failed_polls = 0
            except subprocess.CalledProcessError:
                failed_polls += 1
                if failed_polls == MAX_FAILED_POLLS:
                    die(1, f"run {options.run!r} cannot be seen any more; the lines above say why")
            time.sleep(POLL_S if code is None else 0)
    except KeyboardInterrupt:
        note(f"Run {options.run!r} goes on; `follow {options.run}` shows it again")
        return 130
    return code


class ChiefLog:
    """The logs of a run's chief pods, one after the other, and how the last one ended."""

    def __init__(self, kubectl: Kubectl, run: str):
        self._kubectl, self._run = kubectl, run
        self._since: dict[str, str] = {}  # pod -> when its log was cut off
        self._complete: set[str] = set()
        self._last_note, self._exit_code = "", 0

    def poll(self) -> int | None:
        """Shows what is new; returns the exit code of a run that has ended."""
        # The Job before the pods: what ended it is then among them.
        job = self._kubectl.get("job", self._run)
        if not job:
            die(1, f"no run {self._run!r} in this namespace; `kubectl get jobs` lists them")
        selector = f"batch.kubernetes.io/job-name={self._run}"
        if job["spec"].get("completionMode") == "Indexed":
            selector += ",batch.kubernetes.io/job-completion-index=0"
        pods = self._kubectl.get("pods", "--selector", selector).get("items", [])
        for pod in sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"]):
            name, phase = pod["metadata"]["name"], pod["status"].get("phase")
            if name in self._complete:
                continue
            if phase not in ("Running", "Succeeded", "Failed"):
                self._note_once(f"pod/{name} waits{waiting_reason(pod)}")
            elif not self._show(name):
                break
        return self._result(job)

    def _show(self, name: str) -> bool:
        """Shows a pod's log; returns whether it is complete."""
        since = [f"--since-time={self._since[name]}"] if name in self._since else []
        logs = ("logs", "--follow", f"--container={manifests.TRAINER}", *since, f"pod/{name}")
        self._kubectl(*logs, check=False, stdout=None)
        self._since[name] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pod = self._kubectl.get("pod", name)
        if pod.get("status", {}).get("phase") == "Running":
            return False  # the connection broke
        self._complete.add(name)
        self._exit_code = trainer_state(pod).get("terminated", {}).get("exitCode", 0)
        if self._exit_code:
            note(f"pod/{name} ended with {self._exit_code}")
        return True

    def _result(self, job: dict) -> int | None:
        conditions = job.get("status", {}).get("conditions", [])
        holds = {each["type"]: each for each in conditions if each["status"] == "True"}
        if "Complete" in holds:
            print(f"Run {self._run!r} finished; `collect {self._run} DIR` copies it")
            return 0
        if "Failed" in holds:
            reason = f"{holds['Failed'].get('reason')}: {holds['Failed'].get('message')}"
            note(f"error: run {self._run!r} failed: {reason}")
            # podFailurePolicy names the exit code, perhaps of another worker than the chief.
            named = re.search(r"exit code (\d+)", reason)
            return (int(named[1]) if named else self._exit_code) or 1
        if "Suspended" in holds:
            self._note_once(f"run {self._run!r} is suspended: it waits in its queue")
        return None

    def _note_once(self, line: str) -> None:
        if line != self._last_note:
            note(line)
        self._last_note = line


def trainer_state(pod: dict) -> dict[str, Any]:
    """Returns the state of the trainer's container, empty if it has none."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((each["state"] for each in statuses if each["name"] == manifests.TRAINER), {})


def waiting_reason(pod: dict) -> str:
    """Returns why a pod has not started, after a colon; empty if nothing says it."""
    scheduled = [
        c for c in pod["status"].get("conditions", []) if c.get("reason") == "Unschedulable"
    ]
    reasons = [
        trainer_state(pod).get("waiting", {}).get("reason"),
        *(c["message"] for c in scheduled),
    ]
    return "".join(f": {reason}" for reason in reasons if reason)


def collect(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Copies a finished run from the cluster's volume into a new directory."""
    run, directory = options.run, options.directory
    if directory.exists():
        die(2, f"{directory} exists already; name a directory that does not")
    kubectl.check_cluster()
    board = kubectl.get("deployment", TENSORBOARD)
    if not board:
        die(1, f"no run {run!r}: nothing was ever submitted to this namespace")
    pod = yaml.safe_load((manifests.ROOT / "k8s/collector.yaml").read_text())
    name = pod["metadata"]["name"] = f"collector-{run}-{os.getpid()}"
    # The node of the volume has this image.
    image = board["spec"]["template"]["spec"]["containers"][0]["image"]
    pod["spec"]["containers"][0]["image"] = image
    partial = directory.with_name(f"{directory.name}.partial-{os.getpid()}")
    try:
        kubectl("apply", "--filename=-", input=manifests.to_yaml([pod]))
        kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s")
        copy_finished(kubectl, ("exec", name, "--"), run, partial)
        partial.rename(directory)
    except subprocess.CalledProcessError:
        die(1, "the volume cannot be read; `kubectl describe pods` shows where it is")
    finally:
        kubectl("delete", "pod", name, "--ignore-not-found", "--wait=false", check=False)
        shutil.rmtree(partial, ignore_errors=True)
    print(f"Copied run {run!r} to {directory}; its result is in {directory}/metrics.json")
    return 0


def copy_finished(kubectl: Kubectl, in_pod: Sequence[str], run: str, partial: pathlib.Path) -> None:
    """Copies a run out of a pod; ends with the reason if it has not finished or breaks off."""
    source, names = f"/outputs/{run}", kubectl(*in_pod, "ls", "/outputs").split()
    if run not in names:
        die(1, f"no run {run!r} on the volume; there are: {' '.join(names)}")
    files = kubectl(*in_pod, "find", source, "-mindepth", "1").splitlines()
    metrics = f"{source}/metrics.json"  # is written last
    if metrics not in files or not json.loads(kubectl(*in_pod, "cat", metrics))["finished"]:
        die(1, f"run {run!r} has not finished; `follow {run}` shows how far it is")
    partial.mkdir(parents=True)
    with kubectl.start(*in_pod, "tar", "-C", source, "-cf", "-", ".") as packed:
        unpacked = subprocess.run(["tar", "-C", partial, "-xf", "-"], stdin=packed.stdout)
    # A stream that is cut between two files looks whole, and kubectl may call that success.
    if packed.returncode or unpacked.returncode or len(list(partial.rglob("*"))) != len(files):
        die(1, f"the copy of run {run!r} broke off; try again")


def monitor(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Forwards a local port to TensorBoard over all runs, until Ctrl-C."""
    kubectl.check_cluster()
    if not kubectl.get("deployment", TENSORBOARD):
        die(1, "no TensorBoard in this namespace; the first `submit` starts it")
    status = ("rollout", "status", "deployment", TENSORBOARD, "--timeout=180s")
    kubectl(*status, stdout=sys.stderr)
    with kubectl.start("port-forward", f"service/{TENSORBOARD}", f"{options.port}:6006") as forward:
        for line in forward.stdout:
            if line.startswith(b"Forwarding from 127.0.0.1"):  # it answers
                print(f"TensorBoard: http://localhost:{options.port}/ (Ctrl-C ends it)", flush=True)
    return 1 if forward.returncode else 0


def clean(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Removes a run from the cluster, finished or not; its files stay, so that it can go on."""
    kubectl.check_cluster()
    kinds = "jobs,configmaps,services,serviceaccounts,networkpolicies"
    name, instance = "app.kubernetes.io/name", "app.kubernetes.io/instance"
    selected = (kinds, "--selector", f"{name}=number-recognition,{instance}={options.run}")
    if not kubectl("get", *selected, "--output=name"):
        die(1, f"no run {options.run!r} in this namespace; `kubectl get jobs` lists what is there")
    # In the foreground: afterwards the pods are gone and the name can be used again.
    kubectl("delete", *selected, "--cascade=foreground", stdout=None)
    print(f"Removed run {options.run!r}; its files stay on the volume")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
