"""scripts/cluster.py as a process, with a kubectl that plays the cluster.

The stand-in records what it is asked and answers as a test wants; rendering is the real kubectl's.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
import runs
import yaml
from cluster import wait_until

from trainer import config

SCRIPT = runs.ROOT / "scripts/cluster.py"
KUBECTL = shutil.which("kubectl")
TIMEOUT_S = 120  # bounds what takes a second, so that a failure is not a hang

pytestmark = pytest.mark.skipif(not KUBECTL, reason="needs kubectl on PATH, which renders")

# Writes down every call with its standard input, and gives the first answer whose pattern matches;
# one with `times` is used up. Without an answer: success without output, which is "not found".
STAND_IN = r"""#!{python} -SE
import json, os, re, subprocess, sys, time
here, arguments = {here!r}, sys.argv[1:]
if arguments[0] == "kustomize":
    os.execv({kubectl!r}, ["kubectl", *arguments])
line = " ".join(arguments)
call = dict(line=line)
if "apply" in arguments:
    call["applied"] = sys.stdin.read()
with open(here + "/calls", "a") as file:
    file.write(json.dumps(call) + "\n")
if "exec" in arguments:
    command = arguments[arguments.index("--") + 1:]
    done = subprocess.run([a.replace("/outputs", here + "/outputs") for a in command],
                          stdout=None if "tar" in command else subprocess.PIPE)
    sys.stdout.write((done.stdout or b"").decode().replace(here, ""))
    sys.exit(done.returncode)
answers = json.load(open(here + "/answers"))
for answer in answers:
    if re.search(answer["match"], line) and answer.get("times", 1):
        if "times" in answer:
            answer["times"] -= 1
            json.dump(answers, open(here + "/answers", "w"))
        sys.stdout.write(answer.get("out", ""))
        sys.stdout.flush()
        sys.stderr.write(answer.get("err", ""))
        time.sleep(answer.get("sleep", 0))
        sys.exit(answer.get("code", 0))
