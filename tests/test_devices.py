"""Devices and strategies as they are set up, and what a machine's hardware makes of `auto`."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import textwrap

import pytest
import runs
import tensorflow as tf

from trainer.cluster.agreement import lost_worker
from trainer.cluster.devices import Devices, describe
from trainer.cluster.environment import Cluster
from trainer.errors import UsageError
from trainer.plan import Hardware


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx512f", False)],
)
def test_a_cpu_has_bfloat16_where_it_says_so(
    tmp_path: pathlib.Path, flags: str, expected: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n\n")
    assert describe([], str(cpuinfo)) == Hardware("CPU", expected)
    assert describe([], str(tmp_path / "none")) == Hardware("CPU")


def test_the_oldest_gpu_decides() -> None:
    new, old = {"compute_capability": (9, 0)}, {"compute_capability": (7, 5)}
    assert describe([new]) == Hardware("GPU", True, (9, 0))
    assert describe([new, old]) == Hardware("GPU", False, (7, 5))


@pytest.mark.parametrize("details", [{"compute_capability": (5, 2), "device_name": "M60"}, {}])
def test_a_gpu_without_kernels_is_refused_and_the_cpu_offered(details: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--strategy=cpu"):
        describe([details])


def test_devices_are_set_up_as_asked_for() -> None:
    """In a process of its own, because TensorFlow's devices are set up once."""
    program = """
        import json
        from trainer.cluster.devices import set_up
        from trainer.cluster.environment import Cluster
        from trainer.config import Config
        from trainer.process.cpus import available_cpus
        from trainer.process.startup import import_tensorflow

        tf = import_tensorflow()
        devices = set_up(Config(virtual_devices=4, batch_size=32), Cluster())
        print(json.dumps({
            "name": devices.name, "kind": devices.kind, "replicas": devices.replicas,
            "local": list(devices.local_replicas),
            "logical": len(tf.config.list_logical_devices("CPU")),
            "threads": tf.config.threading.get_intra_op_parallelism_threads() == available_cpus(),
            "between": tf.config.threading.get_inter_op_parallelism_threads() == available_cpus(),
        }))
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
    assert json.loads(done.stdout) == {
        "name": "mirrored",
        "kind": "CPU",
        "replicas": 4,
        "local": [0, 1, 2, 3],
        "logical": 4,
        "threads": True,
        "between": True,
    }


def test_mirrored_on_one_device_says_what_there_is(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if pathlib.Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path}/run")
    answer = server("--strategy=mirrored", *flags, code=2)
    assert "--virtual_devices=2" in answer.message
    assert not (tmp_path / "run").exists()


def test_workers_share_the_replicas_in_their_order() -> None:
    class Strategy:
        num_replicas_in_sync = 6

    cluster = Cluster(("a:1", "b:1", "c:1"), 1)
    devices = Devices(Strategy(), "multi_worker", Hardware("CPU"), "/CPU:0", cluster)
    assert list(devices.local_replicas) == [2, 3]


# As TensorFlow 2.21 words them; test_workers.py has it say them.
UNHEALTHY = """Collective ops is aborted by: Error reported from /job:worker/task:2: The following
tasks are unhealthy (stopped sending heartbeats):
/job:worker/replica:0/task:2
The tasks have crashed."""
CHAIN = """Collective ops is aborted by: Collective ops is aborted by: Connection reset by peer
Additional GRPC error information from remote target /job:worker/replica:0/task:1 while calling x:
Additional GRPC error information from remote target /job:worker/replica:0/task:2 while calling x:
"""
LATE = """Barrier timed out. # of tasks that reached the barrier: 1/3.
The first task at the barrier: /job:worker/replica:0/task:0. Some timed out task names:
/job:worker/replica:0/task:1
/job:worker/replica:0/task:2
Additional GRPC error information from remote target /job:worker/replica:0/task:0 while calling x
"""
FROZEN_CHIEF = "Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat"


@pytest.mark.parametrize(
    ("kind", "text", "named"),
    [
        (tf.errors.UnavailableError, UNHEALTHY, ["worker 2 (c:1)"]),
        (tf.errors.UnavailableError, CHAIN, ["worker 1 (b:1)"]),
        (tf.errors.DeadlineExceededError, LATE, ["worker 1 (b:1)", "worker 2 (c:1)"]),
        (tf.errors.DeadlineExceededError, FROZEN_CHIEF, ["worker 0 (a:1)"]),
        (tf.errors.UnavailableError, "Socket closed", ["another worker"]),
    ],
)
def test_a_lost_worker_is_named_from_what_tensorflow_raises(
    kind: type[Exception], text: str, named: list[str]
) -> None:
    cluster = Cluster(("a:1", "b:1", "c:1", "d:1"), 3)
    lost = lost_worker(kind(None, None, text), cluster)
    assert lost.exit_code == 138
    assert str(lost).startswith(f"{', '.join(named)} was lost;")
    assert lost_worker(kind(None, None, text), Cluster()) is None


def test_other_errors_are_not_taken_for_a_lost_worker() -> None:
    text = "OOM when allocating on /job:worker/replica:0/task:1/device:GPU:0"
    error = tf.errors.ResourceExhaustedError(None, None, text)
    assert lost_worker(error, Cluster(("a:1", "b:1"))) is None
    assert lost_worker(ValueError(text), Cluster(("a:1", "b:1"))) is None
