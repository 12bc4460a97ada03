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
_LINGER_S = 1.0


class Agreement:
    """Collectives of all workers: each method is called by all of them, in the same order.

    With one worker they return at once. A lost worker makes them raise what `lost_worker` explains.
    """

    def __init__(self, devices: Devices):
        self._tf = import_tensorflow()
        self._strategy, self._cluster = devices.strategy, devices.cluster
        self._local_replicas = len(devices.local_replicas)
        self._sum = self._tf.function(self._sum_over_replicas, autograph=False)

    def _sum_over_replicas(self, value):
        copies = self._strategy.run(self._tf.identity, (value,))
        return self._strategy.reduce(self._tf.distribute.ReduceOp.SUM, copies, axis=None)

    def _rows(self, row: Sequence[int]) -> np.ndarray:
        """Returns the rows that all workers pass, int64 [workers, n]; all are of one length."""
        rows = np.zeros((len(self._cluster.workers), len(row)), np.int64)
        rows[self._cluster.index] = row
        if len(rows) == 1:
            return rows
        return self._sum(self._tf.constant(rows)).numpy() // self._local_replicas

    def any_worker(self, here: bool) -> bool:
        """Returns whether `here` is true on any worker."""
        return bool(self._rows([int(here)]).any())

    def from_chief(self, value: int) -> int:
        """Returns the chief's value."""
        return int(self._rows([value])[0, 0])

    def compare(self, facts: Mapping[str, str]) -> None:
        """Raises `UsageError` on every worker if their facts differ.

        Args:
          facts: what has to be equal on all workers, by the name that a message calls it.
        """
        text = json.dumps(dict(facts)).encode().ljust(_TEXT_LIMIT)
        texts = [json.loads(bytes(row.tolist())) for row in self._rows(list(text))]
        differing = differences(self._cluster, dict(enumerate(texts)))
        if differing:
            raise UsageError(f"{differing}; give a flag that decides it, or start equal machines")

    def wait_for_chief(self) -> None:
        """Returns once the chief calls this too, having written what others must wait for.

        On the chief it raises nothing: what it waited to do is done, whoever is lost now.
        """
        errors = self._tf.errors.OpError
        with contextlib.suppress(errors) if self._cluster.is_chief else contextlib.nullcontext():
            self._rows([0])
        # The chief may leave once all have got through the first collective, not before: the
        # others fetch its part from it.
        with contextlib.suppress(errors):
            self._rows([0])


def lost_worker(error: Exception, cluster: Cluster) -> ClusterError | None:
    """Returns what to raise for a worker that died, froze or was cut off, None for other errors.

    The first task that TensorFlow's text names is the lost one: where its heartbeats stopped; where
    its connection closed, as a worker that fails because its neighbour failed quotes that one's
    error first; and, behind "timed out task names", where it did not come to the constructor of the
    strategy. The text does not name a chief that froze, or was cut off: calls of the coordination
    service run into a timeout, and the chief alone serves these. If nothing of this is in the text,
    the message says "another worker".

    It tells the coordination service first, and waits a moment: a worker that is between two
    collectives would else find this one gone before it hears of the lost one.
    """
    errors = import_tensorflow().errors
    kinds = (errors.UnavailableError, errors.DeadlineExceededError)
    kinds += (errors.AbortedError, errors.CancelledError)
    if len(cluster.workers) == 1 or not isinstance(error, kinds):
        return None
    text = error.message
    late = text.partition("timed out task names")[2].partition("Additional GRPC")[0]
    lost = sorted(set(map(int, _TASK.findall(late) or _TASK.findall(text)[:1])))
    if not lost and "CoordinationService" in text:
        lost = [0]
    if lost and 0 not in lost:
        _report(lost[0])
    time.sleep(_LINGER_S)
    names = ", ".join(map(cluster.name, lost)) or "another worker"
    if lost == [cluster.index]:
        names += ", this one,"
    return ClusterError(
        f"{names} was lost; progress is in the last checkpoint, and starting all workers again goes"
        " on from it"
    )


def _report(task: int) -> None:
    from tensorflow.python.eager import context

    errors = import_tensorflow().errors
    with contextlib.suppress(errors.OpError, ValueError):  # ValueError: it is not connected yet
        context.context().report_error_to_cluster(
            errors.UNAVAILABLE, f"/job:worker/replica:0/task:{task} was lost"
        )
