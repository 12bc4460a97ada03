"""How many CPUs this process may use."""

import contextlib
import math
import os
import pathlib

# Of the container, as it sees its own: https://docs.kernel.org/admin-guide/cgroup-v2.html and
# https://docs.kernel.org/scheduler/sched-bwc.html (version 1). Both are microseconds.
_QUOTA_AND_PERIOD = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def available_cpus(cgroup: pathlib.Path = pathlib.Path("/sys/fs/cgroup")) -> int:
    """Returns the smaller of the affinity mask and the container's CPU quota, at least 1.

    TensorFlow sizes its thread pools by the host's cores, which a CPU limit then throttles.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cpus = os.cpu_count() or 1
    for names in _QUOTA_AND_PERIOD:
        with contextlib.suppress(OSError, ValueError):  # no such file, or no limit ("max")
            quota, period = map(int, " ".join((cgroup / n).read_text() for n in names).split())
            if quota > 0:
                cpus = min(cpus, math.ceil(quota / period))
    return max(1, cpus)
