"""Where a run trains: this process's devices, the workers beside it, the strategy over them all.

Nothing here knows a model or data; nothing elsewhere asks which devices there are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping

from trainer.config import Config
from trainer.errors import UsageError
from trainer.process.cpus import available_cpus
from trainer.process.startup import import_tensorflow, quiet_stderr

DEFAULT_WORKER_PORT = 2222


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers that train together.

    Attributes:
      workers: `host:port` of each, the chief first.
      index: which of them this process is.
    """

    workers: tuple[str, ...] = ("localhost",)
    index: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether this is the one worker that evaluates and writes."""
        return self.index == 0


def cluster_from_environment(environ: Mapping[str, str] = os.environ) -> Cluster:
    """Returns the cluster that `TF_CONFIG`, or else the environment of an Indexed Job, describes.

    One worker, or neither variable, is plain training. `TF_CONFIG`:
    https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable.
    Kubernetes Indexed Job: worker i of `WORKER_COUNT` is `JOB_NAME-i.WORKER_SERVICE:WORKER_PORT`,
    this process's i being `JOB_COMPLETION_INDEX`
    (https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/).

    Raises:
      UsageError: if the description is malformed or contradicts itself.
    """
    if environ.get("TF_CONFIG", "").strip():
        return _from_tf_config(environ["TF_CONFIG"])
    if environ.get("WORKER_COUNT", "").strip():
        return _from_indexed_job(environ)
    return Cluster()


def _from_tf_config(text: str) -> Cluster:
    def refuse(why: str) -> UsageError:
        return UsageError(f"TF_CONFIG {why}")

    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise refuse("is not a JSON object")
    cluster, task = settings.get("cluster") or {}, settings.get("task") or {}
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise refuse("needs objects under 'cluster' and 'task'")
    if not cluster:
        return Cluster()
    for kind in sorted(set(cluster) - {"chief", "worker"}):
        raise refuse(f"names tasks of type {kind!r}; only 'chief' and 'worker' train here")
    for kind, addresses in cluster.items():
        if not isinstance(addresses, list) or not addresses:
            raise refuse(f"needs a list of addresses for {kind!r}")
        for address in addresses:
            if not isinstance(address, str) or not _is_address(address):
                raise refuse(f"has {address!r} for a {kind}, which is not host:port")
    chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
    if len(chiefs) > 1:
        raise refuse(f"names {len(chiefs)} chiefs; there can be one")
    everyone = (*chiefs, *workers)
    if len(set(everyone)) < len(everyone):
        raise refuse("names the same address twice")
    kind, index = task.get("type"), task.get("index")
    if not isinstance(kind, str) or kind not in cluster:
        raise refuse(f"says this task is a {kind!r}, which its cluster does not list")
    if isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index):
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(cluster[kind]):
        raise refuse(f"says this is {kind} {index!r}, but lists {len(cluster[kind])} of them")
    return Cluster(everyone, index + (len(chiefs) if kind == "worker" else 0))


def _from_indexed_job(environ: Mapping[str, str]) -> Cluster:
    def number(name: str, low: int, high: int, default: int | None = None) -> int:
        text = environ.get(name, "").strip() or ("" if default is None else str(default))
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise UsageError(
                f"{name}={text!r} in the environment is not a number from {low} to {high}"
            )
        return int(text)

    count = number("WORKER_COUNT", 1, 10_000)
    if count == 1:
        return Cluster()
    index = number("JOB_COMPLETION_INDEX", 0, count - 1)
    port = number("WORKER_PORT", 1, 65_535, DEFAULT_WORKER_PORT)
    for name in ("JOB_NAME", "WORKER_SERVICE"):
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", environ.get(name, "")):
            raise UsageError(
                f"{name}={environ.get(name, '')!r} in the environment is not a host name, and"
                f" WORKER_COUNT={count} workers need it to find each other"
            )
    job, service = environ["JOB_NAME"], environ["WORKER_SERVICE"]
    return Cluster(tuple(f"{job}-{i}.{service}:{port}" for i in range(count)), index)


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    if not host or not colon or re.search(r"\s|/", host):
        return False
    return bool(re.fullmatch("[0-9]{1,5}", port)) and 1 <= int(port) <= 65_535


def check(config: Config, cluster: Cluster) -> None:
    """Raises `UsageError` for what does not fit machine or cluster, as far as a look can tell.

    No TensorFlow is needed for it; `set_up` checks the rest.
    """
    if config.strategy == "multi_worker" and len(cluster.workers) == 1:
        raise UsageError(
            "--strategy=multi_worker needs more than one worker;"
            " describe them in TF_CONFIG or WORKER_COUNT"
        )
    if len(cluster.workers) > 1:
        if config.strategy not in ("auto", "multi_worker"):
            raise UsageError(
                f"--strategy={config.strategy} is for one process, but the environment describes"
                f" {len(cluster.workers)} workers; use --strategy=auto, or unset TF_CONFIG and"
                " WORKER_COUNT"
            )
        if not config.model_dir:
            raise UsageError("several workers need a --model_dir that all of them share")
        if config.virtual_devices:
            raise UsageError(
                f"--virtual_devices={config.virtual_devices} is for one process, but the"
                f" environment describes {len(cluster.workers)} workers; leave one of them out"
            )
        config.check_batch(len(cluster.workers))
    if config.strategy == "gpu" and sys.platform.startswith("linux"):
        nodes = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")
        if not any(map(os.path.exists, nodes)):
            raise UsageError(
                "--strategy=gpu, but this machine has no GPU; use --strategy=cpu or auto"
            )


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run trains on.

    Attributes:
      strategy: the tf.distribute strategy over all replicas of all workers.
      name: `cpu`, `gpu`, `mirrored` or `multi_worker`.
      kind: `CPU` or `GPU`.
      first: the name of the first device of this process.
      cluster: the workers.
    """

    strategy: object
    name: str
    kind: str
    first: str
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
    """Prepares TensorFlow, before any operation, and returns the devices that the run trains on.

    Threads follow `runtime.available_cpus`, GPU memory grows on demand, operations are
    deterministic.

    Raises:
      UsageError: if the devices asked for are not there, or the global batch is not divisible by
        their number.
    """
    tf = import_tensorflow()
    with quiet_stderr():  # a machine without GPU says so at length
        gpus = tf.config.list_physical_devices("GPU")
    if config.virtual_devices or config.strategy == "cpu":
        gpus = []
    tf.config.threading.set_intra_op_parallelism_threads(available_cpus())
    tf.config.threading.set_inter_op_parallelism_threads(available_cpus())
    tf.config.experimental.enable_op_determinism()
    if config.virtual_devices > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * config.virtual_devices,
        )
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    kind = "GPU" if gpus else "CPU"
    found = f"{len(gpus)} GPU(s) and the CPU" if gpus else "the CPU alone"
    if config.strategy == "gpu" and not gpus:
        raise UsageError(
            f"--strategy=gpu, but TensorFlow finds {found}; use --strategy=cpu or auto"
        )
    if len(cluster.workers) > 1:
        name, first, strategy = "multi_worker", f"/{kind}:0", _multi_worker(tf, cluster)
    else:
        devices = [f"/{kind}:{i}" for i in range(len(tf.config.list_logical_devices(kind)))]
        if config.strategy == "mirrored" or (config.strategy == "auto" and len(devices) > 1):
            if len(devices) < 2:
                raise UsageError(
                    f"--strategy=mirrored needs two devices or more, but TensorFlow finds {found};"
                    " --virtual_devices=2 splits the CPU"
                )
            name, strategy = "mirrored", tf.distribute.MirroredStrategy(devices)
        else:
            name, strategy = kind.lower(), tf.distribute.OneDeviceStrategy(devices[0])
        first = devices[0]
    devices = Devices(strategy, name, kind, first, cluster)
    config.check_batch(devices.replicas)
    return devices


