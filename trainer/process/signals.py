"""What ends a process early: SIGTERM, Ctrl-C, and a call that does not return."""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from trainer.errors import Interrupted, TrainerError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Turns SIGTERM and Ctrl-C into `Interrupted`, in the main thread, while a `with` block runs.

    In a `deferred` block it only notes in `received` which came. A second Ctrl-C ends the process.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferred = False

    def __enter__(self) -> "StopSignals":
        self._before = [signal.getsignal(number) for number in _SIGNALS]
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno())
        threading.Thread(target=_exit_at_second, args=(reader,), daemon=True).start()
        self.install()
        return self

    def install(self) -> None:
        """Installs the handlers; again where a library has taken a signal (TensorFlow: SIGTERM)."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._writer.close()
        # What was under way, an import for example, may have turned `Interrupted` into another.
        expected = self._deferred or isinstance(error, TrainerError)
        if self.received and isinstance(error, Exception) and not expected:
            raise self.error() from None

    def _handle(self, number: int, frame: object) -> None:
        first, self.received = self.received is None, number
        if first and not self._deferred:
            raise self.error()

    def error(self, progress: str = "nothing was under way that is not saved") -> Interrupted:
        """Returns the error to raise when a run stops, for SIGTERM if another worker got it."""
        number = self.received or signal.SIGTERM
        whose = "" if self.received else " to another worker"
        return Interrupted(f"stopped by {signal.Signals(number).name}{whose}: {progress}", number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only notes signals, in `received`, while the block runs; to the end, if it raises."""
        self._deferred = True
        yield
        self._deferred = False


def _exit_at_second(signals: socket.socket) -> None:
    """Exits at a second Ctrl-C, also while a native call keeps Python's handlers waiting."""
    count = 0
    with signals:
        while number := signals.recv(1):
            if count and number[0] == signal.SIGINT:
                os._exit(128 + signal.SIGINT)
            count += number[0] in _SIGNALS


@contextlib.contextmanager
def stall_guard(timeout_s: float) -> Iterator[None]:
    """Exits with 1, all stacks on standard error, if the block takes longer, native or not."""
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