"""


class Cluster:
    """A directory with a `kubectl` in it that plays the cluster."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        text = STAND_IN.format(python=sys.executable, here=str(directory), kubectl=KUBECTL)
        self.install("kubectl", text)
        self.answers: list[dict] = []

    def on(self, match: str, answer: Any = "", **more: Any) -> Cluster:
        """Answers calls that match, with text or JSON; `code`, `err`, and `times` if not always."""
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self.answers.append({"match": match, "out": text, **more})
        return self

    def install(self, program: str, text: str) -> None:
        """Puts a program in front of those on PATH."""
        path = self.directory / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen:
        (self.directory / "answers").write_text(json.dumps(self.answers))
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        return subprocess.Popen(
            [sys.executable, SCRIPT, *arguments],
            env={**os.environ, "PATH": path, "CLUSTER_POLL_S": "0.02", "TZ": "UTC"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        """Runs a command to its end and checks its exit code."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def calls(self) -> list[str]:
        return [call["line"] for call in self._recorded()]

    @property
    def applied(self) -> list[dict]:
        texts = [call["applied"] for call in self._recorded() if "applied" in call]
        return [each for text in texts for each in yaml.safe_load_all(text)]

    def _recorded(self) -> list[dict]:
        file = self.directory / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Cluster:
    """A cluster to which nothing was submitted yet."""
    return Cluster(tmp_path)


def dry_run(*arguments: str, script: pathlib.Path = SCRIPT) -> list[dict]:
    command = [sys.executable, script, "submit", "--name=demo", "--dry-run", *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def one(objects: list[dict], kind: str) -> dict:
    found = [o for o in objects if o["kind"] == kind]
    (only,) = [o for o in found if "tensorboard" not in o["metadata"]["name"]]
    return only


@pytest.mark.parametrize("command", ["submit", "follow demo", "collect demo new"])
def test_help_needs_no_cluster_and_without_one_a_command_says_so(command, cluster) -> None:
    result = cluster.run(*command.split(), "--help")
    assert f"scripts/cluster.py {command.split()[0]}" in result.stdout
    assert "--namespace NS" in result.stdout
    assert cluster.calls == []
    refused = "The connection was refused\n"
    cluster.on("", code=1, err="E1 memcache.go:1] refused\n" * 2 + refused)
    result = cluster.run(*command.split(), code=1)
    assert re.fullmatch(rf"error: (run 'demo' cannot be seen: )?{refused}", result.stderr)
    assert len(cluster.calls) == 1


@pytest.mark.parametrize(("option", "words"), [("-SE", "PyYAML"), ("-E", "https://kubernetes.io")])
def test_without_kubectl_or_pyyaml_it_says_what_to_do(option, words, tmp_path) -> None:
    command = [sys.executable, option, SCRIPT, "monitor"]
    result = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 2
    assert re.fullmatch(rf"error: .*{words}.*\n", result.stderr)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("submit tpu", "multi-worker"),  # among those there are
        ("submit --epochs=5", "--epochs=5"),
        *((f"submit --name '{n}'", repr(n)) for n in ("Demo", "1a", "a-", "a\nb")),
        (f"submit --name {'d' * 51}", "up to 50"),
        ("submit --namespace a/b", "'a/b'"),
        ("submit --image 'a b'", "'a b'"),
        *((f"submit multi-worker --workers {n}", repr(n)) for n in ("0", "1000")),
        ("submit --workers 3", "multi-worker"),
        ("submit multi-worker --workers 7", "--batch_size=119"),
        ("submit multi-worker -- --batch_size=120 --batch_size 1", "--batch_size=2"),
        ("submit -- --epochs=5 six", "'six'"),
        ("submit -- --epochs=abc", "--epochs=abc"),
        ("submit -- --epoch=5", "'epoch'"),
        ("submit -- --strategy=cpu --virtual_devices=2", "--virtual_devices=2"),
        ("submit -- --model_dir=/x", "use --name"),
        ("submit -- --flagfile mine", "not on the cluster"),
        *((f"submit -- '--data_dir={path}'", "flag file") for path in ("a\nb", "a ")),
        ("monitor --port http", "'http'"),
        ("collect demo /", "exists already"),
        ("clean app=x", "'app=x'"),
        ("clean --all", "required"),
    ],
)
def test_what_cannot_be_is_refused_before_the_cluster_is_asked(line, words, cluster) -> None:
    result = cluster.run(*shlex.split(line), code=2)
    assert words in result.stderr.splitlines()[-1]
    assert (result.stdout, cluster.calls) == ("", [])


def test_a_dry_run_prints_everything_and_asks_no_cluster(cluster: Cluster) -> None:
    result = cluster.run("submit", "multi-gpu", "--namespace", "1e3", "--dry-run")
    objects = list(yaml.safe_load_all(result.stdout))
    assert {o["kind"] for o in objects} == {
        *("ConfigMap", "Deployment", "Job", "NetworkPolicy"),
        *("PersistentVolumeClaim", "Service", "ServiceAccount"),
    }
    assert {o["metadata"]["namespace"] for o in objects} == {"1e3"}
    assert 'namespace: "1e3"' in result.stdout  # to kubectl's reader it is a number else
    # Without a name a run is called after its overlay and the time.
    assert re.fullmatch(r"multi-gpu-\d{8}-\d{6}", one(objects, "Job")["metadata"]["name"])
    assert "default-run" not in result.stdout
    assert cluster.calls == []


def test_flags_reach_the_trainer_exactly_as_they_were_given(tmp_path) -> None:
    text = """ it's "quoted" \\ `here` $HOME ${HOME} $(pwd) {a: [b]} # & * ! | > % Größe ½"""
    objects = dry_run("cpu", "--", f"--data_dir={text}", "-seed", "7")
    file, values = tmp_path / "run.flags", config.flag_values()
    file.write_text(one(objects, "ConfigMap")["data"]["run.flags"])
    assert values(["program", f"--flagfile={file}"]) == ["program"]
    given = config.from_flags(values)
    assert (given.data_dir, given.seed, given.model_dir) == (text, 7, "/outputs/demo")


def test_an_overlay_of_ones_own_is_found_by_its_name(tmp_path) -> None:
    for directory in ("k8s", "scripts"):
        shutil.copytree(runs.ROOT / directory, tmp_path / directory)
    own = tmp_path / "k8s/overlays/mine"
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        "resources: [../multi-worker]\n"
        "components: [../../components/spot, ../../components/kueue]\n"
        "images: [{name: number-recognition, newName: mine}]\n"
    )
    image = f"r.example:5000/digits@sha256:{'a' * 64}"
    script = tmp_path / "scripts/cluster.py"
    objects = dry_run("mine", "--workers", "4", "--image", image, script=script)
    job = one(objects, "Job")
    assert job["spec"]["suspend"] is True
    assert job["spec"]["completions"] == 4
    for each in (job, *(o for o in objects if o["kind"] == "Deployment")):
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image


def test_what_is_sent_is_what_a_dry_run_prints_and_to_the_same_namespace(cluster) -> None:
    request = ("multi-worker", "--namespace", "digits", "--", "--epochs", "5")
    cluster.run("submit", "--name=demo", *request)
    assert cluster.applied == dry_run(*request)
    assert {tuple(call.split()[:2]) for call in cluster.calls} == {("--namespace", "digits")}


def test_what_is_a_runs_own_goes_with_its_job(cluster: Cluster) -> None:
    cluster.on("^get job demo", times=1).on("^get job demo", job())
    cluster.run("submit", "multi-worker", "--name", "demo")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "demo", "uid": "u-1"}
    sent = cluster.applied
    owned = [o for o in sent if o["metadata"].pop("ownerReferences", None) == [owner]]
    assert len(owned) == 5  # ServiceAccount, ConfigMap, Service, two NetworkPolicies
    own = [o for o in sent[:-5] if "app.kubernetes.io/instance" in o["metadata"]["labels"]]
    assert owned == [o for o in own if o["kind"] != "Job"]


