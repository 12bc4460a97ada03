"""The devices that a run trains on, and the tf.distribute strategy over them."""

import dataclasses
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.cluster.environment import Cluster
from trainer.config import Config
from trainer.errors import UsageError
from trainer.plan import Hardware
from trainer.process.startup import available_cpus, import_tensorflow, quiet_stderr

_UNUSABLE = "TensorFlow cannot use this machine's GPU: {}; --strategy=cpu trains on the CPU"
_MINIMUM_CAPABILITY = (6, 0)  # the oldest GPUs that TensorFlow's wheel has kernels for
_REGISTER_TIMEOUT_MS = 20_000  # between the first worker and the last; they have met just before


@dataclasses.dataclass(frozen=True)
class Devices:
    """The strategy, by `name` cpu, gpu, mirrored or multi_worker, and what it was made of."""

    strategy: Any
    name: str
    hardware: Hardware
    cluster: Cluster

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
    """Prepares TensorFlow, before any operation; returns the devices or raises `UsageError`."""
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
    if config.virtual_devices:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * config.virtual_devices,
        )
    try:
        hardware = describe([tf.config.experimental.get_device_details(gpu) for gpu in gpus])
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        name, strategy = _strategy(tf, config, cluster, hardware.kind)
    except (RuntimeError, tf.errors.InternalError) as error:
        if not gpus:
            raise
        raise UsageError(_UNUSABLE.format(str(error).splitlines()[0])) from error
    devices = Devices(strategy, name, hardware, cluster)
    config.check_batch(devices.replicas)
    return devices


def describe(gpus: Sequence[Mapping[str, Any]], cpuinfo: str = "/proc/cpuinfo") -> Hardware:
    """Returns what GPUs, by their `get_device_details`, or without one the CPU can do."""
    if not gpus:  # a CPU without AVX512-BF16 or AMX only emulates bfloat16
        path = pathlib.Path(cpuinfo)
        text = path.read_text() if path.exists() else ""
        name = re.search(r"^model name\s*: (.+)", text, re.M)
        bfloat16 = bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", text))
        return Hardware("CPU", bfloat16, name=name[1] if name else platform.machine())
    capability = min(gpu.get("compute_capability", (0, 0)) for gpu in gpus)
    if capability < _MINIMUM_CAPABILITY:
        raise UsageError(_UNUSABLE.format(f"it has compute capability {capability}"))
    return Hardware("GPU", capability >= (8, 0), capability, gpus[0].get("device_name", "GPU"))


def _strategy(tf, config: Config, cluster: Cluster, kind: str):
    if len(cluster.workers) > 1:
        _configure_coordination_service(len(cluster.workers))
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.workers)}), "", "worker", cluster.index
        )
        return "multi_worker", tf.distribute.MultiWorkerMirroredStrategy(resolver)
    count = len(tf.config.list_logical_devices(kind))
    if config.strategy == "mirrored" and count < 2:
        raise UsageError(f"--strategy=mirrored, but there is one {kind}; try --virtual_devices=2")
    if config.strategy in ("auto", "mirrored") and count > 1:
        return "mirrored", tf.distribute.MirroredStrategy([f"/{kind}:{i}" for i in range(count)])
    return kind.lower(), tf.distribute.OneDeviceStrategy(f"/{kind}:0")


def _configure_coordination_service(count: int) -> None:
    """Has the strategy's constructor name a dead worker; by default it waits for it for an hour."""
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context  # not in the public API

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=_REGISTER_TIMEOUT_MS,
        coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=count)],
    )
    context.context().coordination_service.cluster_register_with_barrier = True
