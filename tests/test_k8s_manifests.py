"""What the Kubernetes manifests promise, stated about what the real `kubectl kustomize` renders."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import kubernetes_validate
import pytest
import yaml

from trainer import errors, task
from trainer.cluster import devices as distribution

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl on PATH")

ROOT = pathlib.Path(__file__).resolve().parent.parent
OVERLAYS = ("cpu", "gpu", "multi-gpu", "multi-worker")
COMPONENTS = ("kueue", "spot", "data-in-image")
OLDEST = "1.31"  # the first in which podFailurePolicy is stable


def kustomize(directory: pathlib.Path) -> list[dict]:
    text = subprocess.run(
        ["kubectl", "kustomize", str(directory)], check=True, capture_output=True, text=True
    ).stdout
    return list(yaml.safe_load_all(text))


@functools.cache
def submitted(overlay: str, run: str, *arguments: str) -> tuple[dict, ...]:
    """What `scripts/cluster.py submit` would send."""
    script = (sys.executable, ROOT / "scripts/cluster.py", "submit", overlay, "--dry-run")
    command = [*script, "--name", run, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return tuple(yaml.safe_load_all(done.stdout))


@functools.cache
def with_components(overlay: str, *components: str) -> tuple[dict, ...]:
    """An overlay of a user's own: an overlay of the repository, with components."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(ROOT / "k8s", pathlib.Path(directory, "k8s"))
        own = pathlib.Path(directory, "k8s/overlays/own")
        own.mkdir()
        (own / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "resources": [f"../{overlay}"],
                    "components": [f"../../components/{name}" for name in components],
                }
            )
        )
        return tuple(kustomize(own))


@functools.cache
def collector() -> tuple[dict, ...]:
    return (yaml.safe_load((ROOT / "k8s/collector.yaml").read_text()),)


def one(objects: tuple[dict, ...], kind: str, ending: str = "") -> dict:
    """The only object of a kind whose name ends so."""
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(ending)]
    assert len(found) == 1, f"{len(found)} of kind {kind} named *{ending}"
    return found[0]


def pod_specs(objects: tuple[dict, ...]) -> dict[str, dict]:
    specs = {}
    for o in objects:
        if o["kind"] == "Pod":
            specs[o["metadata"]["name"]] = o["spec"]
        elif "template" in o.get("spec", {}):
            specs[o["metadata"]["name"]] = o["spec"]["template"]["spec"]
    return specs


def trainer_spec(objects: tuple[dict, ...]) -> dict:
    return one(objects, "Job")["spec"]["template"]["spec"]


def trainer_container(objects: tuple[dict, ...]) -> dict:
    (container,) = trainer_spec(objects)["containers"]
    return container


def selects(selector: dict, labels: dict) -> bool:
    """Whether a label selector without expressions selects a pod with these labels."""
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def pod_labels(objects: tuple[dict, ...]) -> dict:
    return one(objects, "Job")["spec"]["template"]["metadata"]["labels"]


def egress_of_trainer(objects: tuple[dict, ...]) -> list[dict]:
    """All rules that let the trainer's pods out; there must be a policy that keeps the rest in."""
    policies = [
        o["spec"]
        for o in objects
        if o["kind"] == "NetworkPolicy" and selects(o["spec"]["podSelector"], pod_labels(objects))
    ]
    assert policies
    assert all(set(policy["policyTypes"]) == {"Ingress", "Egress"} for policy in policies)
    return [rule for policy in policies for rule in policy.get("egress", [])]


def ports(rule: dict) -> set[tuple[str, int]]:
    return {(port["protocol"], port["port"]) for port in rule.get("ports", [])}


# Schemas


@functools.cache  # most objects are the same in every overlay, and a schema takes a while
def validate(text: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(text), version, strict=True)