@pytest.mark.parametrize(("waits", "replaced"), [("ErrImagePull", True), ("", False)])
def test_a_tensorboard_that_works_is_kept_another_one_replaced(waits, replaced, cluster) -> None:
    board = pod("board-a", "Pending" if waits else "Running", waits=waits)
    board["status"]["containerStatuses"][0]["name"] = "tensorboard"
    cluster.on("^get deployment", BOARD).on("^get pods .*tensorboard", pods(board))
    cluster.run("submit", "--image", "registry.example/digits:typo")
    assert ("Deployment" in {o["kind"] for o in cluster.applied}) is replaced
    cluster.on("^get jobs", pods({"kind": "Job"}))
    cluster.run("clean", "demo")
    assert any(call.startswith("delete deployment") for call in cluster.calls) is replaced


def test_a_run_that_exists_is_left_alone(cluster: Cluster) -> None:
    cluster.on("^get job demo", job())
    assert "run 'demo' exists already" in cluster.run("submit", "--name=demo", code=2).stderr
    assert not any("apply" in call for call in cluster.calls)


@pytest.mark.parametrize(("overlay", "warned"), [("cpu", False), ("multi-worker", True)])
def test_a_volume_claim_that_exists_is_left_alone(overlay, warned, cluster) -> None:
    cluster.on("^get persistentvolumeclaim", {"spec": {"accessModes": ["ReadWriteOnce"]}})
    result = cluster.run("submit", overlay, "--name", "demo")
    assert ("warning: the volume claim" in result.stderr) is warned
    assert cluster.applied == [o for o in dry_run(overlay) if o["kind"] != "PersistentVolumeClaim"]


def test_a_refusal_of_the_cluster_ends_a_submission_with_one_error(cluster: Cluster) -> None:
    error = 'Error from server (NotFound): error when creating "STDIN": namespaces "x" not found\n'
    cluster.on("apply", code=1, err=error * 9)
    assert cluster.run("submit", "--namespace", "x", "--follow", code=1).stderr == f"error: {error}"


