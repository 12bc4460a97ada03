"""The workers of a run, as `TF_CONFIG` or a Kubernetes Indexed Job describes them."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from trainer.config import Config
from trainer.errors import UsageError

DEFAULT_WORKER_PORT = 2222
_GPU_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")
_ADDRESS = re.compile(r"[^\s/]+:(\d{1,5})")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers: `host:port` of each, the chief first, and which is this one."""

    workers: tuple[str, ...] = (f"localhost:{DEFAULT_WORKER_PORT}",)
    index: int = 0

    def __post_init__(self) -> None:
        for address in self.workers:
            match = _ADDRESS.fullmatch(address)
            if not match or not 1 <= int(match[1]) <= 65_535:
                raise ValueError(f"{address!r} is not host:port")
        if len(set(self.workers)) < len(self.workers):
            raise ValueError("it lists an address twice")
        if not 0 <= self.index < len(self.workers):
            raise ValueError(f"it has {len(self.workers)} workers, but this is worker {self.index}")

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that evaluates and writes."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Returns what messages call a worker: `worker 1 (host:port)`."""
        return f"worker {index} ({self.workers[index]})"


def cluster_from_environment(environ: Mapping[str, str] = os.environ) -> Cluster:
    """Returns the cluster that the environment describes, one worker where it describes none.

    Either as `TF_CONFIG` (https://www.tensorflow.org/guide/distributed_training), or as a
    Kubernetes Indexed Job: worker i of `WORKER_COUNT` is `JOB_NAME-i.WORKER_SERVICE:WORKER_PORT`,
    and this process is worker `JOB_COMPLETION_INDEX`. Raises `UsageError` if it is malformed.
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
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
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
    return Cluster((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0))


def _from_indexed_job(environ: Mapping[str, str]) -> Cluster:
    count = int(environ["WORKER_COUNT"])
    if count == 1:
        return Cluster()
    job, service = environ["JOB_NAME"], environ["WORKER_SERVICE"]
    port = environ.get("WORKER_PORT") or DEFAULT_WORKER_PORT
    workers = tuple(f"{job}-{i}.{service}:{port}" for i in range(count))
    return Cluster(workers, int(environ["JOB_COMPLETION_INDEX"]))


def check(config: Config, cluster: Cluster) -> None:
    """Raises `UsageError` for flags that do not fit the cluster; `devices.set_up` looks further."""
    count = len(cluster.workers)
    if config.strategy == "multi_worker" and count == 1:
        raise UsageError("--strategy=multi_worker needs workers; set TF_CONFIG or WORKER_COUNT")
    if config.strategy == "gpu" and not any(map(os.path.exists, _GPU_NODES)):
        raise UsageError("--strategy=gpu, but this machine has no GPU; use --strategy=cpu or auto")
    if count == 1:
        return
    if config.strategy not in ("auto", "multi_worker") or config.virtual_devices:
        raise UsageError(
            f"--strategy={config.strategy} --virtual_devices={config.virtual_devices} is for one"
            f" process, not for {count} workers; drop these flags, or unset TF_CONFIG, WORKER_COUNT"
        )
    if not config.model_dir:
        raise UsageError("several workers need a --model_dir that all of them share")
    config.check_batch(count)
