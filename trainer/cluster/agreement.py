"""What workers agree on by collectives, once the strategy connects them."""

import contextlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.cluster.devices import Devices
from trainer.cluster.rendezvous import differences
from trainer.errors import UsageError
from trainer.process.startup import import_tensorflow

_TEXT_LIMIT = 4096  # bytes of a worker's facts


class Agreement:
    """Collectives, which all workers call in the same order; `OpError` if one of them is lost."""

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

    def differing(self, facts: Mapping[str, str]) -> str:
        """Returns, on every worker, how `facts`, by name, differ; empty if all have the same."""
        text = json.dumps(dict(facts)).encode().ljust(_TEXT_LIMIT)
        texts = [json.loads(bytes(row.tolist())) for row in self._rows(list(text))]
        return differences(self._devices.cluster, dict(enumerate(texts)))

    def compare(self, facts: Mapping[str, str]) -> None:
        """Raises `UsageError` on every worker if `facts`, by name, are not equal on all."""
        if differing := self.differing(facts):
            raise UsageError(f"{differing}; give a flag that decides it, or start equal machines")

    def wait_for_chief(self) -> None:
        """Returns once the chief, which has no errors here, calls this after its last writing."""
        lost = self._tf.errors.OpError
        is_chief = self._devices.cluster.is_chief
        with contextlib.suppress(lost) if is_chief else contextlib.nullcontext():
            self._rows([0])
        with contextlib.suppress(lost):  # the others fetch the chief's part from it: it stays
            self._rows([0])
