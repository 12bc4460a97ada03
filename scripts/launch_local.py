#!/usr/bin/env python3
"""Starts the workers of a run on this machine, as a cluster would: to try it out, and for tests.

  scripts/launch_local.py --workers 3 -- --epochs 2 --model_dir runs/three
  scripts/launch_local.py --workers 2 --restart -- --model_dir runs/two   (starts again who died)

Everything after -- goes to trainer.task. The lines of worker i begin with [i].
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import BinaryIO

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from trainer.errors import RETRYABLE_FROM

# After this many starts of one worker something is wrong that another start does not mend.
MAX_STARTS = 100
# What a worker gets to save its progress before it is killed.
GRACE_S = 30.0


def main(argv: Sequence[str]) -> int:
    """Runs the workers to their end; returns 0 if all finished, else the first failure's code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="how many to start (default 2)")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start a worker again that left with a code a job controller retries",
    )
    parser.add_argument("flags", nargs="*", help="flags of trainer.task, after --")
    options = parser.parse_args(argv)
    if not 1 <= options.workers <= 64:
        parser.error("--workers must be from 1 to 64")
    return Launcher(options.workers, options.flags, restart=options.restart).run()


class Launcher:
    """Starts workers, passes their lines on, starts again who may be, and ends them all."""

    def __init__(self, workers: int, flags: Sequence[str], *, restart: bool):
        self._addresses = free_addresses(workers)
        self._flags, self._restart = list(flags), restart
        self._running: dict[int, subprocess.Popen] = {}
        self._starts = [0] * workers
        self._readers: list[threading.Thread] = []
        self._asked: int | None = None
        self._ending = False

    def run(self) -> int:
        """Returns the exit code of the whole."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)
        for index in range(len(self._addresses)):
            self._start(index)
        failure = 0
        while self._running:
            time.sleep(0.05)
            for index, process in list(self._running.items()):
                code = process.poll()
                if code is None:
                    continue
                del self._running[index]
                code = 128 - code if code < 0 else code  # ended by a signal, as shells have it
                retryable = code >= RETRYABLE_FROM
                if self._restart and retryable and self._may_start(index):
                    self._say(index, f"left with {code}, starting it again\n")
                    self._start(index)
                elif code and not failure:
                    failure = code
                    if self._restart or not retryable:  # the others cannot end well any more
                        self._end_all()
        for reader in self._readers:
            reader.join()
        return 128 + self._asked if self._asked is not None and failure else failure

    def _may_start(self, index: int) -> bool:
        return self._asked is None and not self._ending and self._starts[index] < MAX_STARTS

    def _start(self, index: int) -> None:
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": self._addresses}, "task": task}
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.task", *self._flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(cluster),
                "PYTHONPATH": os.pathsep.join(
                    filter(None, (sys.path[0], os.environ.get("PYTHONPATH")))
                ),
            },
            start_new_session=True,  # a Ctrl-C comes through here, in order
        )
        self._running[index] = process
        self._starts[index] += 1
        if self._asked is not None:  # meanwhile
            process.send_signal(self._asked)
        reader = threading.Thread(target=self._pass_on, args=(index, process.stdout), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _pass_on(self, index: int, stream: BinaryIO) -> None:
        for line in stream:
            self._say(index, line.decode(errors="replace"))

    def _say(self, index: int, line: str) -> None:
        # A reader that has left stops no worker: what they write is still taken from them.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(f"[{index}] {line}")
            sys.stdout.flush()

    def _ask(self, number: int, frame: object) -> None:
        second, self._asked = self._asked is not None, number
        for process in self._running.values():
            process.send_signal(signal.SIGKILL if second else number)

    def _end_all(self) -> None:
        """Ends the workers that are left: they are asked first, and killed after their grace."""
        self._ending = True
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def free_addresses(count: int) -> list[str]:
    """Returns that many different loopback addresses whose ports are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
