"""The rendezvous of the workers, before TensorFlow connects them.

The constructor of `MultiWorkerMirroredStrategy` waits with Python's global lock held, cannot be
interrupted, and compares nothing. So every worker first asks the chief, twice a second, whether all
are there. It connects to the address that the chief's gRPC server takes afterwards, sends
`{"worker": 1, "fingerprint": {...}}` and gets `{"missing": [2]}`, where nobody missing means go, or
`{"error": "...", "exit_code": 2}`, each a line of JSON.
"""

from __future__ import annotations

import collections
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from trainer.cluster.environment import Cluster
from trainer.errors import ClusterError, TrainerError, UsageError

_INTERVAL_S = 0.5
_PRESENT_S = 3.0  # a worker that has not asked for so long is not there
_TIMEOUT_S = 5.0  # to connect and answer
_LINE_LIMIT = 1 << 16  # bytes; a fingerprint has a few hundred


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
    try:
        listener = _listen(cluster)
    except OSError as error:
        raise ClusterError(
            f"{cluster.name(cluster.index)} cannot listen on its port: {error.strerror}; wait until"
            " the process that has it ends, or give another port"
        ) from None

    def wait(missing: Callable[[], Sequence[int]]) -> None:
        while absent := missing():
            if finished():
                raise RunFinishedError
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster did not form: {', '.join(map(cluster.name, absent))} did not come"
                    f" within {timeout_s:g} s; start all workers again"
                )
            time.sleep(_INTERVAL_S)

    if not cluster.is_chief:
        listener.close()  # it was only to see that the port is free
        wait(lambda: _ask(cluster, fingerprint))
        return
    with _Chief(cluster, listener) as chief:
        try:
            wait(chief.missing)
            differing = differences(cluster, chief.fingerprints | {0: fingerprint})
            if differing:
                raise UsageError(f"{differing}; start all workers with the same flags and data")
        except TrainerError as error:
            chief.conclude({"error": str(error), "exit_code": error.exit_code})
            raise
        chief.conclude({"missing": []})


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
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _ask(cluster: Cluster, fingerprint: Mapping[str, str]) -> Sequence[int]:
    """Returns who is missing: the chief, or whom it waits for; nobody if all may go on."""
    host, _, port = cluster.workers[0].rpartition(":")
    line = json.dumps({"worker": cluster.index, "fingerprint": dict(fingerprint)})
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S) as connection:
            connection.sendall(line.encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline(_LINE_LIMIT))
        if "error" in answer:
            kind = UsageError if answer["exit_code"] == UsageError.exit_code else ClusterError
            raise kind(answer["error"])
        return [int(index) for index in answer["missing"] if cluster.workers[index]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return [0]


class _Chief(socketserver.ThreadingTCPServer):
    """Answers the other workers' lines; what is no worker's line gets no answer."""

    daemon_threads, block_on_close = True, False

    def __init__(self, cluster: Cluster, listener: socket.socket):
        super().__init__(listener.getsockname()[:2], _Connection, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.others = range(1, len(cluster.workers))
        self.fingerprints: dict[int, Mapping[str, str]] = {}  # of each worker that ever asked
        self.asked: dict[int, float] = {}  # when, by worker
        self.answer: Mapping[str, object] = {"missing": list(self.others)}
        self.answered: dict[int, Mapping[str, object]] = {}
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        super().__exit__(*exception)

    def handle_error(self, *_: object) -> None:
        """Ignores a connection that broke, or was no worker's."""

    def present(self) -> set[int]:
        """Returns the workers that asked lately."""
        since = time.monotonic() - _PRESENT_S
        return {index for index, asked in list(self.asked.items()) if asked > since}

    def missing(self) -> Sequence[int]:
        """Returns the workers that did not."""
        missing = sorted(set(self.others) - self.present())
        if missing:
            self.answer = {"missing": missing}
        return missing

    def conclude(self, answer: Mapping[str, object]) -> None:
        """Returns once all workers that are present have got this answer."""
        self.answer = answer
        while any(self.answered.get(index) is not answer for index in self.present()):
            time.sleep(_INTERVAL_S / 10)


class _Connection(socketserver.StreamRequestHandler):
    timeout = _TIMEOUT_S

    def handle(self) -> None:
        chief, greeting = self.server, json.loads(self.rfile.readline(_LINE_LIMIT))
        index, fingerprint = greeting["worker"], greeting["fingerprint"]
        if index in chief.others:
            chief.fingerprints[index] = {str(name): str(fingerprint[name]) for name in fingerprint}
            chief.asked[index], answer = time.monotonic(), chief.answer
            self.wfile.write(json.dumps(answer).encode() + b"\n")
            chief.answered[index] = answer
