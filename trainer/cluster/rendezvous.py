"""The rendezvous of the workers, before TensorFlow connects them.

The constructor of `MultiWorkerMirroredStrategy` waits with Python's global lock held, cannot be
interrupted, and compares nothing. So every worker first asks at the address of the chief, twice a
second, whether all are there: `{"worker": 1, "fingerprint": {...}}` is answered by
`{"missing": [2]}`, nobody to go on, or `{"error": "...", "exit_code": 2}`, each a line of JSON.
"""

import collections
import contextlib
import json
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from trainer.cluster.environment import Cluster
from trainer.errors import ClusterError, TrainerError, UsageError

_INTERVAL_S = 0.5
_PRESENT_S = 3.0  # a worker that has not asked for so long is not there
_ANSWER_S = 5.0  # the chief answers strangers and workers one after the other
_LINE_LIMIT = 1 << 16  # bytes; a fingerprint has a few hundred
_NOT_A_PEER = (OSError, ValueError, LookupError, TypeError, RecursionError)


def meet(
    cluster: Cluster, fingerprint: Mapping[str, str], timeout_s: float, finished: Callable[[], bool]
) -> None:
    """Waits until all workers are there, or others have finished the run; leaves the port free.

    Raises `ClusterError` if one did not come within `timeout_s` or this one's port is taken, and
    `UsageError`, on every worker, if `fingerprint`, by name, is not equal on all.
    """
    if len(cluster.workers) == 1:
        return
    fingerprint = {**fingerprint, "number of workers": str(len(cluster.workers))}
    deadline = time.monotonic() + timeout_s

    def wait(missing: Callable[[], Sequence[int]]) -> None:
        while (absent := missing()) and not finished():
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster did not form: {', '.join(map(cluster.name, absent))} did not come"
                    f" within {timeout_s:g} s; start all workers again"
                )

    with _listen(cluster) as listener:
        if cluster.is_chief:
            chief = _Chief(cluster, fingerprint, listener)
            try:
                wait(chief.missing)
                if differing := differences(cluster, chief.fingerprints):
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
        values = {i: each.get(name, "missing") for i, each in sorted(fingerprints.items())}
        common = collections.Counter(values.values()).most_common(1)[0][0]
        rare = [f"{v} on {cluster.name(i)}" for i, v in values.items() if v != common]
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
        name = cluster.name(cluster.index)
        raise ClusterError(f"{name} cannot listen: {error.strerror}; free its port") from None


def _ask(cluster: Cluster, fingerprint: Mapping[str, str]) -> Sequence[int]:
    """Returns who is missing: the chief, or whom it waits for; nobody if all may go on."""
    host, _, port = cluster.workers[0].rpartition(":")
    greeting = json.dumps({"worker": cluster.index, "fingerprint": dict(fingerprint)})
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S) as connection:
            connection.sendall(greeting.encode() + b"\n")
            answer = json.loads(_read_line(connection, _ANSWER_S))
        if "error" in answer:
            kind = UsageError if answer["exit_code"] == UsageError.exit_code else ClusterError
            raise kind(answer["error"])
        missing = [int(index) for index in answer["missing"] if cluster.workers[index]]
    except _NOT_A_PEER:
        missing = [0]
    if missing:
        time.sleep(_INTERVAL_S)
    return missing


def _read_line(connection: socket.socket, timeout_s: float) -> bytes:
    """Returns what is sent up to a line's end; raises one of `_NOT_A_PEER` if it takes longer."""
    line, deadline = b"", time.monotonic() + timeout_s
    while not line.endswith(b"\n") and len(line) < _LINE_LIMIT:
        connection.settimeout(deadline - time.monotonic())  # a ValueError once that is negative
        line += connection.recv(_LINE_LIMIT) or b"\n"
    return line


class _Chief:
    """Answers the other workers one by one, and keeps when each asked, with which fingerprint."""

    def __init__(self, cluster: Cluster, fingerprint: Mapping[str, str], listener: socket.socket):
        self.fingerprints = {0: fingerprint}
        self._asked = dict.fromkeys(range(1, len(cluster.workers)), -math.inf)
        self._listener = listener
        listener.settimeout(_INTERVAL_S)

    def _absent(self) -> list[int]:
        since = time.monotonic() - _PRESENT_S
        return [index for index, asked in self._asked.items() if asked < since]

    def missing(self) -> list[int]:
        """Answers the next worker; returns those that have not asked lately."""
        self._answer({"missing": self._absent()})
        return self._absent()

    def conclude(self, answer: Mapping[str, object]) -> None:
        """Returns once all workers that are there have got this answer."""
        waiting, end = set(self._asked) - set(self._absent()), time.monotonic() + _PRESENT_S
        while waiting and time.monotonic() < end:
            waiting.discard(self._answer(answer))

    def _answer(self, answer: Mapping[str, object]) -> int | None:
        """Answers the next worker and returns its index; None for nobody, and for strangers."""
        with contextlib.suppress(*_NOT_A_PEER), self._listener.accept()[0] as connection:
            greeting = json.loads(_read_line(connection, _INTERVAL_S))
            index, fingerprint = greeting["worker"], greeting["fingerprint"]
            if index in self._asked:
                self.fingerprints[index] = {name: str(fingerprint[name]) for name in fingerprint}
                self._asked[index] = time.monotonic()
                connection.sendall(json.dumps(answer).encode() + b"\n")
                return index
        return None