def job(*conditions: tuple[str, str, str], **spec: str) -> dict:
    """A Job; conditions as type, reason and message."""
    fields = ("type", "reason", "message")
    found = [dict(zip(fields, each, strict=True), status="True") for each in conditions]
    metadata = {"name": "demo", "uid": "u-1"}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": found}}


def pod(name: str, phase: str, code: int | None = None, waits: str = "", **end: str) -> dict:
    """A pod of the run; those with later letters are younger. `end`: more of its container's."""
    state: dict = {"waiting": {"reason": waits}} if waits else {}
    state |= {} if code is None else {"terminated": {"exitCode": code, **end}}
    status = {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]}
    created = f"2026-01-01T00:00:0{ord(name[-1]) - ord('a')}Z"
    metadata = {"name": name, "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": status}


def pods(*items: dict) -> dict:
    return {"kind": "List", "items": items}


def log(*lines: str) -> str:
    """What `kubectl logs --timestamps` prints: one line a second."""
    return "".join(f"2026-01-01T00:00:0{i}.5Z {line}\n" for i, line in enumerate(lines))


RUNS, COMPLETE = job(), job(("Complete", "CompletionsReached", ""))


def test_following_shows_one_log_after_the_other_and_leaves_with_0(cluster: Cluster) -> None:
    cluster.on("^get job demo", times=1).on("^get job demo", RUNS, times=4)
    cluster.on("^get job demo", COMPLETE)
    failed, done = pod("demo-a", "Failed", 143), pod("demo-b", "Succeeded", 0)
    cluster.on("^get pods", pods(pod("demo-a", "Pending", waits="ContainerCreating")), times=1)
    cluster.on("^get pods", pods(pod("demo-a", "Running")), times=1)
    cluster.on("^get pods", pods(pod("demo-b", "Pending"), failed), times=1)
    cluster.on("^get pods", pods(done, failed))
    cluster.on("^logs .*pod/demo-a", log("epoch 1", "saved"))
    cluster.on("^logs .*pod/demo-b", log("epoch 2"))
    cluster.on("^get pod demo-a", failed).on("^get pod demo-b", done)
    result = cluster.run("submit", "--name", "demo", "--follow")
    assert result.stdout.splitlines()[-4:-1] == ["epoch 1", "saved", "epoch 2"]
    assert result.stderr.splitlines() == [
        "pod/demo-a waits: ContainerCreating",
        "pod/demo-a ended: exit code 143",
        "pod/demo-b waits",
    ]


def test_following_several_workers_shows_the_chief_alone(cluster: Cluster) -> None:
    cluster.on("^get job demo", COMPLETE | {"spec": {"completionMode": "Indexed"}})
    cluster.run("follow", "demo")
    (asked,) = [call for call in cluster.calls if call.startswith("get pods")]
    assert ",batch.kubernetes.io/job-completion-index=0 " in asked


def test_a_log_that_was_cut_off_is_taken_up_where_it_was(cluster: Cluster) -> None:
    cluster.on("^get job demo", RUNS, times=1).on("^get job demo", COMPLETE)
    cluster.on("^get pods", pods(pod("demo-a", "Running")))
    cluster.on("^logs .*--since-time=2026-01-01T00:00:00.5Z", log("epoch 1", "epoch 2"))
    cluster.on("^logs .*pod/demo-a", log("epoch 1"), err="connection lost\n", code=1, times=1)
    cluster.on("^get pod demo-a", pod("demo-a", "Running"), times=1)
    cluster.on("^get pod demo-a", pod("demo-a", "Succeeded", 0))
    result = cluster.run("follow", "demo")
    assert result.stdout.splitlines()[:-1] == ["epoch 1", "epoch 2"]


BACKOFF = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
DEADLINE = ("DeadlineExceeded", "Job was active longer than specified deadline")
POLICY = ("PodFailurePolicy", "Container trainer for pod x/demo-1 failed with exit code 3 matching")


