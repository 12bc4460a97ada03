#!/usr/bin/env python3
"""Starts the workers of a run on this machine, as a cluster would.

  scripts/launch_local.py --workers 3 -- --epochs 2 --model_dir runs/three
  scripts/launch_local.py --workers 2 --restart -- --model_dir runs/two

What follows -- are flags of trainer.task. The lines of worker i begin with [i].
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from trainer.errors import RETRYABLE_FROM

_VENV = os.path.join(sys.path[0], ".venv", "bin", "python")  # need not be activated
PYTHON = _VENV if os.path.exists(_VENV) else sys.executable
MAX_STARTS = 100  # of one worker
GRACE_S = 30.0  # from SIGTERM to SIGKILL, to save progress


def main(argv: Sequence[str]) -> int:
    """Runs the workers to their end; returns 0 if all finished, else the first failure's code."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--restart", action="store_true", help="those that may be retried")
    parser.add_argument("--pin", action="store_true", help="each worker to a core (Linux)")
    parser.add_argument("flags", nargs="*", help="flags of trainer.task, after --")
    options = parser.parse_args(argv)
    if not 1 <= options.workers <= 64:
        parser.error("--workers must be from 1 to 64")
    return asyncio.run(Launcher(options).run())


class Launcher:
    """The workers: passes their lines and signals on, and ends them all after a failure."""

    def __init__(self, options: argparse.Namespace):
        self._options, self._addresses = options, free_addresses(options.workers)
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._signal = 0  # that came to the launcher
        self._failure = 0  # exit code of the first worker that failed for good

    async def run(self) -> int:
        """Returns the exit code of the whole."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._pass_on, number)
        await asyncio.gather(*map(self._keep_running, range(self._options.workers)))
        return 128 + self._signal if self._signal and self._failure else self._failure

    async def _keep_running(self, index: int) -> None:
        for start in range(1, MAX_STARTS + 1):
            code = await self._run_once(index)
            retryable = code >= RETRYABLE_FROM
            again = self._options.restart and retryable and start < MAX_STARTS
            if not again or self._signal or self._failure:
                break
            self._print(index, f"left with {code}, starting it again\n")
        if code and not self._failure:
            self._failure = code
            if self._options.restart or not retryable:  # the others would wait for it
                self._send(signal.SIGTERM)
                asyncio.get_running_loop().call_later(GRACE_S, self._send, signal.SIGKILL)

    async def _run_once(self, index: int) -> int:
        """Runs a worker and returns its exit code; 128 and the signal if one ended it."""
        place = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": self._addresses}, "task": place})
        path = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))
        command = [PYTHON, "-m", "trainer.task", *self._options.flags]
        if self._options.pin:
            cores = sorted(os.sched_getaffinity(0))
            command = ["taskset", "--cpu-list", str(cores[index % len(cores)]), *command]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 24,  # of a line
            env={**os.environ, "TF_CONFIG": config, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C reaches it through the launcher
        )
        self._running[index] = process
        if self._signal or self._failure:  # that came meanwhile
            process.send_signal(self._signal or signal.SIGTERM)
        async for line in process.stdout:
            self._print(index, line.decode(errors="replace"))
        code = await process.wait()
        del self._running[index]
        return 128 - code if code < 0 else code

    def _print(self, index: int, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads: the workers go on
            print(f"[{index}] {line}", end="", flush=True)

    def _pass_on(self, number: int) -> None:
        self._send(signal.SIGKILL if self._signal else number)
        self._signal = number

    def _send(self, number: int) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def free_addresses(count: int) -> list[str]:
    """Returns that many different loopback addresses whose ports are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
