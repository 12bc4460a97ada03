"""What workers agree on by collectives while they train, and which of them was lost."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.cluster.devices import Devices
from trainer.cluster.environment import Cluster
from trainer.cluster.rendezvous import differences
from trainer.errors import ClusterError, UsageError
from trainer.process.startup import import_tensorflow

_TEXT_LIMIT = 4096  # bytes of a worker's facts
_TASK = re.compile(r"/job:worker/replica:0/task:(\d+)(?![\d/])")  # not a device of a task
_LINGER_S = 10.0  # until the lost worker's heartbeats have run out: all hear of it, not of this one


class Agreement:
    """Collectives of all workers: each method is called by all of them, in the same order.

    With one worker they return at once. A lost worker makes them raise what `lost_worker` explains.
    """

    def __init__(self, devices: Devices):
        self._tf, self._devices = import_tensorflow(), devices
        self._sum = self._tf.function(self._sum_over_replicas, autograph=False)

    def _sum_over_replicas(self, value):
        strategy = self._devices.strategy
        copies = strategy.run(self._tf.identity, (value,))
        return strategy.reduce(self._tf.distribute.ReduceOp.SUM, copies, axis=None)

    def _rows(self, row: Sequence[int]) -> np.ndarray:
        """Returns the rows that all workers pass, int64 [workers, n]; all are of one length."""
        cluster = self._devices.cluster
        rows = np.zeros((len(cluster.workers), len(row)), np.int64)
        rows[cluster.index] = row
        if len(rows) == 1:
            return rows
        return self._sum(self._tf.constant(rows)).numpy() // len(self._devices.local_replicas)

    def any_worker(self, here: bool) -> bool:
        """Returns whether `here` is true on any worker."""
        return bool(self._rows([int(here)]).any())

    def from_chief(self, value: int) -> int:
        """Returns the chief's value."""
        return int(self._rows([value])[0, 0])

    def compare(self, facts: Mapping[str, str]) -> None:
        """Raises `UsageError` on every worker if `facts`, by name, are not equal on all."""
        text = json.dumps(dict(facts)).encode().ljust(_TEXT_LIMIT)
        texts = [json.loads(bytes(row.tolist())) for row in self._rows(list(text))]
        if differing := differences(self._devices.cluster, dict(enumerate(texts))):
            raise UsageError(f"{differing}; give a flag that decides it, or start equal machines")

    def wait_for_chief(self) -> None:
        """Returns once the chief, which has no errors here, calls this after its last writing."""
        lost = self._tf.errors.OpError
        is_chief = self._devices.cluster.is_chief
        with contextlib.suppress(lost) if is_chief else contextlib.nullcontext():
            self._rows([0])
        with contextlib.suppress(lost):  # the others fetch the chief's part from it: it stays
            self._rows([0])


def lost_worker(error: Exception, cluster: Cluster) -> ClusterError | None:
    """Returns what to raise for a worker that died, froze or was cut off, None for other errors.

    The first task that TensorFlow's text names is the lost one: one whose heartbeats stopped or
    whose connection closed, as others quote their neighbour's error first; behind "timed out task
    names", one that did not come to the constructor of the strategy. A chief that froze or was cut
    off is not named: only it serves the calls of the coordination service that time out then.
    """
    errors = import_tensorflow().errors
    kinds: tuple[type, ...] = errors.UnavailableError, errors.DeadlineExceededError
    kinds += (errors.AbortedError, errors.CancelledError)
    if len(cluster.workers) == 1 or not isinstance(error, kinds):
        return None
    text = error.message
    late = text.partition("timed out task names")[2].partition("Additional GRPC")[0]
    lost = sorted(set(map(int, _TASK.findall(late) or _TASK.findall(text)[:1])))
    if not lost and "CoordinationService" in text:
        lost = [0]
    if len(cluster.workers) > 2:
        time.sleep(_LINGER_S)
    return ClusterError(
        f"{', '.join(map(cluster.name, lost)) or 'another worker'} was lost; progress is in the"
        " last checkpoint, and starting all workers again goes on from it"
    )