@pytest.mark.parametrize(
    ("condition", "last_exit", "code"),
    [
        (POLICY, 138, 3),  # 138 is the chief's, when another worker found the data wrong
        (BACKOFF, 137, 137),
        (DEADLINE, None, 1),
    ],
)
def test_a_failed_job_leaves_its_exit_code_and_reason(condition, last_exit, code, cluster) -> None:
    cluster.on("^get job demo", job(("FailureTarget", *condition), ("Failed", *condition)))
    ended = pod("demo-a", "Failed", last_exit)
    cluster.on("^get pods", pods(ended)).on("^get pod demo-a", ended)
    result = cluster.run("follow", "demo", code=code)
    assert result.stderr.splitlines()[-1] == f"error: run 'demo' failed: {': '.join(condition)}"


def test_a_worker_that_is_given_up_ends_the_run_with_its_exit_code(cluster: Cluster) -> None:
    failed = job(("Failed", "MaxFailedIndexesExceeded", "too many"), completionMode="Indexed")
    failed["status"]["failedIndexes"] = "1,3-4"
    cluster.on("^get job demo", failed).on("^get pods .*completion-index=0", pods())
    last = pod("demo-b", "Failed", 137, reason="OOMKilled")
    cluster.on("^get pods .*completion-index=1", pods(last, pod("demo-a", "Failed", 1)))
    line = cluster.run("follow", "demo", code=137).stderr.splitlines()[-1]
    assert re.search("MaxFailedIndexesExceeded.*worker 1 ended: OOMKilled", line)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (pod("demo-a", "Failed", 137, reason="OOMKilled"), "OOMKilled"),
        (pod("demo-a", "Failed", 143) | {"metadata": {"deletionTimestamp": "now"}}, "deleted"),
        ("", "deleted"),
        ({"metadata": {}, "status": {"reason": "Evicted", "message": "/tmp"}}, "Evicted: /tmp"),
    ],
)
def test_the_end_of_a_pod_is_told_in_words(end: Any, words: str, cluster: Cluster) -> None:
    cluster.on("^get job demo", RUNS, times=1).on("^get job demo", COMPLETE)
    cluster.on("^get pods", pods(pod("demo-a", "Running"))).on("^get pod demo-a", end)
    (line,) = cluster.run("follow", "demo").stderr.splitlines()
    assert line.startswith(f"pod/demo-a ended: {words}")


def test_while_the_job_waits_to_try_again_following_says_until_when(cluster: Cluster) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    first = pod("demo-a", "Failed", 1, finishedAt="2026-01-01T00:00:00Z")
    second = pod("demo-b", "Failed", 1, finishedAt=f"{now:%Y-%m-%dT%H:%M:%SZ}")
    cluster.on("^get job demo", RUNS, times=3).on("^get job demo", COMPLETE)
    cluster.on("^get pods", pods(first, second))
    cluster.on("^get pod demo-a", first).on("^get pod demo-b", second)
    until = f"{now + datetime.timedelta(seconds=20):%H:%M:%S}"  # 10 s, doubled once
    lines = cluster.run("follow", "demo").stderr.splitlines()
    assert [until in line for line in lines] == [False, False, True]


QUOTA = [{"message": f"quota, {i}", "lastTimestamp": f"2026-01-01T00:00:0{i}Z"} for i in range(2)]
UNSCHEDULABLE = pod("demo-a", "Pending")
UNSCHEDULABLE["status"]["conditions"] = [{"reason": "Unschedulable", "message": "0/3 nodes"}]


@pytest.mark.parametrize(
    ("question", "answers", "words"),
    [
        ("^get pods", [{"answer": pods(UNSCHEDULABLE)}], "pod/demo-a waits: 0/3 nodes"),
        ("^get events .*FailedCreate", [{"answer": pods(each)} for each in QUOTA], "quota, 0"),
        # Its node is lost.
        ("^logs .*demo-a", [{"code": 1, "err": f"timeout {i}"} for i in range(2)], "timeout 0"),
    ],
)
def test_what_a_run_waits_for_is_printed_once(question, answers, words, cluster: Cluster) -> None:
    cluster.on("^get job demo", job(("Suspended", "JobSuspended", "")), times=3)
    cluster.on("^get job demo", RUNS, times=3).on("^get job demo", COMPLETE)
    cluster.on("^get pods", pods(), times=3)
    cluster.on(question, **answers[0], times=1).on(question, **answers[-1])
    if question.startswith("^logs"):
        running = pod("demo-a", "Running")
        cluster.on("^get pods", pods(running)).on("^get pod demo-a", running)
    lines = cluster.run("follow", "demo").stderr.splitlines()
    assert lines[0].startswith("run 'demo' is suspended")
    assert [words in line for line in lines] == [False, True]