def is_valid(objects: tuple[dict, ...]) -> bool:
    """True, or an exception that says what is wrong, in the oldest version and in the newest."""
    assert objects
    for o in objects:
        for version in (OLDEST, kubernetes_validate.latest_version()):
            validate(json.dumps(o, sort_keys=True), version)
    return True


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_valid(overlay: str) -> None:
    assert is_valid(submitted(overlay, "demo"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_component_is_valid_on_every_overlay(overlay: str) -> None:
    for components in (*((name,) for name in COMPONENTS), COMPONENTS):
        assert is_valid(with_components(overlay, *components))


def test_the_collector_is_valid() -> None:
    assert is_valid(collector())


def test_the_validation_is_strict() -> None:
    wrong = json.loads(json.dumps(one(submitted("cpu", "demo"), "Job")))
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolicie"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        is_valid((wrong,))


# Names


def identities(objects: tuple[dict, ...]) -> set[tuple[str, str]]:
    return {(o["kind"], o["metadata"]["name"]) for o in objects}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_two_runs_share_only_the_volume_claim_and_tensorboard(overlay: str) -> None:
    one_run, another = submitted(overlay, "demo"), submitted(overlay, "demo-2")
    shared = identities(one_run) & identities(another)
    assert shared == {
        ("PersistentVolumeClaim", "number-recognition"),
        ("Deployment", "number-recognition-tensorboard"),
        ("Service", "number-recognition-tensorboard"),
        ("ServiceAccount", "number-recognition-tensorboard"),
        ("NetworkPolicy", "number-recognition-tensorboard"),
    }
    assert len(identities(one_run)) == len(one_run)
    for kind, name in shared:
        assert one(one_run, kind, name) == one(another, kind, name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_refers_only_to_objects_that_are_there(overlay: str) -> None:
    objects = submitted(overlay, "demo")
    for spec in pod_specs(objects).values():
        names = {("ServiceAccount", spec["serviceAccountName"])}
        for volume in spec["volumes"]:
            if "configMap" in volume:
                names.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                names.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        if "subdomain" in spec:
            names.add(("Service", spec["subdomain"]))
        assert names <= identities(objects)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_selector_of_a_run_selects_the_pods_of_another(overlay: str) -> None:
    objects, others = submitted(overlay, "demo"), pod_labels(submitted(overlay, "demo-2"))
    mine = pod_labels(objects)
    for o in objects:
        if o["metadata"]["labels"]["app.kubernetes.io/component"] != "trainer":
            continue
        if o["kind"] == "Service":
            selector = {"matchLabels": o["spec"]["selector"]}
        elif o["kind"] == "NetworkPolicy":
            selector = o["spec"]["podSelector"]
        else:
            continue
        assert selects(selector, mine)
        assert not selects(selector, others)


# The Job


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_failure_policy_follows_the_exit_codes_of_the_code(overlay: str) -> None:
    spec = one(submitted(overlay, "demo"), "Job")["spec"]
    preempted = errors.Interrupted("", signal.SIGTERM).exit_code
    fail, retry, disrupted = spec["podFailurePolicy"]["rules"]
    assert fail == {
        "action": "FailJob",
        "onExitCodes": {
            "operator": "In",
            "values": [errors.UsageError.exit_code, errors.DataError.exit_code],
        },
    }
    assert retry == {
        "action": "Ignore",
        "onExitCodes": {"operator": "In", "values": [errors.ClusterError.exit_code, preempted]},
    }
    assert disrupted == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert spec["backoffLimit"] > 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what podFailurePolicy requires
    assert spec["podReplacementPolicy"] == "Failed"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_job_ends_and_is_cleared_away(overlay: str) -> None:
    spec = one(submitted(overlay, "demo"), "Job")["spec"]
    assert spec["activeDeadlineSeconds"] > 3600
    assert spec["ttlSecondsAfterFinished"] > 3600
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_restarted_pod_finds_the_same_model_dir_on_the_volume(overlay: str) -> None:
    objects = submitted(overlay, "demo")
    flags = one(objects, "ConfigMap")["data"]
    assert "--model_dir=/outputs/demo" in flags["run.flags"].splitlines()
    assert sum(text.count("--model_dir") for text in flags.values()) == 1
    volumes = {volume["name"]: volume for volume in trainer_spec(objects)["volumes"]}
    (mount,) = [
        m for m in trainer_container(objects)["volumeMounts"] if m["mountPath"] == "/outputs"
    ]
    assert "persistentVolumeClaim" in volumes[mount["name"]]
    assert not mount.get("readOnly")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_flags_reach_the_trainer_from_the_config_map(overlay: str) -> None:
    objects = submitted(overlay, "demo", "--", "--epochs=7")
    config_map, container = one(objects, "ConfigMap"), trainer_container(objects)
    volumes = {volume["name"]: volume for volume in trainer_spec(objects)["volumes"]}
    (mount,) = [m for m in container["volumeMounts"] if "configMap" in volumes[m["name"]]]
    files = [argument.removeprefix("--flagfile=") for argument in container["args"]]
    assert [os.path.dirname(file) for file in files] == [mount["mountPath"]] * len(files)
    # Each file is read, and a person's flags last, so that they win.
    assert sorted(os.path.basename(file) for file in files) == sorted(config_map["data"])
    assert "--epochs=7" in config_map["data"][os.path.basename(files[-1])].splitlines()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_overlay_falls_back_to_synthetic_digits_or_to_the_cpu(overlay: str) -> None:
    flags = one(submitted(overlay, "demo"), "ConfigMap")["data"]
    assert "--dataset=mnist" in flags["base.flags"].splitlines()
    strategy = {"gpu": "--strategy=gpu", "multi-gpu": "--strategy=mirrored"}.get(overlay)
    assert not strategy or flags["overlay.flags"].splitlines() == [strategy]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_trainer_is_guaranteed_its_resources(overlay: str) -> None:
    resources = trainer_container(submitted(overlay, "demo"))["resources"]
    assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"])
    assert resources["requests"].items() <= resources["limits"].items()


# Security


@pytest.mark.parametrize(
    "objects",
    [
        *(pytest.param((submitted, o, "demo"), id=o) for o in OVERLAYS),
        pytest.param((collector,), id="collector"),
    ],
)
def test_every_pod_passes_the_restricted_pod_security_standard(objects) -> None:
    function, *arguments = objects
    specs = pod_specs(function(*arguments))
    assert specs
    for spec in specs.values():
        # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
        assert all(allowed & set(volume) for volume in spec["volumes"])
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile"} & set(context)
            assert not any("hostPort" in port for port in container.get("ports", []))
            # Beyond the standard.
            assert context["readOnlyRootFilesystem"] is True
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_gets_a_token(overlay: str) -> None:
    objects = submitted(overlay, "demo")
    accounts = [o for o in objects if o["kind"] == "ServiceAccount"]
    assert len(accounts) == 2
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    for spec in pod_specs(objects).values():
        assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_outputs_data_and_tmp_can_be_written(overlay: str) -> None:
    mounts = trainer_container(submitted(overlay, "demo"))["volumeMounts"]
    writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
    assert writable - {"/dev/shm"} == {"/outputs", "/data", "/tmp"}


# The network


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_reaches_only_dns_the_data_and_its_own_workers(overlay: str) -> None:
    objects = submitted(overlay, "demo")
    for rule in egress_of_trainer(objects):
        peers = rule["to"]
        assert peers  # an empty list would mean everywhere
        if ports(rule) == {("UDP", 53), ("TCP", 53)}:
            for peer in peers:
                assert peer.get("ipBlock", {}).get("cidr") == "169.254.20.10/32" or (
                    selects(peer["podSelector"], {"k8s-app": "kube-dns"})
                    and not selects(peer["podSelector"], {})
                    and peer["namespaceSelector"]["matchLabels"]
                    == {"kubernetes.io/metadata.name": "kube-system"}
                )
        elif ports(rule) == {("TCP", 443)}:
            blocks = {peer["ipBlock"]["cidr"]: set(peer["ipBlock"]["except"]) for peer in peers}
            # Nothing inside the cluster or the company, and not the cloud's metadata server.
            assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= blocks[
                "0.0.0.0/0"
            ]
            assert {"fc00::/7", "fe80::/10"} <= blocks["::/0"]
        else:
            assert overlay == "multi-worker"
            (peer,) = peers
            assert set(peer) == {"podSelector"}
            assert selects(peer["podSelector"], pod_labels(objects))
            assert not selects(peer["podSelector"], pod_labels(submitted(overlay, "demo-2")))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_is_reached_only_by_its_own_workers(overlay: str) -> None:
    objects = submitted(overlay, "demo")
    mine, others = pod_labels(objects), pod_labels(submitted(overlay, "demo-2"))
    rules = [
        rule
        for o in objects
        if o["kind"] == "NetworkPolicy" and selects(o["spec"]["podSelector"], mine)
        for rule in o["spec"].get("ingress", [])
    ]
    assert len(rules) == (1 if overlay == "multi-worker" else 0)
    for rule in rules:
        (peer,) = rule["from"]
        assert set(peer) == {"podSelector"}
        assert selects(peer["podSelector"], mine)
        assert not selects(peer["podSelector"], others)
        assert "ports" not in rule  # NCCL picks its own


def test_tensorboard_is_reached_only_in_its_namespace_and_reaches_nobody() -> None:
    objects = submitted("cpu", "demo")
    policy = one(objects, "NetworkPolicy", "tensorboard")["spec"]
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert selects(policy["podSelector"], labels)
    assert not selects(policy["podSelector"], pod_labels(objects))
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {}}]  # without a namespaceSelector: this namespace
    assert ports(rule) == {("TCP", 6006)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_the_data_in_the_image_a_run_has_no_way_out(overlay: str) -> None:
    objects = with_components(overlay, "data-in-image")
    rules = egress_of_trainer(objects)
    if overlay == "multi-worker":  # they still need their peers and the DNS that knows them
        peers, dns = rules
        assert [set(peer) for peer in peers["to"]] == [{"podSelector"}]
        assert ports(dns) == {("UDP", 53), ("TCP", 53)}
    else:
        assert rules == []
    # The image's /data is not hidden by a volume.
    assert "/data" not in {m["mountPath"] for m in trainer_container(objects)["volumeMounts"]}


# TensorBoard


def test_tensorboard_sees_every_run_but_cannot_change_one() -> None:
    objects = submitted("cpu", "demo")
    (container,) = pod_specs(objects)["number-recognition-tensorboard"]["containers"]
    (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == "/outputs"]
    (outputs,) = [
        m for m in trainer_container(objects)["volumeMounts"] if m["mountPath"] == "/outputs"
    ]
    assert mount["readOnly"] is True
    assert mount["subPath"] == outputs["subPath"]
    assert "--logdir=/outputs" in container["args"]


def test_tensorboard_is_probed_on_the_port_that_its_service_reaches() -> None:
    objects = submitted("cpu", "demo")
    service = one(objects, "Service", "tensorboard")["spec"]
    deployment = one(objects, "Deployment")["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert service["type"] == "ClusterIP"
    assert selects(
        {"matchLabels": service["selector"]}, deployment["template"]["metadata"]["labels"]
    )
    (port,) = container["ports"]
    assert port["containerPort"] == 6006
    assert service["ports"] == [{"name": "http", "port": 6006, "targetPort": port["name"]}]
    assert f"--port={port['containerPort']}" in container["args"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/", "port": port["name"]}


# Hardware


@pytest.mark.parametrize(
    ("overlay", "gpus"), [("cpu", 0), ("gpu", 1), ("multi-gpu", 4), ("multi-worker", 0)]
)
def test_an_overlay_asks_for_its_gpus(overlay: str, gpus: int) -> None:
    objects = submitted(overlay, "demo")
    limits = trainer_container(objects)["resources"]["limits"]
    assert limits.get("nvidia.com/gpu", 0) == gpus
    assert trainer_container(objects)["image"].endswith(":gpu" if gpus else ":cpu")
    tolerated = [toleration["key"] for toleration in trainer_spec(objects).get("tolerations", [])]
    assert tolerated == (["nvidia.com/gpu"] if gpus else [])


def test_several_gpus_get_shared_memory_within_the_memory_limit() -> None:
    objects = submitted("multi-gpu", "demo")
    volumes = {volume["name"]: volume for volume in trainer_spec(objects)["volumes"]}
    (mount,) = [
        m for m in trainer_container(objects)["volumeMounts"] if m["mountPath"] == "/dev/shm"
    ]
    shared_memory = volumes[mount["name"]]["emptyDir"]
    assert shared_memory == {"medium": "Memory", "sizeLimit": "8Gi"}
    # What lies in it counts as the container's memory.
    assert trainer_container(objects)["resources"]["limits"]["memory"] == "64Gi"


# Several workers


@pytest.mark.parametrize("workers", [2, 3, 12])
def test_the_number_of_workers_is_the_same_everywhere(workers: int) -> None:
    objects = submitted("multi-worker", "demo", "--workers", str(workers))
    spec = one(objects, "Job")["spec"]
    environment = {e["name"]: e.get("value") for e in trainer_container(objects)["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == workers
    assert environment["WORKER_COUNT"] == str(workers)


@pytest.mark.parametrize("more", [(), ("--", "--batch_size=63")], ids=["overlay's", "one's own"])
def test_three_workers_can_share_the_batch(more: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    objects = submitted("multi-worker", "demo", "--workers", "3", *more)
    files = [
        argument.removeprefix("--flagfile=") for argument in trainer_container(objects)["args"]
    ]
    for file in files:
        name = os.path.basename(file)
        (tmp_path / name).write_text(one(objects, "ConfigMap")["data"][name])
    config = task.parse(["task", *(f"--flagfile={tmp_path / os.path.basename(f)}" for f in files)])
    distribution.check(config, distribution.Cluster(("a:1", "b:1", "c:1")))
    assert config.batch_size == (63 if more else 120)


def test_workers_find_each_other_by_the_names_that_the_service_gives_them() -> None:
    objects = submitted("multi-worker", "demo")
    service = one(objects, "Service", "workers")
    environment = {e["name"]: e for e in trainer_container(objects)["env"]}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert selects({"matchLabels": service["spec"]["selector"]}, pod_labels(objects))
    # A pod's name is <host name>.<subdomain>, and an Indexed Job's host names are <job>-<index>.
    assert trainer_spec(objects)["subdomain"] == service["metadata"]["name"]
    assert environment["WORKER_SERVICE"]["value"] == service["metadata"]["name"]
    assert environment["JOB_NAME"]["valueFrom"]["fieldRef"] == {
        "fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"
    }
    assert service["spec"]["ports"][0]["port"] == int(environment["WORKER_PORT"]["value"])


def test_workers_prefer_nodes_of_their_own() -> None:
    objects = submitted("multi-worker", "demo")
    (rule,) = trainer_spec(objects)["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    term = rule["podAffinityTerm"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert selects(term["labelSelector"], pod_labels(objects))
    assert not selects(term["labelSelector"], pod_labels(submitted("multi-worker", "demo-2")))


def test_workers_on_several_nodes_can_share_the_volume() -> None:
    claim = one(submitted("multi-worker", "demo"), "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


# Components


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kueue_gets_the_job_suspended_and_with_its_queue(overlay: str) -> None:
    job = one(with_components(overlay, "kueue"), "Job")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_spot_nodes_are_tolerated_and_left_in_time(overlay: str) -> None:
    spec = trainer_spec(with_components(overlay, "spot"))
    before = trainer_spec(submitted(overlay, "demo")).get("tolerations", [])
    added = {toleration["key"] for toleration in spec["tolerations"] if toleration not in before}
    assert added == {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}
    assert all(toleration in spec["tolerations"] for toleration in before)
    assert spec["terminationGracePeriodSeconds"] < 30  # the notice that Google and Azure give
