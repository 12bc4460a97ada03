"""Checkpoints: all that training changes, so that a resumed run ends as an unbroken one would."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import tensorflow as tf

from trainer import storage


@dataclasses.dataclass
class Progress:
    """How far a run has come: what is not a tensor.

    Attributes:
      step: training steps done.
      train_seconds: time spent in the training loop.
      steady_examples, steady_seconds: examples and time after the first call of the loop, which
        includes compilation.
      epoch_loss, epoch_right: sums over the steps of the epoch that is under way: mean loss, share
        of right answers.
      history: a row for each finished epoch, as in `history.csv`.
    """

    step: int = 0
    train_seconds: float = 0.0
    steady_examples: int = 0
    steady_seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_right: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class _Saved(tf.train.experimental.PythonState):
    """Carries a `Progress` in a checkpoint, as JSON."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def serialize(self) -> str:
        return json.dumps(dataclasses.asdict(self.progress))

    def deserialize(self, string_value: bytes) -> None:
        self.progress = Progress(**json.loads(string_value))


class Checkpoints:
    """The checkpoints of a run, in the layout of `tf.train.CheckpointManager`.

    Args:
      directory: where they live.
      items: what to save, by name (`Trainer.checkpoint_items`).
      keep: how many of the newest to keep.
    """

    def __init__(self, directory: str, items: dict[str, object], keep: int):
        self._directory = directory
        self._saved = _Saved(Progress())
        self._checkpoint = tf.train.Checkpoint(progress=self._saved, **items)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, directory, max_to_keep=keep, checkpoint_name="step"
        )

    def restore(self) -> tuple[Progress | None, list[str]]:
        """Restores the newest checkpoint that is whole.

        Returns:
          The progress of the restored checkpoint, None if there is none, and the paths of damaged
          ones it passed over (TensorFlow keeps a CRC32C of every tensor).
        """
        damaged = []
        for step in self._steps():
            path = storage.join(self._directory, f"step-{step}")
            try:
                self._checkpoint.restore(path).assert_existing_objects_matched()
            except (tf.errors.OpError, AssertionError, ValueError, TypeError) as error:
                damaged.append(f"{path} ({str(error).splitlines()[0][:120]})")
                continue
            return self._saved.progress, damaged
        return None, damaged

    def _steps(self) -> list[int]:
        """The steps of the checkpoints, newest first; the manager's own list may be damaged."""
        names = (re.fullmatch(r"step-(\d+)\.index", n) for n in storage.names_in(self._directory))
        return sorted((int(match[1]) for match in names if match), reverse=True)

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint of this moment and drops the oldest beyond the number to keep."""
        self._saved.progress = progress
        self._manager.save(checkpoint_number=progress.step)
