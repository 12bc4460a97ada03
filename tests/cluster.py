"""What the tests of several workers share: addresses, and clusters of real `trainer.task`s."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import runs

# For what is promised to happen, but not when. A worker takes 5 s of a core to import TensorFlow,
# and the machine may be busy with other things.
PATIENCE_S = 300.0


def free_addresses(count: int) -> list[str]:
    """Returns that many different addresses whose ports are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Returns once `holds()`; fails the test if that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s until {what}"
        time.sleep(0.02)


@dataclasses.dataclass(frozen=True)
class Left:
    """How a worker left."""

    out: str
    err: str
    code: int


class Workers:
    """The workers of a cluster as processes of `trainer.task`, or another `program` of Python's.

    All get `args`; those in `start` are started at once, those left at the end of a `with` killed.
    """

    def __init__(
        self,
        count: int,
        *args: str,
        start: tuple[int, ...] | None = None,
        program: tuple[str, ...] = ("-m", "trainer.task"),
    ):
        self.addresses = free_addresses(count)
        self.command = [sys.executable, *program, *args]
        self.running: dict[int, subprocess.Popen] = {}
        for index in range(count) if start is None else start:
            self.start(index)

    def start(
        self, index: int, *more: str, within: tuple[str, ...] = (), cwd: pathlib.Path = runs.ROOT
    ) -> None:
        """Starts a worker, `more` being arguments of its own, perhaps within another command."""
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": self.addresses}, "task": task})
        self.running[index] = subprocess.Popen(
            [*within, *self.command, *more],
            cwd=cwd,
            env=runs.environment(PYTHONPATH=str(cwd), TF_CONFIG=cluster),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()

    def send(self, index: int, number: int) -> None:
        """Sends a worker a signal."""
        self.running[index].send_signal(number)

    def left(self, *indices: int, within_s: float = PATIENCE_S) -> dict[int, Left]:
        """Waits until these workers (by default all) have left, and returns how they did.

        What they write has to fit into a pipe until then, 64 KiB.
        """
        found, started = {}, time.monotonic()
        for index in indices or tuple(self.running):
            process = self.running[index]
            process.wait(max(0.0, started + within_s - time.monotonic()))
            found[index] = Left(*process.communicate(), process.returncode)
            del self.running[index]
        return found


def steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints of a run, newest first."""
    from trainer.run.directory import checkpoint_steps

    return checkpoint_steps(str(directory))


def temporary_files(directory: pathlib.Path) -> list[str]:
    """Returns what is left in a run's directory of files that never got their final name."""
    marks = (".partial-", ".tmp", "temp", ".tempstate")
    return [str(p) for p in directory.rglob("*") if any(mark in p.name for mark in marks)]
