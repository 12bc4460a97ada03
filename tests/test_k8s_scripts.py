"""What submit.sh, monitor.sh, collect.sh and clean.sh do, with a kubectl that plays the cluster.

It records what it is asked and answers as told; rendering is the real kubectl's.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest
from absl import flags as absl_flags

yaml = pytest.importorskip("yaml", reason="needs PyYAML")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ("submit.sh", "monitor.sh", "collect.sh", "clean.sh")
KUBECTL = shutil.which("kubectl")

needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="needs kubectl on PATH, which renders")

# Writes down every call, with the text of an applied file, and gives the first answer whose
# pattern fits; one with `times` is used up. Without an answer: success, and nothing said.
STUB = r"""#!{python} -SE
import json, os, re, subprocess, sys
here, arguments = {here!r}, sys.argv[1:]
if arguments[0] == "kustomize":
    os.execv({kubectl!r}, ["kubectl", *arguments])
line = " ".join(arguments)
call = dict(line=line)
if "-f" in arguments:
    call["applied"] = open(arguments[arguments.index("-f") + 1]).read()
with open(here + "/calls", "a") as file:
    file.write(json.dumps(call) + "\n")
if "exec" in arguments:
    command = arguments[arguments.index("--") + 1:]
    sys.exit(subprocess.call([a.replace("/outputs", here + "/outputs") for a in command]))
answers = json.load(open(here + "/answers"))
for answer in answers:
    if re.search(answer["match"], line) and answer.get("times", 1):
        if "times" in answer:
            answer["times"] -= 1
            json.dump(answers, open(here + "/answers", "w"))
        sys.stdout.write(answer.get("out", ""))
        sys.stderr.write(answer.get("err", ""))
        sys.exit(answer.get("code", 0))
