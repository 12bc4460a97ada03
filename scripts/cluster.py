#!/usr/bin/env python3
"""Submits training runs to a Kubernetes cluster, follows them and copies their results.

  scripts/cluster.py submit gpu --name first --image registry.example/digits:gpu -- --model=cnn
  scripts/cluster.py follow first
  scripts/cluster.py collect first runs/first

Needs kubectl, PyYAML and absl-py. Exit codes: 2, a wrong request; 1, it failed; or the run's.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

try:
    import manifests
except ImportError as error:
    print(f"error: {error} (PyYAML, absl-py); use .venv/bin/python", file=sys.stderr)
    sys.exit(2)

# The names in k8s/base of what all runs share.
CLAIM, TENSORBOARD = "number-recognition", "number-recognition-tensorboard"
POLL_S = float(os.environ.get("CLUSTER_POLL_S", "2"))


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
    except subprocess.CalledProcessError as error:
        die(1, reason(error))
    except KeyboardInterrupt:
        return 130


def parser(flags: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser of the command line up to `--`; `flags` are what follows it."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("scripts/cluster.py", None, __doc__, formatter_class=style)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    added = {}
    for function in (submit, follow, collect, monitor, clean):
        text = function.__doc__
        each = added[function] = commands.add_parser(function.__name__, help=text, description=text)
        each.set_defaults(command=function, flags=flags)
        each.add_argument("--namespace", metavar="NS", type=namespace, help="the context's")
        if function in (follow, collect, clean):
            each.add_argument("run", type=run_name, metavar="RUN", help="the name of a run")
    added[collect].add_argument("directory", type=pathlib.Path, metavar="DIR", help="is made")
    added[monitor].add_argument("--port", type=int, default=6006, help="default: 6006")
    option = added[submit].add_argument
    overlays = sorted(path.parent.name for path in manifests.OVERLAYS.glob("*/kustomization.yaml"))
    option("overlay", nargs="?", default="cpu", choices=overlays, help="default: cpu")
    option("--name", type=run_name, metavar="RUN", help="default: OVERLAY-DATE-TIME")
    option("--image", type=image, help="default: the overlay's")
    option("--workers", type=count, metavar="N", help="default: the overlay's number")
    option("--dry-run", action="store_true", help="print the manifests, send nothing")
    option("--follow", action="store_true", help="then do as `follow` does")
    return parser


def match(pattern: str, meaning: str, text: str) -> str:
    """Returns the text of an argument, which must match."""
    if not re.fullmatch(pattern, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
    return text


# 50: a worker's host name has at most 63 characters, and adds its index and the Service's name.
run_name = functools.partial(
    match, "[a-z]([a-z0-9-]{0,48}[a-z0-9])?", "up to 50 of a-z, 0-9, inner '-', first a letter"
)
namespace = functools.partial(match, "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a namespace's name")
image = functools.partial(match, "[A-Za-z0-9]([A-Za-z0-9./:@_-]*[A-Za-z0-9])?", "an image")
count = functools.partial(match, "[1-9][0-9]{0,2}", "a number from 1 to 999")
note = functools.partial(print, file=sys.stderr, flush=True)  # a log goes to standard output


def die(code: int, message: str) -> NoReturn:
    """Ends with an error of one line."""
    note(f"error: {message}")
    raise SystemExit(code)


def reason(error: subprocess.CalledProcessError) -> str:
    """Returns what kubectl says of an error, on one line and without its repetitions."""
    text = error.stderr or error.output or f"{' '.join(error.cmd)} failed"
    lines = [line for line in text.splitlines() if "memcache.go" not in line]
    return "; ".join(dict.fromkeys(lines))  # an unknown namespace is an error for each object


class Kubectl:
    """kubectl in a namespace; CalledProcessError is raised where it fails."""

    def __init__(self, namespace: str | None = None):
        self._command = ["kubectl", *(["--namespace", namespace] if namespace else [])]

    def __call__(self, *arguments: str, **options: Any) -> str:
        """Runs a command and returns what it prints; the options are those of subprocess.run."""
        options = {"check": True, "stdout": subprocess.PIPE, "text": True} | options
        return subprocess.run([*self._command, *arguments], **options).stdout

    @contextlib.contextmanager
    def start(self, *arguments: str, stderr: int | None = None) -> Iterator[subprocess.Popen]:
        """Starts a command whose output is read while it runs; what ends the block ends it."""
        command = [*self._command, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process:
            try:
                yield process
            except BaseException:
                process.terminate()
                raise

    def get(self, *what: str) -> dict[str, Any]:
        """Returns an object, or the List that a selector finds; empty if it does not exist."""
        how = ("--ignore-not-found", "--output=json", "--request-timeout=10s")
        return json.loads(self("get", *what, *how, stderr=subprocess.PIPE) or "{}")

    def pods(self, selector: str) -> list[dict]:
        """Returns the pods that a selector finds, the oldest first."""
        found = self.get("pods", "--selector", selector).get("items", [])
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])


def submit(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Submits a run."""
    run = options.run = options.name or time.strftime(f"{options.overlay}-%Y%m%d-%H%M%S")
    edits = {key: getattr(options, key) for key in ("image", "workers", "namespace")}
    objects = manifests.render(options.overlay, run, options.flags, **edits)
    if options.dry_run:
        print(manifests.to_yaml(objects), end="")
        return 0
    if kubectl.get("job", run):
        die(2, f"run {run!r} exists already: `follow {run}`, `clean {run}`, or another --name")
    objects = without_shared(kubectl, objects)
    sent = {"input": manifests.to_yaml(objects), "stderr": subprocess.STDOUT}
    print(kubectl("apply", "--filename=-", **sent), end="")
    if job := kubectl.get("job", run):
        owned = manifests.to_yaml(manifests.owned_by(job, objects))
        kubectl("apply", "--filename=-", input=owned, check=False)
    print(f"Submitted run {run!r}; `collect {run} DIR` copies it when it has finished", flush=True)
    return follow(kubectl, options) if options.follow else 0


