"""What ends a process early: SIGTERM, Ctrl-C, and a call that does not return."""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from trainer.errors import Interrupted
from trainer.process.console import Console

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Ends the process at SIGTERM or Ctrl-C while a `with` block runs, with a line and its code.

    While `deferred` is set it only notes the signal in `received`, until a second Ctrl-C. A thread
    does that: Python's own handlers wait while a native call lasts.
    """

    def __init__(self, console: Console) -> None:
        self.received: int | None = None
        self.deferred = False
        self._console = console

    def __enter__(self) -> "StopSignals":
        self._before = [signal.getsignal(number) for number in _SIGNALS]
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno())
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        self.install()
        return self

    def install(self) -> None:
        """Installs the handlers; again where a library has taken a signal (TensorFlow: SIGTERM)."""
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # the thread reads it from the socket

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._writer.close()
        self._console.clear()

    def _watch(self, signals: socket.socket) -> None:
        with signals:
            while content := signals.recv(1):
                if self.received and content[0] == signal.SIGINT:
                    os._exit(130)
                if not self.received and content[0] in _SIGNALS:
                    self.received = content[0]
                    if not self.deferred:
                        self._console.warn(str(self.error("all finished steps are saved")))
                        os._exit(128 + self.received)

    def error(self, progress: str) -> Interrupted:
        """Returns the error to raise when a run stops, for SIGTERM if another worker got it."""
        number = self.received or signal.SIGTERM
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        whose = "" if self.received else " to another worker"
        return Interrupted(f"stopped by {name}{whose}: {progress}", number)


@contextlib.contextmanager
def stall_guard(timeout_s: float) -> Iterator[None]:
    """Exits with 1, all stacks on standard error, if the block takes longer, native or not."""
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
