"""The process: TensorFlow imported without noise, the CPUs it may use, the signals that stop it.

Apart from everything else because the entries need it before TensorFlow is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import math
import os
import pathlib
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType, ModuleType

from trainer.errors import Interrupted, TrainerError

# Of glibc's mallopt, https://man7.org/linux/man-pages/man3/mallopt.3.html; numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# Where standard error goes while `quiet_stderr` holds it back.
_shown_on: list[int] = []


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Holds back what is written to file descriptor 2, and shows it only if the block raises.

    TensorFlow's C++ side logs its start-up there before any log level is read; replacing
    `sys.stderr` would not catch it.
    """
    try:
        saved = os.dup(2)
    except OSError:  # the caller closed standard error: there is nothing to keep quiet
        yield
        return
    try:
        held_back = tempfile.TemporaryFile()  # noqa: SIM115, closed below
    except OSError:  # nowhere to hold it: noise does less harm than no run
        os.close(saved)
        yield
        return
    with held_back as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        _shown_on.append(saved)
        try:
            yield
        except Exception as error:
            os.dup2(saved, 2)
            if isinstance(error, TrainerError):
                raise
            if interruption := _interruption(error):
                raise interruption from None
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            _shown_on.remove(saved)
            os.dup2(saved, 2)
            os.close(saved)


def _interruption(error: BaseException | None) -> Interrupted | None:
    """The signal behind an error: what catches it, in mid-import, may raise something else."""
    while error and not isinstance(error, Interrupted):
        error = error.__cause__ or error.__context__
    return error


def fill_standard_streams() -> None:
    """Opens nothing in the place of a standard stream that the caller closed (`>&-`, `2>&-`).

    Else the next file that is opened, a checkpoint perhaps, takes its number, and what TensorFlow
    logs there goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def last_words(text: str) -> None:
    """Writes a line on standard error, even if that is held back: the process is about to end."""
    os.write(_shown_on[0] if _shown_on else 2, f"{text}\n".encode())


def as_typed(program: str) -> str:
    """Returns how to call a program of this environment from a shell.

    That is its name, or its path where the shell would find none of that name, or another one:
    the environment need not be activated. `python` may be called otherwise, `python3` for example.
    """
    place = os.path.dirname(sys.executable)
    own = sys.executable if program == "python" else os.path.join(place, program)
    if not os.path.exists(own):
        return program
    name = os.path.basename(own)
    found = shutil.which(name)
    with contextlib.suppress(OSError):  # the working directory may be gone
        # Directories, because an environment's Python is a link to one that lacks its packages.
        if found and os.path.samefile(os.path.dirname(os.path.abspath(found)), place):
            return name
        inside = os.path.relpath(own)
        if not inside.startswith(os.pardir):
            return shlex.quote(inside if os.sep in inside else os.path.join(os.curdir, inside))
    return shlex.quote(own)


def import_tensorflow() -> ModuleType:
    """Returns the `tensorflow` module, imported without its start-up messages.

    Errors of its C++ side are still shown later.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    with quiet_stderr(), _no_garbage_collection():
        tensorflow = importlib.import_module("tensorflow")
    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python from looking for garbage while the block runs, and later among what is there.

    TensorFlow's import makes half a million objects, hardly any of them garbage, and spends a
    seventh of its time on the search.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def keep_freed_memory() -> None:
    """Has glibc keep what TensorFlow frees, for the next step, and not give it back to the system.

    A step of a large network frees tens of MB, and the system clears every page before it gives
    them out again. Elsewhere than with glibc this does nothing.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # there is no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_cpus(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Returns how many CPUs this process may keep busy, at least 1.

    The least of the affinity mask and the container's quota: TensorFlow sizes its thread pools by
    the host's cores, which in a container with a CPU limit means throttling.

    Args:
      root: where `proc/self/cgroup` and `sys/fs/cgroup` are looked up.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota(root)
    return max(1, min(cpus, math.ceil(quota))) if quota else cpus


def _cgroup_quota(root: pathlib.Path) -> float | None:
    """The smallest quota, in CPUs, from this process's control group up to the top; None without.

    Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us, cpu.cfs_period_us).
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            mount, read = root / "sys/fs/cgroup" / controllers, _quota_v1
            if not mount.is_dir():
                mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        group = mount / path.lstrip("/")
        for directory in [group, *group.parents]:
            if directory != mount and mount not in directory.parents:
                break
            with contextlib.suppress(OSError, ValueError, IndexError):
                quotas.append(read(directory))
    return min((quota for quota in quotas if quota), default=None)


def _quota_v2(directory: pathlib.Path) -> float | None:
    quota, period = (directory / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(directory: pathlib.Path) -> float | None:
    quota = int((directory / "cpu.cfs_quota_us").read_text())
    return None if quota <= 0 else quota / int((directory / "cpu.cfs_period_us").read_text())


class StopSignals:
    """Turns SIGTERM and Ctrl-C into `Interrupted`, at once or when a block that defers them asks.

    A second Ctrl-C leaves at once, whatever is going on. Works in the main thread only, as signal
    handlers do.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferred = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        signals, told = socket.socketpair()
        told.setblocking(False)
        self._told = told, signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(signals,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def _watch(self, signals: socket.socket) -> None:
        """Leaves at the second Ctrl-C also while the main thread is in a long call of TensorFlow.

        Python runs handlers only when such a call returns, but tells of signals at once.
        """
        another = False
        for number in iter(lambda: signals.recv(1), b""):
            if another and number[0] == signal.SIGINT:
                os._exit(128 + signal.SIGINT)
            another |= number[0] in self._before
        signals.close()

    def take_back(self) -> None:
        """Installs the handlers anew: TensorFlow's cluster takes SIGTERM for itself."""
        for number in self._before:
            signal.signal(number, self._handle)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        told, before = self._told
        signal.set_wakeup_fd(before)
        told.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            os._exit(128 + number)
        first, self.received = self.received is None, number
        if first and not self._deferred:
            raise self.error("nothing was under way that is not saved")

    def error(self, what: str) -> Interrupted:
        """Returns the error to raise when a run stops, saying `what` became of the progress.

        Where the signal went to another worker, all leave as if they had got a SIGTERM.
        """
        number = self.received or signal.SIGTERM
        whose = "" if self.received else " to another worker"
        return Interrupted(f"stopped by {signal.Signals(number).name}{whose}: {what}", number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While the block runs a signal is only noted, in `received`, for the block to look at."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
