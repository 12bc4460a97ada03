"""The workers of a run, as `TF_CONFIG` or a Kubernetes Indexed Job describes them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from trainer.config import Config
from trainer.errors import UsageError

DEFAULT_WORKER_PORT = 2222

_ADDRESS = re.compile(r"[^\s/]+:(\d{1,5})")
_GPU_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")


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
        """Whether this is the worker that evaluates and writes."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Returns what messages call a worker: `worker 1 (host:port)`."""
        return f"worker {index} ({self.workers[index]})"


def cluster_from_environment(environ: Mapping[str, str] = os.environ) -> Cluster:
    """Returns the cluster that `TF_CONFIG`, or else the environment of an Indexed Job, describes.

    One worker, or neither variable, is plain training. `TF_CONFIG`:
    https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable.
    Kubernetes Indexed Job: worker i of `WORKER_COUNT` is `JOB_NAME-i.WORKER_SERVICE:WORKER_PORT`,
    and this process is worker `JOB_COMPLETION_INDEX`
    (https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/).

    Raises:
      UsageError: the description is malformed or contradicts itself.
    """
    source = "TF_CONFIG" if environ.get("TF_CONFIG", "").strip() else "WORKER_COUNT"
    if not environ.get(source, "").strip():
        return Cluster()
    try:
        if source == "TF_CONFIG":
            return _from_tf_config(json.loads(environ[source]))
        return _from_indexed_job(environ)
    except KeyError as error:
        raise UsageError(f"{source} describes a cluster, but {error} is missing") from None
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UsageError(f"{source} does not describe a cluster: {error}") from None


def _from_tf_config(settings: Any) -> Cluster:
    tasks = settings.get("cluster")
    if not tasks:
        return Cluster()
    kind, index = settings["task"]["type"], int(settings["task"]["index"])
    chiefs, workers = tasks.get("chief", []), tasks.get("worker", [])
    if set(tasks) - {"chief", "worker"} or len(chiefs) > 1:
        raise ValueError("it may list one 'chief' and any number of 'worker' tasks")
    if not 0 <= index < len(tasks[kind]):
        raise ValueError(f"it lists {len(tasks[kind])} of {kind!r}, but this is number {index}")
    return _checked((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0))


def _from_indexed_job(environ: Mapping[str, str]) -> Cluster:
    count = int(environ["WORKER_COUNT"])
    if count == 1:
        return Cluster()
    job, service = environ["JOB_NAME"], environ["WORKER_SERVICE"]
    port = int(environ.get("WORKER_PORT") or DEFAULT_WORKER_PORT)
    workers = tuple(f"{job}-{i}.{service}:{port}" for i in range(count))
    return _checked(workers, int(environ["JOB_COMPLETION_INDEX"]))


def _checked(workers: tuple[str, ...], index: int) -> Cluster:
    for address in workers:
        match = _ADDRESS.fullmatch(address)
        if not match or not 1 <= int(match[1]) <= 65_535:
            raise ValueError(f"{address!r} is not host:port")
    if len(set(workers)) < len(workers):
        raise ValueError("it lists an address twice")
    if not 0 <= index < len(workers):
        raise ValueError(f"it has {len(workers)} workers, but this is worker {index}")
    return Cluster(workers, index)


def check(config: Config, cluster: Cluster) -> None:
    """Raises `UsageError` for flags that do not fit the machine or the cluster.

    It looks at what can be seen without TensorFlow; `devices.set_up` checks the rest.
    """
    count = len(cluster.workers)
    if config.strategy == "multi_worker" and count == 1:
        raise UsageError(
            "--strategy=multi_worker needs more than one worker;"
            " describe them in TF_CONFIG or WORKER_COUNT"
        )
    if count > 1:
        if config.strategy not in ("auto", "multi_worker") or config.virtual_devices:
            raise UsageError(
                f"--strategy={config.strategy} and --virtual_devices={config.virtual_devices} are"
                f" for one process, but the environment describes {count} workers; use"
                " --strategy=auto without virtual devices, or unset TF_CONFIG and WORKER_COUNT"
            )
        if not config.model_dir:
            raise UsageError("several workers need a --model_dir that all of them share")
        config.check_batch(count)
    linux = sys.platform.startswith("linux")
    if config.strategy == "gpu" and linux and not any(map(os.path.exists, _GPU_NODES)):
        raise UsageError("--strategy=gpu, but this machine has no GPU; use --strategy=cpu or auto")