"""


class Cluster:
    """A directory with a `kubectl` in it that plays the cluster."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        stub = directory / "bin/kubectl"
        stub.parent.mkdir()
        stub.write_text(STUB.format(python=sys.executable, here=str(directory), kubectl=KUBECTL))
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
        self.answers: list[dict] = []

    def on(self, match: str, **answer) -> Cluster:
        """Answers calls that match: `out`, `err`, `code`, and `times` if not always."""
        self.answers.append({"match": match, **answer})
        return self

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        (self.directory / "answers").write_text(json.dumps(self.answers))
        environment = {
            **os.environ,
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
            "TMPDIR": str(self.directory),
            "SUBMIT_POLL_S": "0",
        }
        return subprocess.run(
            [ROOT / "scripts" / script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        file = self.directory / "calls"
        return (
            [json.loads(line)["line"] for line in file.read_text().splitlines()]
            if file.exists()
            else []
        )

    @property
    def applied(self) -> list[dict]:
        lines = (self.directory / "calls").read_text().splitlines()
        (text,) = [call["applied"] for call in map(json.loads, lines) if "applied" in call]
        return list(yaml.safe_load_all(text))

    def leftovers(self) -> list[str]:
        return [path.name for path in self.directory.glob("number-recognition.*")]


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def empty(cluster) -> Cluster:
    """A cluster to which nothing was submitted yet."""
    return cluster.on(r"^get (job|persistentvolumeclaim|deployment) ", code=1, err="not found\n")


def dry_run(*arguments: str) -> list[dict]:
    text = subprocess.run(
        [ROOT / "scripts/submit.sh", *arguments[:1], "--dry-run", *arguments[1:]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return list(yaml.safe_load_all(text))


def one(objects: list[dict], kind: str) -> dict:
    (found,) = [
        o for o in objects if o["kind"] == kind and "tensorboard" not in o["metadata"]["name"]
    ]
    return found


# All four


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_how_to_call_it_and_needs_no_cluster(script: str, cluster: Cluster) -> None:
    result = cluster.run(script, "--help")
    assert result.returncode == 0
    assert f"scripts/{script}" in result.stdout
    assert "--namespace NS" in result.stdout
    assert "set -e" not in result.stdout
    assert cluster.calls == []


ARGUMENTS = {"submit.sh": [], "monitor.sh": [], "collect.sh": ["demo", "new"], "clean.sh": ["demo"]}


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_kubectl_it_says_where_to_get_it(script: str, tmp_path) -> None:
    for tool in ("bash", "cat", "cp", "date", "dirname", "env", "mktemp", "rm", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = subprocess.run(
        [ROOT / "scripts" / script, *ARGUMENTS[script]],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert re.fullmatch(r"error: kubectl is not installed; see https://\S+\n", result.stderr)


@needs_kubectl
@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_cluster_it_says_so_in_one_line(script: str, tmp_path) -> None:
    result = subprocess.run(
        [ROOT / "scripts" / script, *ARGUMENTS[script]],
        env={**os.environ, "KUBECONFIG": os.devnull},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(r"error: no cluster answers \(.*\n", result.stderr)
    assert "refused" in result.stderr  # kubectl's own reason


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("submit.sh", ["cpu", "gpu"], "one overlay, not 'cpu' and 'gpu'"),
        (
            "submit.sh",
            ["tpu"],
            "no overlay 'tpu' in k8s/overlays; there are: cpu gpu multi-gpu multi-worker",
        ),
        ("submit.sh", ["../base"], "no overlay '../base'"),
        ("submit.sh", ["--name"], "--name needs a value"),
        ("submit.sh", ["--name", "Demo"], "run name 'Demo' must be"),
        ("submit.sh", ["--name", "1demo"], "run name '1demo' must be"),
        ("submit.sh", ["--name", "demo-"], "run name 'demo-' must be"),
        ("submit.sh", ["--name", "de.mo"], "run name 'de.mo' must be"),
        ("submit.sh", ["--name", "../demo"], "run name '../demo' must be"),
        ("submit.sh", ["--name", "de\nmo"], "must be"),
        ("submit.sh", ["--name", ""], "run name '' must be"),
        ("submit.sh", ["--name", "d" * 51], "51 characters long; at most 50"),
        ("submit.sh", ["--namespace", "a/b"], "namespace 'a/b' must be"),
        ("submit.sh", ["--image", "a b"], "image 'a b' is not"),
        ("submit.sh", ["--image", "name:"], "image 'name:' is not"),
        ("submit.sh", ["--workers", "3"], "--workers is for an overlay with several workers"),
        ("submit.sh", ["multi-worker", "--workers", "0"], "--workers '0' is not a number"),
        ("submit.sh", ["multi-worker", "--workers", "two"], "--workers 'two' is not a number"),
        ("submit.sh", ["multi-worker", "--workers", "1000"], "at most 999"),
        (
            "submit.sh",
            ["multi-worker", "--workers", "7"],
            "--batch_size=120 is not divisible by 7 workers; give one that does after --,"
            " for example --batch_size=119",
        ),
        (
            "submit.sh",
            ["multi-worker", "--dry-run", "--", "--batch_size=120", "--batch_size", "1"],
            "--batch_size=1 is not divisible by 2 workers; give one that does after --,"
            " for example --batch_size=2",
        ),
        (
            "submit.sh",
            ["--epochs=5"],
            "no such option: --epochs=5 (flags of the trainer come after --)",
        ),
        ("submit.sh", ["--", "five"], "'five' after -- is no flag of the trainer"),
        ("submit.sh", ["--", "--model_dir=/x"], "use --name"),
        ("submit.sh", ["--", "--flagfile", "mine"], "the file is not on the cluster"),
        ("submit.sh", ["--", "--data_dir=a\nb"], "cannot hold a line break"),
        ("submit.sh", ["--", "--data_dir=a "], "drops the space at the end"),
        ("monitor.sh", ["demo"], "no such argument: demo"),
        ("monitor.sh", ["--port", "http"], "--port 'http' is not a port"),
        ("monitor.sh", ["--port", "65536"], "at most 65535"),
        ("collect.sh", ["demo"], "a run and a directory are needed"),
        ("collect.sh", ["demo", "a", "b"], "not also 'b'"),
        ("collect.sh", ["../demo", "a"], "run name '../demo' must be"),
        ("collect.sh", ["demo", "/"], " exists already"),
        ("clean.sh", [], "a run is needed"),
        ("clean.sh", ["a", "b"], "not also 'b'"),
        ("clean.sh", ["app=x"], "run name 'app=x' must be"),
        ("clean.sh", ["--all"], "no such option: --all"),
    ],
)
@needs_kubectl
def test_what_cannot_be_is_refused_before_the_cluster_is_asked(
    script, arguments, says, cluster
) -> None:
    result = cluster.run(script, *arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1 + "\n".join(arguments).count("de\nmo")
    assert result.stdout == ""
    assert cluster.calls == []
    assert cluster.leftovers() == []


# submit.sh: what it renders


@needs_kubectl
def test_a_dry_run_asks_no_cluster(cluster: Cluster) -> None:
    result = cluster.run(
        "submit.sh", "multi-worker", "--name", "demo", "--workers", "3", "--dry-run"
    )
    assert result.returncode == 0, result.stderr
    assert {o["kind"] for o in yaml.safe_load_all(result.stdout)} == {
        "ConfigMap",
        "Deployment",
        "Job",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Service",
        "ServiceAccount",
    }
    assert cluster.calls == []
    assert cluster.leftovers() == []


@needs_kubectl
def test_flags_reach_absl_exactly_as_they_were_given(tmp_path) -> None:
    given = {
        "plain": "5",
        "spaces": "  two  words",
        "equals": "a=b=c",
        "quotes": """it's "quoted" \\ `here` $HOME ${HOME} $(pwd)""",
        "yaml": "{a: [b]} # & * ! | > %",
        "unicode": "Größe ½",
        "empty": "",
        "dashes": "--looks=like a flag",
        "negative": "-1",
        "apart": "value",
    }
    arguments = [f"--{name}={value}" for name, value in given.items() if name != "apart"]
    objects = dry_run(
        "cpu", "--name", "demo", "--", *arguments, "--apart", "value", "--switch", "--noother"
    )

    values = absl_flags.FlagValues()
    for name in ["model_dir", *given]:
        absl_flags.DEFINE_string(name, None, name, flag_values=values)
    for name in ("switch", "other"):
        absl_flags.DEFINE_boolean(name, None, name, flag_values=values)
    file = tmp_path / "run.flags"
    file.write_text(one(objects, "ConfigMap")["data"]["run.flags"])
    assert values(["program", f"--flagfile={file}"]) == ["program"]
    assert {name: values[name].value for name in given} == given
    assert values["model_dir"].value == "/outputs/demo"
    assert (values["switch"].value, values["other"].value) == (True, False)


@needs_kubectl
@pytest.mark.parametrize(
    "image",
    [
        "registry.example:5000/team/digits:1.2",
        "digits:v2",
        "registry.example/digits@sha256:" + "a" * 64,
        "localhost:5000/digits:1.0_a-b",
    ],
)
def test_the_image_is_that_of_every_container(image: str) -> None:
    objects = dry_run("gpu", "--name", "demo", "--image", image)
    templates = [
        o["spec"]["template"]["spec"] for o in objects if o["kind"] in ("Job", "Deployment")
    ]
    assert [c["image"] for spec in templates for c in spec["containers"]] == [image, image]


@needs_kubectl
def test_an_image_without_a_tag_is_the_latest() -> None:
    objects = dry_run("gpu", "--name", "demo", "--image", "registry.example:5000/digits")
    (container,) = one(objects, "Job")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example:5000/digits:latest"


@needs_kubectl
def test_every_object_goes_into_the_namespace() -> None:
    objects = dry_run("multi-worker", "--name", "demo", "--namespace", "digits")
    assert {o["metadata"]["namespace"] for o in objects} == {"digits"}


@needs_kubectl
def test_without_a_name_a_run_is_called_after_its_overlay_and_the_time() -> None:
    job = one(dry_run("multi-gpu"), "Job")
    assert re.fullmatch(r"multi-gpu-\d{8}-\d{6}", job["metadata"]["name"])


@needs_kubectl
def test_an_overlay_of_ones_own_is_found_by_its_name(tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "k8s", copy / "k8s")
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    own = copy / "k8s/overlays/mine"
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        "resources: [../multi-worker]\n"
        "components: [../../components/spot, ../../components/kueue]\n"
    )
    result = subprocess.run(
        [copy / "scripts/submit.sh", "mine", "--name", "demo", "--dry-run", "--workers", "4"],
        check=True,
        capture_output=True,
        text=True,
    )
    job = one(list(yaml.safe_load_all(result.stdout)), "Job")
    assert job["spec"]["suspend"] is True
    assert job["spec"]["completions"] == 4


# submit.sh: what it sends


@needs_kubectl
def test_what_is_sent_is_what_a_dry_run_prints(empty: Cluster) -> None:
    result = empty.run("submit.sh", "multi-worker", "--name", "demo", "--", "--epochs", "5")
    assert result.returncode == 0, result.stderr
    assert empty.applied == dry_run("multi-worker", "--name", "demo", "--", "--epochs", "5")
    assert "scripts/monitor.sh" in result.stdout
    assert "scripts/collect.sh demo DIR" in result.stdout
    assert empty.leftovers() == []


@needs_kubectl
def test_a_run_that_exists_is_left_alone(cluster: Cluster) -> None:
    result = cluster.run("submit.sh", "--name", "demo")
    assert result.returncode == 2
    assert result.stderr.startswith("error: run 'demo' exists already; choose another --name")
    assert not any("apply" in call for call in cluster.calls)


@needs_kubectl
def test_a_volume_claim_that_exists_is_left_alone(cluster: Cluster) -> None:
    cluster.on("^get job demo", code=1).on("^get persistentvolumeclaim", out="ReadWriteOnce")
    result = cluster.run("submit.sh", "cpu", "--name", "demo")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    expected = [o for o in dry_run("cpu", "--name", "demo") if o["kind"] != "PersistentVolumeClaim"]
    assert cluster.applied == expected


@needs_kubectl
@pytest.mark.parametrize(
    ("modes", "warned"), [("ReadWriteOnce", True), ("ReadWriteOnce ReadWriteMany", False)]
)
def test_workers_on_a_claim_for_one_node_are_warned_of(
    modes: str, warned: bool, cluster: Cluster
) -> None:
    cluster.on("^get job demo", code=1).on("^get persistentvolumeclaim", out=modes)
    result = cluster.run("submit.sh", "multi-worker", "--name", "demo")
    assert result.returncode == 0, result.stderr
    assert ("warning: the volume claim" in result.stderr) is warned


@needs_kubectl
def test_every_question_names_the_namespace(empty: Cluster) -> None:
    empty.answers[0]["match"] = "get (job|persistentvolumeclaim) "
    result = empty.run("submit.sh", "--name", "demo", "--namespace", "digits")
    assert result.returncode == 0, result.stderr
    asked = [call for call in empty.calls if not call.startswith("version")]
    assert len(asked) == 3
    assert all(call.startswith("--namespace digits ") for call in asked)


@needs_kubectl
def test_a_refusal_of_the_cluster_is_the_exit_code(empty: Cluster) -> None:
    empty.on("apply", code=1, err="Error from server (Forbidden): no\n")
    result = empty.run("submit.sh", "--name", "demo", "--follow")
    assert result.returncode == 1
    assert "Forbidden" in result.stderr
    assert "Submitted" not in result.stdout


# submit.sh --follow


def pods(*lines: str) -> str:
    return "".join(line + "\n" for line in lines)


def following(cluster: Cluster) -> Cluster:
    """A cluster in which the run `demo` is new."""
    return cluster.on("^get job demo$", code=1).on("^get persistentvolumeclaim", code=1)


@needs_kubectl
def test_following_shows_one_log_after_the_other_and_leaves_with_0(cluster: Cluster) -> None:
    following(cluster)
    cluster.on("^get job demo .*conditions", times=3)
    cluster.on("^get job demo .*conditions", out="Complete=CompletionsReached: \n")
    cluster.on("^get pods", out=pods("pod/demo-a Pending ContainerCreating"), times=1)
    cluster.on("^get pods", out=pods("pod/demo-a Running"), times=1)
    cluster.on("^get pods", out=pods("pod/demo-a Failed", "pod/demo-b Pending"), times=1)
    cluster.on("^get pods", out=pods("pod/demo-a Failed", "pod/demo-b Succeeded"))
    cluster.on("^logs .*pod/demo-a", out="epoch 1\nsaved\n").on(
        "^logs .*pod/demo-b", out="epoch 2\n"
    )
    cluster.on("^get pod/demo-a .*phase", out="Failed").on(
        "^get pod/demo-b .*phase", out="Succeeded"
    )
    cluster.on("^get pod/demo-a .*exitCode", out="143").on("^get pod/demo-b .*exitCode", out="0")
    result = cluster.run("submit.sh", "--name", "demo", "--follow")
    assert result.returncode == 0, result.stderr
    shown = result.stdout.splitlines()
    assert shown[1:] == [
        "epoch 1", "saved", "epoch 2", "Run 'demo' finished; scripts/collect.sh demo DIR copies it"
    ]  # fmt: skip
    assert result.stderr.splitlines() == [
        "pod/demo-a waits: ContainerCreating",
        "pod/demo-a ended with 143",
        "pod/demo-b waits",
    ]
    selectors = {call.split()[3] for call in cluster.calls if call.startswith("get pods")}
    assert selectors == {"batch.kubernetes.io/job-name=demo"}


@needs_kubectl
def test_following_several_workers_shows_the_chief_alone(cluster: Cluster) -> None:
    following(cluster)
    cluster.on("^get job demo .*completionMode", out="Indexed")
    cluster.on("^get job demo .*conditions", out="Complete=CompletionsReached: \n")
    result = cluster.run("submit.sh", "multi-worker", "--name", "demo", "--follow")
    assert result.returncode == 0, result.stderr
    (asked,) = [call for call in cluster.calls if call.startswith("get pods")]
    assert "batch.kubernetes.io/job-name=demo,batch.kubernetes.io/job-completion-index=0" in asked


@needs_kubectl
def test_a_log_that_was_cut_off_is_taken_up_where_it_was(cluster: Cluster) -> None:
    following(cluster)
    cluster.on("^get job demo .*conditions", times=1)
    cluster.on("^get job demo .*conditions", out="Complete=CompletionsReached: \n")
    cluster.on("^get pods", out=pods("pod/demo-a Running"), times=1)
    cluster.on("^get pods", out=pods("pod/demo-a Succeeded"))
    cluster.on("^logs .*--since-time=2.*pod/demo-a", out="epoch 2\n")
    cluster.on("^logs .*pod/demo-a", out="epoch 1\n", err="connection lost\n", code=1, times=1)
    cluster.on("^get pod/demo-a .*phase", out="Running", times=1)
    cluster.on("^get pod/demo-a .*phase", out="Succeeded")
    cluster.on("^get pod/demo-a .*exitCode", out="0")
    result = cluster.run("submit.sh", "--name", "demo", "--follow")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:3] == ["epoch 1", "epoch 2"]


@needs_kubectl
@pytest.mark.parametrize(
    ("condition", "last_exit", "code"),
    [
        (
            "PodFailurePolicy: Container trainer for pod x/demo-1 failed with exit code 3"
            " matching FailJob rule at index 0",
            "138",  # of the chief, when another worker found the data wrong
            3,
        ),
        ("BackoffLimitExceeded: Job has reached the specified backoff limit", "1", 1),
        ("BackoffLimitExceeded: Job has reached the specified backoff limit", "137", 137),
        ("DeadlineExceeded: Job was active longer than specified deadline", "143", 143),
        ("DeadlineExceeded: Job was active longer than specified deadline", "", 1),
        ("DeadlineExceeded: Job was active longer than specified deadline", "0", 1),
    ],
)
def test_a_failed_job_leaves_its_exit_code_and_reason(condition, last_exit, code, cluster) -> None:
    following(cluster)
    cluster.on("^get job demo .*conditions", out=f"FailureTarget={condition}\nFailed={condition}\n")
    cluster.on("^get pods", out=pods("pod/demo-a Failed"))
    cluster.on("^get pod/demo-a .*phase", out="Failed")
    cluster.on("^get pod/demo-a .*exitCode", out=last_exit)
    result = cluster.run("submit.sh", "--name", "demo", "--follow")
    assert result.returncode == code
    assert result.stderr.splitlines()[-1] == f"error: run 'demo' failed: {condition}"


@needs_kubectl
def test_why_a_pod_waits_is_said_once(cluster: Cluster) -> None:
    following(cluster)
    cluster.on("^get job demo .*conditions", times=3)
    cluster.on("^get job demo .*conditions", out="Complete=CompletionsReached: \n")
    cluster.on("^get pods", out=pods("pod/demo-a Pending  0/3 nodes are available"), times=3)
    result = cluster.run("submit.sh", "--name", "demo", "--follow")
    assert result.stderr == "pod/demo-a waits: 0/3 nodes are available\n"


@needs_kubectl
def test_a_suspended_run_is_said_to_wait_in_its_queue(cluster: Cluster) -> None:
    following(cluster)
    cluster.on("^get job demo .*conditions", out="Suspended=JobSuspended: Job suspended\n", times=3)
    cluster.on("^get job demo .*conditions", out="Complete=CompletionsReached: \n")
    result = cluster.run("submit.sh", "--name", "demo", "--follow")
    assert result.returncode == 0
    assert result.stderr == "run 'demo' is suspended: it waits in its queue\n"


@needs_kubectl
def test_following_survives_a_cluster_that_is_away_for_a_moment_but_not_for_good(
    cluster: Cluster,
) -> None:
    following(cluster)
    cluster.on("^get job demo .*conditions", code=1, err="timeout\n", times=5)
    cluster.on("^get job demo .*conditions", times=1)
    cluster.on("^get job demo .*conditions", code=1, err="not found\n")
    result = cluster.run("submit.sh", "--name", "demo", "--follow")
    assert result.returncode == 1
    assert result.stderr.count("timeout") == 5
    assert result.stderr.count("not found") == 10
    assert "run 'demo' can no longer be seen" in result.stderr


# monitor.sh


def test_monitor_says_the_address_once_it_is_forwarded(cluster: Cluster) -> None:
    cluster.on(
        "port-forward",
        out="Forwarding from 127.0.0.1:7000 -> 6006\nForwarding from [::1]:7000 -> 6006\n",
    )
    result = cluster.run("monitor.sh", "--port", "7000")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "TensorBoard: http://localhost:7000/ (Ctrl-C ends it)\n"
    assert cluster.calls[-1] == "port-forward service/number-recognition-tensorboard 7000:6006"


def test_monitor_without_a_run_says_what_to_do(empty: Cluster) -> None:
    result = empty.run("monitor.sh")
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: no TensorBoard in this namespace; the first scripts/submit.sh starts it"
    )


def test_monitor_fails_when_the_port_is_taken(cluster: Cluster) -> None:
    cluster.on("port-forward", code=1, err="unable to listen on port 6006\n")
    result = cluster.run("monitor.sh")
    assert result.returncode == 1
    assert "unable to listen" in result.stderr


# collect.sh


@pytest.fixture
def finished(cluster: Cluster) -> Cluster:
    """A cluster on whose volume a run `demo` is finished; `young` and `nearly` are not."""
    cluster.on("^get deployment", out="registry.example/digits:1")
    for run, metrics in (("demo", "true"), ("nearly", "false"), ("young", None)):
        directory = cluster.directory / "outputs" / run
        (directory / "saved_model/7").mkdir(parents=True)
        (directory / "saved_model/7/saved_model.pb").write_bytes(b"\0\1\2")
        if metrics:
            (directory / "metrics.json").write_text(f'{{\n  "finished": {metrics}\n}}\n')
    return cluster


@needs_kubectl
def test_collect_copies_a_finished_run_and_removes_its_pod(finished: Cluster, tmp_path) -> None:
    directory = tmp_path / "a new/place"
    result = finished.run("collect.sh", "demo", str(directory))
    assert result.returncode == 0, result.stderr
    assert (directory / "saved_model/7/saved_model.pb").read_bytes() == b"\0\1\2"
    assert (directory / "metrics.json").exists()
    assert [path.name for path in directory.parent.iterdir()] == ["place"]
    (pod,) = finished.applied
    assert pod["metadata"]["name"].startswith("collector-demo-")
    assert pod["spec"]["containers"][0]["image"] == "registry.example/digits:1"
    assert finished.calls[-1].startswith(f"delete pod {pod['metadata']['name']} ")
    assert finished.leftovers() == []


@needs_kubectl
@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("young", "error: run 'young' has not finished"),
        ("nearly", "error: run 'nearly' has not finished"),
        ("nobody", "error: no run 'nobody' on the volume; there are: demo nearly young"),
    ],
)
def test_collect_copies_nothing_but_a_finished_run(
    run: str, says: str, finished: Cluster, tmp_path
) -> None:
    result = finished.run("collect.sh", run, str(tmp_path / "new"))
    assert result.returncode == 1
    assert result.stderr.startswith(says)
    assert not (tmp_path / "new").exists()
    assert finished.calls[-1].startswith("delete pod collector-")


@needs_kubectl
@pytest.mark.parametrize(
    "reading",
    ['"$tar" "$@" | head -c 1000; exit 1', '"$tar" "$@" | head -c 1000', "$tar --exclude=*.pb $*"],
    ids=["cut", "cut in a file and called a success", "cut between files and called a success"],
)
def test_a_copy_that_breaks_off_leaves_nothing(reading: str, finished: Cluster, tmp_path) -> None:
    replace_tar(finished, f'case "$*" in *-cf*) {reading}; exit ;; esac; exec $tar "$@"')
    result = finished.run("collect.sh", "demo", str(tmp_path / "new"))
    assert result.returncode != 0
    assert "Copied" not in result.stdout
    assert not list(tmp_path.glob("new*"))
    assert finished.calls[-1].startswith("delete pod collector-")


@needs_kubectl
def test_a_copy_has_its_name_only_once_it_is_whole(finished: Cluster, tmp_path) -> None:
    """Also if it is killed: looked at when everything has been copied."""
    new = tmp_path / "new"
    replace_tar(finished, f'$tar "$@" && [ ! -e {new} ]')
    result = finished.run("collect.sh", "demo", str(new))
    assert result.returncode == 0, result.stderr
    assert (new / "metrics.json").exists()


def replace_tar(cluster: Cluster, script: str) -> None:
    """Puts a script on the way to tar, which is `$tar` there."""
    tar = cluster.directory / "bin/tar"
    tar.write_text(f"#!/bin/sh\ntar={shutil.which('tar')}\n{script}\n")
    tar.chmod(0o755)


@needs_kubectl
def test_collect_says_when_its_pod_does_not_start(finished: Cluster, tmp_path) -> None:
    finished.on("^wait", code=1, err="timed out\n")
    result = finished.run("collect.sh", "demo", str(tmp_path / "new"))
    assert result.returncode == 1
    assert "error: the pod that reads the volume does not start" in result.stderr
    assert finished.calls[-1].startswith("delete pod collector-")


def test_collect_where_nothing_was_submitted_says_so(empty: Cluster, tmp_path) -> None:
    result = empty.run("collect.sh", "demo", str(tmp_path / "new"))
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: no run 'demo': nothing was ever submitted to this namespace"
    )


