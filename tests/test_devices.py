"""Devices and strategies as they are set up, and what a machine's hardware makes of `auto`."""

from __future__ import annotations

import json
import pathlib

import pytest
import runs
import tensorflow as tf

from trainer.cluster.devices import describe
from trainer.cluster.environment import Cluster
from trainer.cluster.lost_worker import lost_worker
from trainer.errors import UsageError
from trainer.plan import Hardware


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx512f", False)],
)
def test_a_cpu_has_bfloat16_where_it_says_so(tmp_path, flags, expected) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert describe([], str(cpuinfo)) == Hardware("CPU")
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n\n")
    assert describe([], str(cpuinfo)) == Hardware("CPU", expected)


def test_the_oldest_gpu_decides_and_one_without_kernels_is_refused() -> None:
    new, old = {"compute_capability": (9, 0)}, {"compute_capability": (7, 5)}
    assert describe([new]) == Hardware("GPU", True, (9, 0))
    assert describe([new, old]) == Hardware("GPU", False, (7, 5))
    for unusable in ({"compute_capability": (5, 2)}, {}):
        with pytest.raises(UsageError, match="--strategy=cpu"):
            describe([new, unusable])


def test_devices_are_set_up_as_asked_for() -> None:
    """In a process of its own, because TensorFlow's devices are set up once."""
    done = runs.python("""
        import json
        from trainer.cluster.devices import set_up
        from trainer.cluster.environment import Cluster
        from trainer.config import Config
        from trainer.process.startup import available_cpus, import_tensorflow

        threading = import_tensorflow().config.threading
        devices = set_up(Config(virtual_devices=4, batch_size=32), Cluster())
        assert threading.get_intra_op_parallelism_threads() == available_cpus()
        assert threading.get_inter_op_parallelism_threads() == available_cpus()
        kind, local = devices.hardware.kind, devices.local_replicas
        print(json.dumps([devices.name, kind, devices.replicas, *local]))
    """)
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert json.loads(out) == ["mirrored", "CPU", 4, 0, 1, 2, 3]


def test_mirrored_on_one_device_says_what_there_is(server, tiny_dir, tmp_path) -> None:
    if pathlib.Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path}/run")
    answer = server("--strategy=mirrored", *flags, code=2)
    assert "--virtual_devices=2" in answer.message
    assert not (tmp_path / "run").exists()


# As TensorFlow 2.21 words them; test_workers.py has it say them.
UNHEALTHY = """Collective ops is aborted by: Error reported from /job:worker/task:1: The following
tasks are unhealthy (stopped sending heartbeats):
/job:worker/replica:0/task:1
The tasks have crashed."""
CLOSED = """Collective ops is aborted by: Connection reset by peer
Additional GRPC error information from remote target /job:worker/replica:0/task:1 while calling x:
"""
LATE = """Barrier timed out. # of tasks that reached the barrier: 1/2.
The first task at the barrier: /job:worker/replica:0/task:0. Some timed out task names:
/job:worker/replica:0/task:1
Additional GRPC error information from remote target /job:worker/replica:0/task:0 while calling x
"""
FROZEN_CHIEF = "Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat"


@pytest.mark.parametrize(
    ("kind", "text", "named"),
    [
        (tf.errors.UnavailableError, UNHEALTHY, "worker 1 (b:1)"),
        (tf.errors.UnavailableError, CLOSED, "worker 1 (b:1)"),
        (tf.errors.DeadlineExceededError, LATE, "worker 1 (b:1)"),
        (tf.errors.DeadlineExceededError, FROZEN_CHIEF, "worker 0 (a:1)"),
        (tf.errors.UnavailableError, "Socket closed", "another worker"),
    ],
)
def test_a_lost_worker_is_named_from_what_tensorflow_raises(kind, text, named) -> None:
    lost = lost_worker(kind(None, None, text), Cluster(("a:1", "b:1")))
    assert lost.exit_code == 138
    assert str(lost).startswith(f"{named} was lost;")
    assert lost_worker(kind(None, None, text), Cluster()) is None


def test_other_errors_are_not_taken_for_a_lost_worker() -> None:
    text = "OOM when allocating on /job:worker/replica:0/task:1/device:GPU:0"
    error = tf.errors.ResourceExhaustedError(None, None, text)
    assert lost_worker(error, Cluster(("a:1", "b:1"))) is None
