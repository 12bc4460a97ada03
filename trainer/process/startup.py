"""The start of a process: its standard streams, its memory, and TensorFlow's import."""

import contextlib
import ctypes
import gc
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

# https://man7.org/linux/man-pages/man3/mallopt.3.html, numbers of <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_IMPORTING = threading.Lock()


def open_standard_streams() -> None:
    """Redirects closed standard streams to /dev/null; gives `sys.stderr` a descriptor of its own.

    Otherwise the next file opened, perhaps a checkpoint, becomes descriptor 2 and gets TensorFlow's
    log; and `quiet_stderr` would discard Python's messages as well.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    # backslashreplace: a file's name may not fit the encoding.
    sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards what is written to file descriptor 2 while the block runs.

    TensorFlow's C++ side logs there before it reads any log level.
    """
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def import_tensorflow() -> ModuleType:
    """Returns the `tensorflow` module, imported without its start-up messages.

    Several threads may ask at once: each gets the whole module. C++ errors are still shown later.
    """
    with _IMPORTING:
        if "tensorflow" in sys.modules:  # another thread may be at it: import_module waits for that
            return importlib.import_module("tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        gc.disable()  # the search among half a million new objects takes a seventh of the import
        try:
            with quiet_stderr():
                tensorflow = importlib.import_module("tensorflow")
            gc.freeze()
        finally:
            gc.enable()
        tensorflow.get_logger().setLevel("ERROR")
        return tensorflow


def keep_freed_memory() -> None:
    """Has glibc keep what TensorFlow frees for the next step, and not return it to the system.

    A step of a large network frees tens of MB, and the system clears every page it gives out anew.
    """
    with contextlib.suppress(AttributeError):  # not glibc: there is no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
