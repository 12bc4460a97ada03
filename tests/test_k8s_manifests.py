"""What the Kubernetes manifests promise, as kubectl and scripts/cluster.py render them."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import kubernetes_validate
import pytest
import runs
import yaml

from trainer import errors

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl on PATH")

OVERLAYS = ("cpu", "gpu", "multi-gpu", "multi-worker")
COLLECTOR = yaml.safe_load((runs.ROOT / "k8s/collector.yaml").read_text())
COMPONENTS = ("kueue", "spot", "data-in-image")
OLDEST = "1.31"  # the first in which podFailurePolicy is stable


class Rendered:
    """The objects of a run, and those that it is mostly about."""

    def __init__(self, text: str):
        self.objects: list[dict] = list(yaml.safe_load_all(text))
        self.identities = {(o["kind"], o["metadata"]["name"]) for o in self.objects}
        self.job = self.one("Job")
        self.template = self.job["spec"]["template"]
        self.labels: dict[str, str] = self.template["metadata"]["labels"]
        self.pod = self.template["spec"]
        (self.container,) = self.pod["containers"]
        self.mounts = {mount["mountPath"]: mount for mount in self.container["volumeMounts"]}
        self.volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        self.flags: dict[str, str] = self.one("ConfigMap")["data"]
        self.environment = {each["name"]: each for each in self.container.get("env", ())}

    def one(self, kind: str, ending: str = "") -> dict:
        """The only object of a kind whose name ends so."""
        (found,) = [o for o in self.of(kind) if o["metadata"]["name"].endswith(ending)]
        return found

    def of(self, kind: str) -> list[dict]:
        return [o for o in self.objects if o["kind"] == kind]

    @property
    def pods(self) -> list[dict]:
        templates = [o["spec"].get("template") for o in self.objects if "spec" in o]
        return [template["spec"] for template in templates if template]

    def rules(self, direction: str) -> list[dict]:
        """The rules for the trainer's pods; policies must keep out the rest both ways."""
        specs = [o["spec"] for o in self.of("NetworkPolicy")]
        # The API server drops empty lists: what holds one is a change each time it is applied.
        assert all([] not in spec.values() for spec in specs)
        policies = [each for each in specs if selects(each["podSelector"], self.labels)]
        assert policies
        assert all(set(policy["policyTypes"]) == {"Ingress", "Egress"} for policy in policies)
        return [rule for policy in policies for rule in policy.get(direction, [])]


