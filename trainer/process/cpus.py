"""How many CPUs this process may use."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator


def available_cpus(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Returns the smaller of the affinity mask and the container's CPU quota, at least 1.

    TensorFlow sizes its thread pools by the host's cores, which a CPU limit then throttles.

    Args:
      root: where `proc/self/cgroup` and `sys/fs/cgroup` are looked up.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cpus = os.cpu_count() or 1
    return max(1, min([cpus, *map(math.ceil, _quotas(root))]))


def _quotas(root: pathlib.Path) -> Iterator[float]:
    """Yields the quotas, in CPUs, of this process's control groups and of those above them.

    Formats: `cpu.max` of https://docs.kernel.org/admin-guide/cgroup-v2.html, and
    `cpu.cfs_quota_us`, `cpu.cfs_period_us` of https://docs.kernel.org/scheduler/sched-bwc.html.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        directory = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        for name in ["", *path.strip("/").split("/")]:
            directory /= name
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            with contextlib.suppress(OSError, ValueError):  # no such file, or no limit ("max")
                words = " ".join((directory / name).read_text() for name in names)
                quota, period = map(int, words.split())
                if quota > 0:
                    yield quota / period
