"""The devices that a run trains on, and the tf.distribute strategy over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.cluster.environment import Cluster
from trainer.config import Config
from trainer.errors import UsageError
from trainer.plan import Hardware
from trainer.process.cpus import available_cpus
from trainer.process.startup import import_tensorflow, quiet_stderr

# The oldest GPUs that TensorFlow's wheel has kernels for.
_MINIMUM_CAPABILITY = (6, 0)
# All workers construct the strategy within this time of each other, else those that are there give
# up: they have met just before.
_REGISTER_TIMEOUT_MS = 20_000
_HEARTBEAT_TIMEOUT_MS = 10_000


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run trains on.

    Attributes:
      strategy: the tf.distribute strategy over all replicas of all workers.
      name: `cpu`, `gpu`, `mirrored` or `multi_worker`.
      hardware: of this process's devices.
      first: the name of the first of them.
      cluster: the workers.
    """

    strategy: Any
    name: str
    hardware: Hardware
    first: str
    cluster: Cluster

    @property
    def kind(self) -> str:
        """`CPU` or `GPU`."""
        return self.hardware.kind

    @property
    def replicas(self) -> int:
        """Replicas in sync, over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self) -> range:
        """The numbers of this worker's replicas among all of them."""
        count = self.replicas // len(self.cluster.workers)
        return range(self.cluster.index * count, (self.cluster.index + 1) * count)


def set_up(config: Config, cluster: Cluster) -> Devices:
    """Prepares TensorFlow, before any operation, and returns the devices that the run trains on.

    Threads follow `available_cpus`, GPU memory grows on demand, operations are deterministic.

    Raises:
      UsageError: the devices asked for are not there or cannot be used, or the global batch is not
        divisible by their number.
      tf.errors.OpError: a worker that was there a moment ago does not connect; `lost_worker` names
        it.
    """
    tf = import_tensorflow()
    with quiet_stderr():  # a machine without GPU says so at length
        gpus = tf.config.list_physical_devices("GPU")
    if config.virtual_devices or config.strategy == "cpu":
        gpus = []
    if config.strategy == "gpu" and not gpus:
        raise UsageError("--strategy=gpu, but TensorFlow finds none; use --strategy=cpu or auto")
    tf.config.threading.set_intra_op_parallelism_threads(available_cpus())
    tf.config.threading.set_inter_op_parallelism_threads(available_cpus())
    tf.config.experimental.enable_op_determinism()
    if config.virtual_devices > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * config.virtual_devices,
        )
    try:
        hardware = describe([tf.config.experimental.get_device_details(gpu) for gpu in gpus])
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        connect = _multi_worker if len(cluster.workers) > 1 else _local
        name, strategy = connect(tf, config, cluster, hardware.kind)
    except (RuntimeError, tf.errors.InternalError) as error:
        if not gpus:
            raise
        raise _unusable(str(error).splitlines()[0]) from error
    devices = Devices(strategy, name, hardware, f"/{hardware.kind}:0", cluster)
    config.check_batch(devices.replicas)
    return devices


def describe(gpus: Sequence[Mapping[str, Any]], cpuinfo: str = "/proc/cpuinfo") -> Hardware:
    """Returns what the GPUs, or without one the CPU, can do.

    Args:
      gpus: of each, what `tf.config.experimental.get_device_details` says.
      cpuinfo: the kernel's description of the CPU.

    Raises:
      UsageError: TensorFlow has no kernels for a GPU.
    """
    if not gpus:
        return Hardware("CPU", _cpu_has_bfloat16(cpuinfo))
    oldest = min(gpus, key=lambda gpu: gpu.get("compute_capability", (0, 0)))
    capability = oldest.get("compute_capability", (0, 0))
    if capability < _MINIMUM_CAPABILITY:
        name = oldest.get("device_name", "it")
        raise _unusable(f"{name} has compute capability {'.'.join(map(str, capability))}")
    return Hardware("GPU", capability >= (8, 0), capability)


def _unusable(why: str) -> UsageError:
    return UsageError(
        f"TensorFlow cannot use this machine's GPU: {why}; --strategy=cpu trains on the CPU"
    )


def _cpu_has_bfloat16(cpuinfo: str) -> bool:
    """Whether the CPU has AVX512-BF16 or AMX, and does not only emulate bfloat16."""
    try:
        with open(cpuinfo) as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())


def _local(tf, config: Config, cluster: Cluster, kind: str):
    count = len(tf.config.list_logical_devices(kind))
    if config.strategy == "mirrored" and count < 2:
        raise UsageError(
            f"--strategy=mirrored needs two devices, but TensorFlow finds one {kind};"
            " --virtual_devices=2 splits the CPU"
        )
    if config.strategy in ("auto", "mirrored") and count > 1:
        names = [f"/{kind}:{i}" for i in range(count)]
        return "mirrored", tf.distribute.MirroredStrategy(names)
    return kind.lower(), tf.distribute.OneDeviceStrategy(f"/{kind}:0")


def _multi_worker(tf, config: Config, cluster: Cluster, kind: str):
    """Connects the workers; TensorFlow's coordination service then notices who is lost.

    Its settings are not in the public API. By default the constructor waits an hour for a worker
    that died after the rendezvous; when workers register as a barrier, it gives up after the time
    set here, and its error names that worker.
    """
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=_REGISTER_TIMEOUT_MS,
        heartbeat_timeout_in_ms=_HEARTBEAT_TIMEOUT_MS,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=len(cluster.workers))
        ],
    )
    context.context().coordination_service.cluster_register_with_barrier = True
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    return "multi_worker", tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
