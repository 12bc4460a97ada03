"""The rendezvous of the workers, before TensorFlow connects them.

The constructor of `MultiWorkerMirroredStrategy` waits with Python's global lock held, cannot be
interrupted, and compares nothing. So every worker first asks the chief, twice a second, whether all
are there. It connects to the address that the chief's gRPC server takes afterwards, sends
`{"worker": 1, "fingerprint": {...}}` and gets `{"missing": [2]}`, where nobody missing means go, or
`{"error": "...", "exit_code": 2}`, each a line of JSON.
"""

from __future__ import annotations

import collections
import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.cluster.environment import Cluster
from trainer.errors import ClusterError, TrainerError, UsageError

_INTERVAL_S = 0.5
_PRESENT_S = 3.0  # a worker that has not asked for so long is not there
_ANSWER_S = 5.0  # the chief answers strangers and workers one after the other
_LINE_LIMIT = 1 << 16  # bytes; a fingerprint has a few hundred
_NOT_A_PEER = (OSError, ValueError, LookupError, TypeError, RecursionError)


class RunFinishedError(Exception):
    """The run was finished by others while this worker waited for them."""


def meet(
    cluster: Cluster,
    fingerprint: Mapping[str, str],
    *,
    timeout_s: float,
    finished: Callable[[], bool],
) -> None:
    """Waits until all workers are there, with equal fingerprints, and leaves the port free.

    A worker that dies meanwhile, the chief too, may come again.

    Args:
      cluster: the workers, this one among them; alone it has nobody to wait for.
      fingerprint: what has to be equal on all workers, by the name that a message calls it.
      timeout_s: how long to wait.
      finished: whether others have finished the run; asked while waiting.

    Raises:
      ClusterError: a worker did not come in time, or this worker's port is taken.
      UsageError: the fingerprints differ; raised on every worker.
      RunFinishedError: `finished` returned true.
    """
    if len(cluster.workers) == 1:
        return
    deadline = time.monotonic() + timeout_s

    def wait(missing: Callable[[], Sequence[int]]) -> None:
        while absent := missing():
            if finished():
                raise RunFinishedError
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster did not form: {', '.join(map(cluster.name, absent))} did not come"
                    f" within {timeout_s:g} s; start all workers again"
                )

    with _listen(cluster) as listener:
        if cluster.is_chief:
            chief = _Chief(cluster, listener)
            try:
                wait(chief.missing)
                differing = differences(cluster, chief.fingerprints | {0: fingerprint})
                if differing:
                    raise UsageError(f"{differing}; start all workers with the same flags and data")
                chief.conclude({"missing": []})
            except TrainerError as error:
                chief.conclude({"error": str(error), "exit_code": error.exit_code})
                raise
    if not cluster.is_chief:  # it listened only to see that its port is free
        wait(lambda: _ask(cluster, fingerprint))


def differences(cluster: Cluster, fingerprints: Mapping[int, Mapping[str, str]]) -> str:
    """Returns how fingerprints, by worker, differ; empty if they are equal.

    It names the workers with the rarer value: `--seed is 2 on worker 1 (host:port), 1 elsewhere`.
    """
    found = []
    for name in sorted({name for each in fingerprints.values() for name in each}):
        workers = collections.defaultdict(list)
        for index, each in sorted(fingerprints.items()):
            workers[each.get(name, "missing")[:40]].append(cluster.name(index))
        common = max(workers, key=lambda value: len(workers[value]))
        rare = [f"{value} on {', '.join(workers[value])}" for value in workers if value != common]
        if rare:
            found.append(f"{name} is {', '.join(rare)}, {common} elsewhere")
    return "; ".join(found)


def _listen(cluster: Cluster) -> socket.socket:
    port = int(cluster.workers[cluster.index].rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise ClusterError(
            f"{cluster.name(cluster.index)} cannot listen on its port: {error.strerror}; wait until"
            " the process that has it ends, or give another port"
        ) from None


def _ask(cluster: Cluster, fingerprint: Mapping[str, str]) -> Sequence[int]:
    """Returns who is missing: the chief, or whom it waits for; nobody if all may go on."""
    host, _, port = cluster.workers[0].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S) as connection:
            _send(connection, {"worker": cluster.index, "fingerprint": dict(fingerprint)})
            answer = _receive(connection, _ANSWER_S)
        if "error" in answer:
            kind = UsageError if answer["exit_code"] == UsageError.exit_code else ClusterError
            raise kind(answer["error"])
        missing = [int(index) for index in answer["missing"] if cluster.workers[index]]
    except _NOT_A_PEER:
        missing = [0]
    if missing:
        time.sleep(_INTERVAL_S)
    return missing


class _Chief:
    """Answers the other workers one by one, and keeps when each asked, with which fingerprint."""

    def __init__(self, cluster: Cluster, listener: socket.socket):
        self.fingerprints: dict[int, Mapping[str, str]] = {}
        self._asked: dict[int, float] = {}
        self._others = range(1, len(cluster.workers))
        self._listener = listener
        listener.settimeout(_INTERVAL_S)

    def _absent(self) -> set[int]:
        since = time.monotonic() - _PRESENT_S
        return {index for index in self._others if self._asked.get(index, -1.0) < since}

    def missing(self) -> Sequence[int]:
        """Answers workers for a while; returns those that have not asked lately."""
        end = time.monotonic() + _INTERVAL_S
        while time.monotonic() < end and (absent := self._absent()):
            self._answer({"missing": sorted(absent)})
        return sorted(self._absent())

    def conclude(self, answer: Mapping[str, object]) -> None:
        """Returns once all workers that are there have got this answer."""
        waiting, end = set(self._others) - self._absent(), time.monotonic() + _PRESENT_S
        while waiting and time.monotonic() < end:
            waiting.discard(self._answer(answer))

    def _answer(self, answer: Mapping[str, object]) -> int | None:
        """Answers the next worker and returns its index; None for nobody, and for strangers."""
        with contextlib.suppress(*_NOT_A_PEER), self._listener.accept()[0] as connection:
            greeting = _receive(connection, _INTERVAL_S)
            index, fingerprint = greeting["worker"], greeting["fingerprint"]
            if index in self._others:
                self.fingerprints[index] = {
                    str(name): str(fingerprint[name]) for name in fingerprint
                }
                self._asked[index] = time.monotonic()
                _send(connection, answer)
                return index
        return None


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, timeout_s: float) -> Any:
    """Returns the message that arrives within a time; raises one of `_NOT_A_PEER` if none does."""
    received, deadline = b"", time.monotonic() + timeout_s
    while not received.endswith(b"\n"):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        received += (part := connection.recv(_LINE_LIMIT))
        if not part or len(received) > _LINE_LIMIT or time.monotonic() > deadline:
            raise ValueError("not a message")
    return json.loads(received)
