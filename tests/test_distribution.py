"""Where a run trains: clusters as the environment describes them, devices as they are there."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import textwrap

import pytest
import runs
import tensorflow as tf

from trainer.cluster import devices as distribution
from trainer.cluster.devices import (
    Cluster,
    Devices,
    check,
    cluster_from_environment,
    cpu_has_bfloat16,
)
from trainer.config import Config
from trainer.errors import UsageError

INDEXED_JOB = {
    "WORKER_COUNT": "3",
    "JOB_COMPLETION_INDEX": "2",
    "JOB_NAME": "digits",
    "WORKER_SERVICE": "digits-workers",
}


def described(**settings: object) -> Cluster:
    return cluster_from_environment({"TF_CONFIG": json.dumps(settings)})


def test_no_description_is_one_process() -> None:
    assert cluster_from_environment({}) == Cluster()
    assert cluster_from_environment({"TF_CONFIG": "", "WORKER_COUNT": " "}) == Cluster()
    assert described() == described(task={"type": "worker", "index": 0}) == Cluster()
    assert len(Cluster().workers) == 1
    assert Cluster().is_chief


def test_the_chief_comes_first_and_the_workers_behind_it() -> None:
    cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    chief = described(cluster=cluster, task={"type": "chief", "index": 0})
    last = described(cluster=cluster, task={"type": "worker", "index": "1"})
    assert chief.workers == last.workers == ("a:1", "b:1", "c:1")
    assert (chief.index, last.index) == (0, 2)
    assert (chief.is_chief, last.is_chief) == (True, False)


def test_without_a_chief_the_first_worker_is_it() -> None:
    cluster = {"worker": ["a:1", "[::1]:2"]}
    assert described(cluster=cluster, task={"type": "worker", "index": 0}).is_chief
    assert not described(cluster=cluster, task={"type": "worker", "index": 1}).is_chief


def test_an_indexed_job_describes_its_pods() -> None:
    cluster = cluster_from_environment(INDEXED_JOB)
    assert cluster.index == 2
    assert cluster.workers == tuple(f"digits-{i}.digits-workers:2222" for i in range(3))
    assert cluster_from_environment(INDEXED_JOB | {"WORKER_PORT": "99"}).workers[0].endswith(":99")


def test_an_indexed_job_of_one_pod_is_plain_training() -> None:
    assert cluster_from_environment({"WORKER_COUNT": "1"}) == Cluster()


def test_tf_config_counts_before_the_indexed_job() -> None:
    settings = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    assert cluster_from_environment({"TF_CONFIG": json.dumps(settings)} | INDEXED_JOB).index == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"cluster": {"worker": ["a:0"]}},
        {"cluster": {"worker": ["a:65536"]}},
        {"cluster": {"worker": [":1"]}},
        {"cluster": {"worker": ["a b:1"]}},
        {"cluster": {"worker": ["grpc://a:1"]}},
        {"cluster": {"worker": [1]}},
        {"cluster": {"worker": "a:1"}},
        {"cluster": {"worker": []}},
        {"cluster": {"evaluator": ["a:1"]}},
        {"cluster": []} | {"task": 1},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0.0}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "-0"}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": ["worker"], "index": 0}},
    ],
)
def test_a_tf_config_that_cannot_be_is_refused(settings: dict[str, object]) -> None:
    task = {"task": {"type": "worker", "index": 0}}
    with pytest.raises(UsageError, match=r"^TF_CONFIG "):
        described(**task | settings)


def test_a_tf_config_of_endless_depth_is_refused() -> None:
    with pytest.raises(UsageError, match="not JSON"):
        cluster_from_environment({"TF_CONFIG": "[" * 100_000})


def test_what_fits_the_cluster_is_not_refused() -> None:
    cluster = Cluster(("a:1", "b:1"), 1)
    check(Config(model_dir="shared", batch_size=64), cluster)
    check(Config(model_dir="shared", strategy="multi_worker"), cluster)
    check(Config(), Cluster())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx512f", False)],
)
def test_bfloat16_is_fast_where_the_cpu_says_so(
    tmp_path: pathlib.Path, flags: str, expected: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n\n")
    assert cpu_has_bfloat16(str(cpuinfo)) == expected
    assert not cpu_has_bfloat16(str(tmp_path / "none"))


def test_devices_are_set_up_as_asked_for() -> None:
    """In a process of its own, because TensorFlow's devices are settled once."""
    program = """
        import json
        from trainer.cluster import devices as distribution
        from trainer.config import Config
        from trainer.cluster.devices import Cluster
        from trainer.process.cpus import available_cpus
        from trainer.process.startup import import_tensorflow

        tf = import_tensorflow()
        devices = distribution.set_up(Config(virtual_devices=4, batch_size=32), Cluster())
        distribution.cpu_has_bfloat16 = lambda: False
        found = {
            "name": devices.name, "kind": devices.kind, "replicas": devices.replicas,
            "local": list(devices.local_replicas),
            "logical": len(tf.config.list_logical_devices("CPU")),
            "threads": tf.config.threading.get_intra_op_parallelism_threads() == available_cpus(),
            "between": tf.config.threading.get_inter_op_parallelism_threads() == available_cpus(),
            "xla": [
                distribution.jit_compile(Config(jit_compile=flag), devices, on_cpu=on_cpu)
                for flag in ("auto", "on", "off") for on_cpu in ("loop", "step")
            ],
        }
        print(json.dumps(found))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=runs.ROOT,
        env=runs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "name": "mirrored",
        "kind": "CPU",
        "replicas": 4,
        "local": [0, 1, 2, 3],
        "logical": 4,
        "threads": True,
        "between": True,
        # What has to be summed over replicas is in no compiled loop.
        "xla": ["off", "step", "step", "step", "off", "off"],
    }


@pytest.mark.parametrize(
    ("flag", "on_cpu", "bfloat16", "expected"),
    [
        ("auto", "step", False, "step"),
        ("auto", "step", True, "off"),
        ("on", "step", True, "step"),
        ("auto", "loop", True, "loop"),
        ("off", "loop", False, "off"),
    ],
)
def test_convolutions_are_compiled_where_they_gain_from_it(
    monkeypatch: pytest.MonkeyPatch, flag: str, on_cpu: str, bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(distribution, "cpu_has_bfloat16", lambda: bfloat16)
    devices = Devices(tf.distribute.get_strategy(), "cpu", "CPU", "/cpu:0", Cluster())
    found = distribution.jit_compile(Config(jit_compile=flag), devices, on_cpu=on_cpu)
    assert found == expected


def test_mirrored_on_one_device_says_what_there_is(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if pathlib.Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path}/run")
    answer = server("--strategy=mirrored", *flags, code=2)
    assert "--virtual_devices=2" in answer.message
    assert "the CPU alone" in answer.message
    assert not (tmp_path / "run").exists()


def test_workers_share_the_replicas_in_their_order() -> None:
    class Strategy:
        num_replicas_in_sync = 6

    from trainer.cluster.devices import Devices

    cluster = Cluster(("a:1", "b:1", "c:1"), 1)
    devices = Devices(Strategy(), "multi_worker", "CPU", "/CPU:0", cluster)
    assert list(devices.local_replicas) == [2, 3]