def test_following_survives_a_cluster_that_is_away_for_a_moment(cluster: Cluster) -> None:
    cluster.on("^get job demo", RUNS, times=1)
    cluster.on("^get job demo", code=1, err="timeout\n", times=2)
    cluster.on("^get job demo", RUNS, times=1)
    cluster.on("^get job demo", code=1, err="refused\n")
    lines = cluster.run("follow", "demo", code=1).stderr.splitlines()
    assert ["timeout" in line for line in lines] == [True, False]
    assert lines[1].startswith("error: run 'demo' cannot be seen")


def test_ctrl_c_ends_the_following_and_not_the_run(cluster: Cluster) -> None:
    cluster.on("^get job demo", RUNS).on("^get pods", pods(pod("demo-a", "Running")))
    cluster.on("^logs", log("epoch 1"), sleep=600)
    process = cluster.start("follow", "demo")
    wait_until(lambda: any(call.startswith("logs") for call in cluster.calls), "the log is shown")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "`follow demo` shows it again" in err
    assert not any("delete" in call for call in cluster.calls)


def test_monitor_prints_the_address_once_it_is_forwarded(cluster: Cluster) -> None:
    assert "error: no TensorBoard in this namespace" in cluster.run("monitor", code=1).stderr
    cluster.on("^get deployment", BOARD)
    cluster.on("port-forward .*:6006$", "Forwarding from 127.0.0.1:7000 -> 6006\n", times=1)
    result = cluster.run("monitor", "--port", "7000")
    assert result.stdout.count("http://localhost:7000/") == 1
    assert cluster.calls[-1] == "port-forward service/number-recognition-tensorboard 7000:6006"


def test_a_signal_to_monitoring_ends_the_forwarding(cluster: Cluster) -> None:
    cluster.on("^get deployment", BOARD)
    cluster.on("port-forward", "Forwarding from 127.0.0.1:6006 -> 6006\n", sleep=600)
    process = cluster.start("monitor")
    assert "http://localhost:6006/" in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=TIMEOUT_S)  # until kubectl has closed standard error too
    assert process.returncode == 128 + signal.SIGTERM


def workload(container: str, image: str) -> dict:
    return {"spec": {"template": {"spec": {"containers": [{"name": container, "image": image}]}}}}


BOARD = workload("tensorboard", "registry.example/digits:1")


@pytest.fixture
def finished(cluster: Cluster) -> Cluster:
    """A cluster on whose volume a run `demo` is finished; `young` and `nearly` are not."""
    cluster.on("^get deployment", BOARD)
    for run in ("demo", "nearly", "young"):
        directory = cluster.directory / "outputs" / run
        (directory / "saved_model/7").mkdir(parents=True)
        (directory / "saved_model/7/saved_model.pb").write_bytes(b"\0\1\2")
        if run != "young":
            (directory / "metrics.json").write_text(json.dumps({"finished": run == "demo"}))
    return cluster


def test_collect_copies_a_finished_run_and_removes_its_pod(finished: Cluster, tmp_path) -> None:
    run, directory, image = "d" * 50, tmp_path / "a new/place", "registry.example/digits:run"
    finished.on(f"^get job {run}", workload("trainer", image))  # whatever TensorBoard's is
    (finished.directory / "outputs/demo").rename(finished.directory / "outputs" / run)
    finished.run("collect", run, str(directory))
    assert (directory / "saved_model/7/saved_model.pb").read_bytes() == b"\0\1\2"
    assert (directory / "metrics.json").exists()
    assert [path.name for path in directory.parent.iterdir()] == ["place"]
    (pod,) = finished.applied
    name = pod["metadata"]["name"]
    assert re.fullmatch(r"collector-\d+-d+", name)
    assert len(name) <= 63  # else its host name is cut
    assert pod["spec"]["containers"][0]["image"] == image
    assert finished.calls[-1].startswith(f"delete pod {name} ")


