"""The start of a process: its streams, its CPUs and memory, and TensorFlow's import."""

import contextlib
import ctypes
import gc
import importlib
import math
import os
import pathlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

# https://man7.org/linux/man-pages/man3/mallopt.3.html, numbers of <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_IMPORTING = threading.Lock()


def open_standard_streams() -> None:
    """Redirects closed streams to /dev/null; Python's print odd file names, and when quiet too."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = open(os.dup(1), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards what TensorFlow's C++ side writes to descriptor 2, before it reads a log level."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def import_tensorflow() -> ModuleType:
    """Returns the `tensorflow` module, whole in any thread, imported without start-up messages."""
    with _IMPORTING:
        if "tensorflow" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            gc.disable()  # its search among half a million new objects takes a seventh of the time
            with quiet_stderr():
                importlib.import_module("tensorflow").get_logger().setLevel("ERROR")
            gc.freeze()
            gc.enable()
        return importlib.import_module("tensorflow")  # waits for a thread that is importing it


def keep_freed_memory() -> None:
    """Has glibc keep what TensorFlow frees: the system clears every page that it gives out."""
    with contextlib.suppress(AttributeError):  # not glibc: there is no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_cpus(cgroup: pathlib.Path = pathlib.Path("/sys/fs/cgroup")) -> int:
    """Returns how many CPUs the affinity mask and the container's quota leave to this process.

    The quota: https://docs.kernel.org/admin-guide/cgroup-v2.html. TensorFlow does not know it.
    """
    has_mask = hasattr(os, "sched_getaffinity")  # macOS has none
    cpus = len(os.sched_getaffinity(0)) if has_mask else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or no limit ("max")
        quota, period = map(int, (cgroup / "cpu.max").read_text().split())
        cpus = min(cpus, math.ceil(quota / period))
    return cpus