# clean.sh


def test_clean_removes_what_carries_the_runs_name_and_nothing_shared(cluster: Cluster) -> None:
    cluster.on("^get jobs", out="job.batch/demo\n")
    result = cluster.run("clean.sh", "demo")
    assert result.returncode == 0, result.stderr
    (delete,) = [call for call in cluster.calls if call.startswith("delete")]
    assert delete.split()[1:4] == [
        "jobs,configmaps,services,serviceaccounts,networkpolicies",
        "--selector",
        "app.kubernetes.io/name=number-recognition,app.kubernetes.io/instance=demo",
    ]


@needs_kubectl
def test_clean_finds_every_object_of_a_run_by_its_labels() -> None:
    kinds = {"Job", "ConfigMap", "Service", "ServiceAccount", "NetworkPolicy"}
    for o in dry_run("multi-worker", "--name", "demo"):
        labels = o["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "number-recognition"
        shared = labels["app.kubernetes.io/component"] in ("storage", "tensorboard")
        assert (labels.get("app.kubernetes.io/instance") == "demo") is not shared
        assert shared or o["kind"] in kinds


def test_clean_of_an_unknown_run_says_so(cluster: Cluster) -> None:
    result = cluster.run("clean.sh", "demo")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no run 'demo' in this namespace")
    assert not any(call.startswith("delete") for call in cluster.calls)


# The shell


def test_the_scripts_pass_shellcheck() -> None:
    shellcheck = shutil.which(
        "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if not shellcheck:
        pytest.skip("needs shellcheck")
    subprocess.run(
        [shellcheck, "--external-sources", *(f"scripts/{script}" for script in SCRIPTS)],
        cwd=ROOT,
        check=True,
    )