@pytest.mark.parametrize(
    ("run", "words"),
    {
        "young": "has not finished",
        "nearly": "has not finished",
        "nobody": "demo nearly young",
    }.items(),
)
def test_collect_copies_nothing_but_a_finished_run(run, words, finished, tmp_path) -> None:
    result = finished.run("collect", run, str(tmp_path / "new"), code=1)
    assert re.match(f"error: .*run '{run}' .*{words}", result.stderr)
    assert not (tmp_path / "new").exists()
    assert finished.calls[-1].startswith("delete pod collector-")


@pytest.mark.parametrize("reading", ["$tar $* | head -c 1000; exit 1", "$tar --exclude=*.pb $*"])
def test_a_copy_that_breaks_off_leaves_nothing(reading: str, finished: Cluster, tmp_path) -> None:
    """Cut within a file, or between two files and called a success."""
    replace_tar(finished, f'case "$*" in *-cf*) {reading}; exit ;; esac; exec $tar "$@"')
    finished.run("collect", "demo", str(tmp_path / "new"), code=1)
    assert not list(tmp_path.glob("new*"))
    assert finished.calls[-1].startswith("delete pod collector-")


def test_a_copy_has_its_name_only_once_it_is_whole(finished: Cluster, tmp_path) -> None:
    """Also if it is killed: looked at when everything has been copied."""
    replace_tar(finished, f'$tar "$@" && [ ! -e {tmp_path}/new ]')
    finished.run("collect", "demo", str(tmp_path / "new"))
    assert (tmp_path / "new/metrics.json").exists()


def replace_tar(cluster: Cluster, script: str) -> None:
    """Puts a script on the way to tar, which is `$tar` there."""
    cluster.install("tar", f"#!/bin/sh\ntar={shutil.which('tar')}\n{script}\n")


def test_collect_says_why_the_volume_cannot_be_read(cluster: Cluster, tmp_path) -> None:
    request = ("collect", "demo", str(tmp_path / "new"))
    assert "error: no run 'demo': nothing was ever" in cluster.run(*request, code=1).stderr
    cluster.on("^get deployment", BOARD).on("^wait", code=1, err="timed out\n")
    cluster.on("^get pod collector", pod("collector-a", "Pending", waits="ErrImagePull"))
    error = cluster.run(*request, code=1).stderr
    assert re.search("error: the volume cannot be read .*ErrImagePull", error)
    assert cluster.calls[-1].startswith("delete pod collector-")


def test_clean_removes_what_carries_the_runs_name_and_nothing_shared(cluster: Cluster) -> None:
    cluster.on("^get jobs", pods({"kind": "Job"}))
    cluster.on("^get pods .*=demo", pods(pod("demo-a", "Running"), pod("demo-b", "Failed", 1)))
    lines = cluster.run("clean", "demo").stderr.splitlines()
    assert ["pod/demo-a on node n1" in line for line in lines] == [True]  # may be a lost one
    (delete,) = [call for call in cluster.calls if call.startswith("delete")]
    _, kinds, _, selector, *_ = delete.split()
    wanted = dict(pair.split("=") for pair in selector.split(","))
    for o in dry_run("multi-worker"):
        labels = o["metadata"]["labels"]
        shared = labels["app.kubernetes.io/component"] in ("storage", "tensorboard")
        assert (wanted.items() <= labels.items()) is not shared
        assert shared or re.sub("y$", "ie", o["kind"].lower()) + "s" in kinds.split(",")


@pytest.mark.parametrize("command", ["follow", "clean"])
def test_a_run_that_is_not_there_is_named(command: str, cluster: Cluster) -> None:
    result = cluster.run(command, "demo", code=1)
    assert result.stderr.startswith("error: no run 'demo' in this namespace")
    assert not any(call.startswith("delete") for call in cluster.calls)