def without_shared(kubectl: Kubectl, objects: Sequence[dict]) -> list[dict]:
    """Returns the objects without those that all runs share and that are there and work."""
    there = set()
    if claim := kubectl.get("persistentvolumeclaim", CLAIM):  # it cannot be changed
        there.add("PersistentVolumeClaim")
        (wanted,) = [each["spec"]["accessModes"] for each in objects if each["kind"] in there]
        if "ReadWriteMany" in wanted and "ReadWriteMany" not in claim["spec"]["accessModes"]:
            note("warning: the volume claim is not ReadWriteMany: all workers must fit on one node")
    if kubectl.get("deployment", TENSORBOARD) and not tensorboard_is_broken(kubectl):
        there.add("Deployment")
    return [each for each in objects if each["kind"] not in there]


def tensorboard_is_broken(kubectl: Kubectl) -> bool:
    """Returns whether TensorBoard's container cannot start, as from an image that is not there."""
    selector = "app.kubernetes.io/name=number-recognition,app.kubernetes.io/component=tensorboard"
    reasons = {container_state(pod, "waiting").get("reason") for pod in kubectl.pods(selector)}
    return bool(reasons - {None, "ContainerCreating", "PodInitializing"})


def follow(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Shows the chief's log through all restarts, and leaves with the run's exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends with its reader, such as `head`
    log, answered = ChiefLog(kubectl, options.run), float("-inf")
    while True:
        try:
            if (code := log.poll()) is not None:
                return code
            answered = time.monotonic()
            time.sleep(POLL_S)
        except subprocess.CalledProcessError as error:
            if time.monotonic() > answered + 150 * POLL_S:
                die(1, f"run {options.run!r} cannot be seen: {reason(error)}")
            log.say(f"no answer, trying again: {reason(error)}", about="no answer")
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            note(f"Run {options.run!r} goes on; `follow {options.run}` shows it again")
            return 130


class ChiefLog:
    """The logs of a run's chief pods, one after the other, and how the last one ended."""

    def __init__(self, kubectl: Kubectl, run: str):
        self._kubectl, self._run = kubectl, run
        self._shown: dict[str, bytes] = {}  # pod -> timestamp of the last line shown
        self._ended: dict[str, str] = {}  # pod -> when it ended, once its log is complete
        self._last_end = self._last_said = ""

    def say(self, line: str, about: str = "") -> None:
        """Prints a line on standard error, unless the one before was about the same."""
        if self._last_said != (about or line):
            note(line)
        self._last_said = about or line

    def poll(self) -> int | None:
        """Shows what is new; returns the exit code of a run that has ended."""
        # The Job before the pods: what ended it is then among them.
        job = self._kubectl.get("job", self._run)
        if not job:
            die(1, f"no run {self._run!r} in this namespace; `kubectl get jobs` lists them")
        conditions = job.get("status", {}).get("conditions", [])
        holds = {each["type"]: each for each in conditions if each["status"] == "True"}
        for pod in self._pods("0" if job["spec"].get("completionMode") == "Indexed" else None):
            if pod["metadata"]["name"] not in self._ended and not self._show(pod):
                break
        else:
            if not holds:
                self._say_why_no_pod()
        return self._result(job, holds)

    def _pods(self, worker: str | None) -> list[dict]:
        index = f",batch.kubernetes.io/job-completion-index={worker}" if worker else ""
        return self._kubectl.pods(f"batch.kubernetes.io/job-name={self._run}{index}")

    def _show(self, pod: dict) -> bool:
        """Shows a pod's log; returns whether it is complete."""
        name = pod["metadata"]["name"]
        if pod["status"].get("phase") not in ("Running", "Succeeded", "Failed"):
            self.say(f"pod/{name} waits{describe(pod)}")
            return False
        shown = self._shown.get(name, b"")
        since = [f"--since-time={shown.decode()}"] if shown else []
        what = ("--follow", "--timestamps", f"--container={manifests.TRAINER}", *since)
        with self._kubectl.start("logs", *what, f"pod/{name}", stderr=subprocess.PIPE) as logs:
            for line in logs.stdout:
                stamp, _, text = line.partition(b" ")
                if shown < stamp < b":":  # --since-time knows seconds; a node's errors have no time
                    sys.stdout.buffer.write(text)
                    sys.stdout.buffer.flush()
                    self._shown[name] = stamp
            failure = logs.stderr.read().decode(errors="replace").strip()
        pod = self._kubectl.get("pod", name)
        if pod.get("status", {}).get("phase") == "Running":  # the connection broke
            if failure:
                text = f"the log of pod/{name} breaks off, trying again (a node that is lost?)"
                self.say(f"{text}: {failure}", about=name)
            return False
        self._ended[name] = container_state(pod, "terminated").get("finishedAt", "")
        self._last_end = describe(pod)
        if self._last_end != ": exit code 0":
            self.say(f"pod/{name} ended{self._last_end}")
        return True

    def _result(self, job: dict, holds: dict[str, dict]) -> int | None:
        if "Complete" in holds:
            print(f"Run {self._run!r} finished; `collect {self._run} DIR` copies it")
            return 0
        if "Failed" in holds:
            why = f"{holds['Failed'].get('reason')}: {holds['Failed'].get('message')}"
            if failed := re.match(r"\d+", job["status"].get("failedIndexes", "")):
                why += f"; worker {failed[0]} ended{describe([{}, *self._pods(failed[0])][-1])}"
            note(f"error: run {self._run!r} failed: {why}")
            # podFailurePolicy names the exit code too, perhaps of another worker than the chief.
            named = re.search(r"exit code ([1-9]\d*)", why + self._last_end)
            return int(named[1]) if named else 1
        if "Suspended" in holds:
            self.say(f"run {self._run!r} is suspended: it waits in its queue")
        return None

    def _say_why_no_pod(self) -> None:
        last_end = max(self._ended.values(), default="")
        if last_end:
            # The Job controller waits 10 s, and twice as long each time up to 10 minutes.
            wait = datetime.timedelta(seconds=min(10 * 2 ** (len(self._ended) - 1), 600))
            start = datetime.datetime.fromisoformat(last_end.replace("Z", "+00:00")) + wait
            if start > datetime.datetime.now(datetime.timezone.utc):
                at, count = start.astimezone().strftime("%H:%M:%S"), len(self._ended)
                return self.say(f"after {count} failures the next pod starts at about {at}")
        job = f"involvedObject.kind=Job,involvedObject.name={self._run},reason=FailedCreate"
        events = self._kubectl.get("events", f"--field-selector={job}").get("items", [])
        messages = {each.get("lastTimestamp") or "": each["message"] for each in events}
        if messages and max(messages) >= last_end:  # each names another pod
            self.say(f"no pod can be made: {messages[max(messages)]}", about="FailedCreate")


def container_state(pod: dict, state: str) -> dict[str, Any]:
    """Returns what is known of a state of the container that is ours: waiting or terminated."""
    ours = (manifests.TRAINER, manifests.BOARD, manifests.COLLECTOR)
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((each["state"].get(state, {}) for each in statuses if each["name"] in ours), {})


def describe(pod: dict) -> str:
    """Returns why a pod has not started or how it ended, after a colon, as far as that is known."""
    status, ended = pod.get("status", {}), container_state(pod, "terminated")
    conditions = [c for c in status.get("conditions", []) if c.get("reason") == "Unschedulable"]
    reasons = [
        "deleted" if not pod or "deletionTimestamp" in pod["metadata"] else None,
        *(status.get(key) for key in ("reason", "message")),  # such as Evicted
        container_state(pod, "waiting").get("reason"),
        *(condition["message"] for condition in conditions),
        ended.get("reason") if ended.get("reason") not in ("Completed", "Error") else None,
        f"exit code {ended['exitCode']}" if ended else None,
    ]
    return "".join(f": {reason}" for reason in reasons if reason)


def collect(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Copies a finished run from the cluster's volume into a new directory."""
    run, directory = options.run, options.directory
    if directory.exists():
        die(2, f"{directory} exists already; name a directory that does not")
    # The run's own image, which its node has; when its Job is gone, TensorBoard's.
    workload = kubectl.get("job", run) or kubectl.get("deployment", TENSORBOARD)
    if not workload:
        die(1, f"no run {run!r}: nothing was ever submitted to this namespace")
    name = f"collector-{os.getpid()}-{run}"[:63].rstrip("-")  # longer host names are cut
    pod = manifests.collector(name, manifests.main_container(workload)["image"])
    partial = directory.with_name(f"{directory.name}.partial-{os.getpid()}")
    try:
        kubectl("apply", "--filename=-", input=manifests.to_yaml([pod]))
        kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s")
        copy_finished(kubectl, ("exec", name, "--"), run, partial)
        partial.rename(directory)
    except subprocess.CalledProcessError:
        die(1, f"the volume cannot be read through pod/{name}{describe(kubectl.get('pod', name))}")
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
    if not kubectl.get("deployment", TENSORBOARD):
        die(1, "no TensorBoard in this namespace; the first `submit` starts it")
    kubectl("rollout", "status", f"deployment/{TENSORBOARD}", "--timeout=180s", stdout=sys.stderr)
    with kubectl.start("port-forward", f"service/{TENSORBOARD}", f"{options.port}:6006") as forward:
        for line in forward.stdout:
            if line.startswith(b"Forwarding from 127.0.0.1"):  # it answers
                print(f"TensorBoard: http://localhost:{options.port}/ (Ctrl-C ends it)", flush=True)
    return 1 if forward.returncode else 0


def clean(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Removes a run from the cluster, finished or not; its files stay, so that it can go on."""
    kinds = "jobs,configmaps,services,serviceaccounts,networkpolicies"
    selector = f"app.kubernetes.io/name=number-recognition,{manifests.INSTANCE}={options.run}"
    selected = (kinds, "--selector", selector)
    if not kubectl.get(*selected).get("items"):
        die(1, f"no run {options.run!r} in this namespace; `kubectl get jobs` lists what is there")
    for pod in kubectl.pods(f"batch.kubernetes.io/job-name={options.run}"):
        where = f"pod/{pod['metadata']['name']} on node {pod['spec'].get('nodeName')}"
        if pod["status"].get("phase") in ("Pending", "Running"):
            note(f"waits for the end of {where}; if that node is lost, see k8s/README.md")
    # In the foreground: afterwards the pods are gone and the name can be used again.
    kubectl("delete", *selected, "--cascade=foreground", stdout=None)
    if tensorboard_is_broken(kubectl):
        kubectl("delete", "deployment", TENSORBOARD, stdout=None)
        note("TensorBoard could not start; the next `submit` makes it again, with its image")
    print(f"Removed run {options.run!r}; its files stay on the volume")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
