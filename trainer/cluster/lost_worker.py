"""Which worker was lost, read from what TensorFlow's coordination service raises."""

import re
import time

from trainer.cluster.environment import Cluster
from trainer.errors import ClusterError
from trainer.process.startup import import_tensorflow

_TASK = re.compile(r"/job:worker/replica:0/task:(\d+)(?![\d/])")  # not a device of a task
_LINGER_S = 10.0  # until the lost worker's heartbeats have run out: all hear of it, not of this one


def lost_worker(error: Exception, cluster: Cluster) -> ClusterError | None:
    """Returns what to raise for a worker that died, froze or was cut off, None for other errors.

    The first task that TensorFlow's text names is the lost one, as others quote their neighbour's
    error first; or those behind "timed out task names". A chief that froze or was cut off is not
    named: only it serves the calls of the coordination service that time out then.
    """
    errors = import_tensorflow().errors
    kinds: tuple[type, ...] = errors.UnavailableError, errors.DeadlineExceededError
    kinds += (errors.AbortedError, errors.CancelledError)
    if len(cluster.workers) == 1 or not isinstance(error, kinds):
        return None
    text = error.message  # type: ignore[attr-defined]
    late = text.partition("timed out task names")[2].partition("Additional GRPC")[0]
    # Who quotes a neighbour's heartbeat that timed out names the neighbour behind it.
    first = _TASK.findall(text.partition("CoordinationService/Heartbeat")[0])[:1]
    lost = sorted(set(map(int, _TASK.findall(late) or first)))
    if not lost and "CoordinationService" in text:
        lost = [0]
    if len(cluster.workers) > 2:
        time.sleep(_LINGER_S)
    return ClusterError(
        f"{', '.join(map(cluster.name, lost)) or 'another worker'} was lost; progress is in the"
        " last checkpoint, and starting all workers again goes on from it"
    )