def _multi_worker(tf, cluster: Cluster):
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def precision(config: Config, devices: Devices, *, bfloat16: bool) -> str:
    """Returns what the layers compute in: as asked for, or what is fast and good enough here.

    Args:
      config: of the run.
      devices: of the run.
      bfloat16: whether that is good enough for the model.
    """
    if config.precision != "auto":
        return config.precision
    fast = _gpu_has_bfloat16() if devices.kind == "GPU" else cpu_has_bfloat16()
    return "bfloat16" if bfloat16 and fast else "float32"


def jit_compile(config: Config, devices: Devices, *, on_cpu: str) -> str:
    """Returns what XLA compiles, `loop`, `step` or `off`: as asked for, or what is fast here.

    With several replicas it is the gradient of each, since XLA cannot compile the sum over them;
    for that it takes a model whose steps gain from it. The answer depends on the number of replicas
    and not on whether they are devices or workers, so that both end with the same weights.

    Args:
      config: of the run.
      devices: of the run.
      on_cpu: what to compile on one CPU, `loop` or `step`.
    """
    # oneDNN's convolutions use a CPU's bfloat16 instructions; XLA converts to float32 and back. On
    # such a CPU they are faster in float32, too.
    one_dnn = devices.kind == "CPU" and on_cpu == "step" and cpu_has_bfloat16()
    if config.jit_compile == "off" or (config.jit_compile == "auto" and one_dnn):
        return "off"
    best = "loop" if devices.kind == "GPU" else on_cpu
    if devices.replicas == 1:
        return best
    wanted = devices.kind == "GPU" or best == "step" or config.jit_compile == "on"
    return "step" if wanted else "off"


def cpu_has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this CPU multiplies bfloat16 matrices (AVX512-BF16 or AMX), not only emulates it."""
    try:
        with open(cpuinfo) as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())


def _gpu_has_bfloat16() -> bool:
    tf = import_tensorflow()
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return details.get("compute_capability", (0, 0)) >= (8, 0)