@functools.cache
def submitted(overlay: str, run: str = "demo", *arguments: str) -> Rendered:
    """What `scripts/cluster.py submit` sends."""
    script = (sys.executable, runs.ROOT / "scripts/cluster.py", "submit", overlay, "--dry-run")
    command = [*script, "--name", run, *arguments]
    return Rendered(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@functools.cache
def with_components(overlay: str, *components: str) -> Rendered:
    """An overlay of a user's own: an overlay of the repository, with components."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(runs.ROOT / "k8s", pathlib.Path(directory, "k8s"))
        own = pathlib.Path(directory, "k8s/overlays/own")
        own.mkdir()
        wanted = [f"../../components/{name}" for name in components]
        content = {"resources": [f"../{overlay}"], "components": wanted}
        (own / "kustomization.yaml").write_text(yaml.safe_dump(content))
        command = ["kubectl", "kustomize", str(own)]
        return Rendered(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(overlay: str) -> Rendered:
    """The run `demo` with each overlay."""
    return submitted(overlay)


def selects(selector: dict, labels: dict) -> bool:
    """Whether a label selector without expressions selects a pod with these labels."""
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def ports(rule: dict) -> set[tuple[str, int]]:
    return {(port["protocol"], port["port"]) for port in rule.get("ports", [])}


def test_every_overlay_is_valid_with_every_component() -> None:
    """Each different object once, because a schema takes a while."""
    objects = [COLLECTOR]
    for overlay in OVERLAYS:
        objects += submitted(overlay).objects + with_components(overlay, *COMPONENTS).objects
    for text in {json.dumps(each, sort_keys=True) for each in objects}:
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(json.loads(text), version, strict=True)


def test_two_runs_share_only_the_volume_claim_and_tensorboard(overlay: str, run: Rendered) -> None:
    another = submitted(overlay, "demo-2")
    shared = run.identities & another.identities
    board = ("Deployment", "Service", "ServiceAccount", "NetworkPolicy")
    assert shared == {
        ("PersistentVolumeClaim", "number-recognition"),
        *((kind, "number-recognition-tensorboard") for kind in board),
    }
    assert len(run.identities) == len(run.objects)
    assert all(run.one(*each) == another.one(*each) for each in shared)


def test_a_run_refers_only_to_objects_that_are_there_before_its_pods(run: Rendered) -> None:
    assert {each["kind"] for each in run.objects[-2:]} == {"Deployment", "Job"}
    for pod in run.pods:
        names = {("ServiceAccount", pod["serviceAccountName"])}
        for volume in pod["volumes"]:
            if "configMap" in volume:
                names.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                names.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        assert names <= run.identities


def test_no_selector_of_a_run_selects_the_pods_of_another(overlay: str, run: Rendered) -> None:
    others = submitted(overlay, "demo-2").labels
    own = [o for o in run.objects if "tensorboard" not in o["metadata"]["name"]]
    selectors = [{"matchLabels": o["spec"]["selector"]} for o in own if o["kind"] == "Service"]
    selectors += [o["spec"]["podSelector"] for o in own if o["kind"] == "NetworkPolicy"]
    assert selectors
    for selector in selectors:
        assert selects(selector, run.labels)
        assert not selects(selector, others)


def test_the_failure_policy_follows_the_exit_codes_of_the_code(overlay, run: Rendered) -> None:
    spec = run.job["spec"]
    fail, retry, disrupted = spec["podFailurePolicy"]["rules"]
    final = [errors.UsageError.exit_code, errors.DataError.exit_code]
    assert fail == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": final}}
    again = [errors.ClusterError.exit_code, 128 + signal.SIGTERM]
    assert retry == {"action": "Ignore", "onExitCodes": {"operator": "In", "values": again}}
    condition = {"type": "DisruptionTarget", "status": "True"}
    assert disrupted == {"action": "Ignore", "onPodConditions": [condition]}
    # Each of several workers counts and waits by itself, and one that is given up ends the run.
    several = {"backoffLimitPerIndex": 6, "maxFailedIndexes": 0}
    limits = several if overlay == "multi-worker" else {"backoffLimit": 6}
    assert {k: v for k, v in spec.items() if k.startswith(("backoff", "maxFailed"))} == limits
    assert run.pod["restartPolicy"] == "Never"  # what podFailurePolicy requires
    assert spec["podReplacementPolicy"] == "Failed"
    # It ends, is cleared away, and has time to save its progress.
    assert min(spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) > 3600
    assert run.pod["terminationGracePeriodSeconds"] >= 60
    # Seven pods that are stuck, and 10 to 320 s between them, leave more than half of the time.
    (stall_s,) = re.findall(r"^--stall_timeout_s=(\d+)$", run.flags["base.flags"], re.MULTILINE)
    assert 7 * int(stall_s) + 630 < spec["activeDeadlineSeconds"] / 2


def test_the_flags_reach_the_trainer_from_the_config_map(overlay: str) -> None:
    run = submitted(overlay, "demo", "--", "--epochs=7")
    (path,) = [p for p, mount in run.mounts.items() if "configMap" in run.volumes[mount["name"]]]
    files = [argument.removeprefix("--flagfile=") for argument in run.container["args"]]
    assert {os.path.dirname(file) for file in files} == {path}
    # Each file is read, and a person's flags last, so that they win.
    assert sorted(os.path.basename(file) for file in files) == sorted(run.flags)
    assert "--epochs=7" in run.flags[os.path.basename(files[-1])].splitlines()
    assert "--dataset=mnist" in run.flags["base.flags"].splitlines()  # not synthetic digits
    if strategy := {"gpu": "gpu", "multi-gpu": "mirrored"}.get(overlay):  # nor the CPU
        assert run.flags["overlay.flags"].splitlines() == [f"--strategy={strategy}"]
    # A restarted pod finds the same directory on the volume.
    directories = [text for text in run.flags.values() if "--model_dir=/outputs/demo\n" in text]
    assert len(directories) == 1
    assert "persistentVolumeClaim" in run.volumes[run.mounts["/outputs"]["name"]]


def test_every_pod_passes_the_restricted_pod_security_standard(run: Rendered) -> None:
    for pod in (*run.pods, COLLECTOR["spec"]):
        # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
        assert all(allowed & set(volume) for volume in pod["volumes"])
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile"} & set(context)
            assert not any("hostPort" in port for port in container.get("ports", []))
            # Beyond the standard.
            assert context["readOnlyRootFilesystem"] is True
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert pod["automountServiceAccountToken"] is False
    writable = {path for path, mount in run.mounts.items() if not mount.get("readOnly")}
    assert writable - {"/dev/shm"} == {"/outputs", "/data", "/tmp"}
    accounts = run.of("ServiceAccount")
    assert [account["automountServiceAccountToken"] for account in accounts] == [False, False]


def test_a_run_reaches_only_dns_the_data_and_its_own_workers(overlay: str, run: Rendered) -> None:
    for rule in run.rules("egress"):
        peers = rule["to"]
        assert peers  # an empty list would mean everywhere
        if ports(rule) == {("UDP", 53), ("TCP", 53)}:
            dns, node_local = peers
            labels = dns["namespaceSelector"]["matchLabels"]
            assert labels == {"kubernetes.io/metadata.name": "kube-system"}
            assert dns["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
            assert node_local == {"ipBlock": {"cidr": "169.254.20.10/32"}}
        elif ports(rule) == {("TCP", 443)}:
            blocks = {peer["ipBlock"]["cidr"]: set(peer["ipBlock"]["except"]) for peer in peers}
            # Nothing inside the cluster or the company, and not the cloud's metadata server.
            private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
            assert private <= blocks["0.0.0.0/0"]
            assert {"fc00::/7", "fe80::/10"} <= blocks["::/0"]
        else:
            assert overlay == "multi-worker"
            assert_is_own_workers(peers, run)
    # And is reached by these alone; NCCL picks its own ports.
    rules = run.rules("ingress")
    assert len(rules) == (overlay == "multi-worker")
    for rule in rules:
        assert_is_own_workers(rule["from"], run)
        assert "ports" not in rule


def assert_is_own_workers(peers: list[dict], run: Rendered) -> None:
    (peer,) = peers
    assert set(peer) == {"podSelector"}
    assert selects(peer["podSelector"], run.labels)
    assert not selects(peer["podSelector"], submitted("multi-worker", "demo-2").labels)


def test_with_the_data_in_the_image_a_run_reaches_only_its_workers_and_dns(overlay: str) -> None:
    run = with_components(overlay, "data-in-image")
    rules = run.rules("egress")
    assert len(rules) == (2 if overlay == "multi-worker" else 0)
    for rule in rules:
        is_to_workers = [set(peer) for peer in rule["to"]] == [{"podSelector"}]
        assert is_to_workers or ports(rule) == {("UDP", 53), ("TCP", 53)}
    assert "/data" not in run.mounts  # a volume would hide the image's


def test_tensorboard_sees_every_run_and_changes_none_and_is_reached_in_its_namespace() -> None:
    run = submitted("cpu")
    deployment = run.one("Deployment")["spec"]["template"]
    (container,) = deployment["spec"]["containers"]
    (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == "/outputs"]
    assert mount["readOnly"] is True
    assert mount["subPath"] == run.mounts["/outputs"]["subPath"]
    assert {"--logdir=/outputs", "--port=6006"} <= set(container["args"])
    (port,) = container["ports"]
    assert port["containerPort"] == 6006
    labels = deployment["metadata"]["labels"]
    service = run.one("Service", "tensorboard")["spec"]
    assert service["type"] == "ClusterIP"
    assert service["selector"].items() <= labels.items()
    assert service["ports"] == [{"name": "http", "port": 6006, "targetPort": port["name"]}]
    policy = run.one("NetworkPolicy", "tensorboard")["spec"]
    assert selects(policy["podSelector"], labels)
    assert not selects(policy["podSelector"], run.labels)
    assert "egress" not in policy
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {}}]  # without a namespaceSelector: this namespace
    assert ports(rule) == {("TCP", 6006)}


def test_an_overlay_gets_the_hardware_it_is_for(overlay: str, run: Rendered) -> None:
    gpus = {"gpu": 1, "multi-gpu": 4}.get(overlay, 0)
    resources = run.container["resources"]
    assert resources["limits"].get("nvidia.com/gpu", 0) == gpus
    assert run.container["image"].endswith(":gpu" if gpus else ":cpu")
    tolerated = [toleration["key"] for toleration in run.pod.get("tolerations", [])]
    assert tolerated == (["nvidia.com/gpu"] if gpus else [])
    # Requests that equal the limits are guaranteed.
    assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"])
    assert resources["requests"].items() <= resources["limits"].items()


def test_workers_find_each_other_by_the_names_that_the_service_gives_them() -> None:
    run = submitted("multi-worker", "demo", "--workers", "12")
    spec = run.job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 12
    assert run.environment["WORKER_COUNT"]["value"] == "12"
    service = run.one("Service", "workers")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= run.labels.items()
    # A pod's name is <host name>.<subdomain>, and an Indexed Job's host names are <job>-<index>.
    assert run.pod["subdomain"] == service["metadata"]["name"]
    assert run.environment["WORKER_SERVICE"]["value"] == service["metadata"]["name"]
    assert run.environment["JOB_NAME"]["valueFrom"]["fieldRef"] == {
        "fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"
    }
    (port,) = service["spec"]["ports"]
    assert run.environment["WORKER_PORT"]["value"] == str(port["port"])
    # They prefer nodes of their own, and share the volume.
    [(rule,)] = run.pod["affinity"]["podAntiAffinity"].values()
    term = rule["podAffinityTerm"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert selects(term["labelSelector"], run.labels)
    assert not selects(term["labelSelector"], submitted("multi-worker", "demo-2").labels)
    assert run.one("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_components_queue_the_job_and_tolerate_spot_nodes(overlay: str, run: Rendered) -> None:
    queued = with_components(overlay, "kueue")
    job, resources = queued.job, queued.container["resources"]
    # A ClusterQueue admits only what it covers.
    asked = {*resources["requests"], *resources["limits"]} - {"nvidia.com/gpu"}
    assert asked == {"cpu", "memory"}
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    pod, before = with_components(overlay, "spot").pod, run.pod.get("tolerations", [])
    added = {toleration["key"] for toleration in pod["tolerations"] if toleration not in before}
    assert added == {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}
    assert all(toleration in pod["tolerations"] for toleration in before)
    assert pod["terminationGracePeriodSeconds"] < 30  # the notice that Google and Azure give
