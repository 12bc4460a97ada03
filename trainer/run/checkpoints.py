"""Checkpoints: all that training changes, so that a resumed run ends as an unbroken one would."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from trainer.errors import ClusterError, UsageError
from trainer.plan import Plan
from trainer.process.console import Console
from trainer.run import directory as run_directory
from trainer.run import files


@dataclasses.dataclass
class Progress:
    """How far a run has come: what is not a tensor.

    Attributes:
      step: training steps done.
      train_seconds: time spent in the training loop.
      steady_examples, steady_seconds: examples and time after the first call of the loop, which
        includes compilation.
      epoch_loss, epoch_correct: sums over the steps of the epoch under way: mean loss, accuracy.
      history: a row for each finished epoch, as in `history.csv`.
    """

    step: int = 0
    train_seconds: float = 0.0
    steady_examples: int = 0
    steady_seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_correct: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def examples_per_second(self) -> int | None:
        """The rate of the steady state; None if no call of the loop followed the first."""
        return round(self.steady_examples / self.steady_seconds) if self.steady_seconds else None


class _Saved(tf.train.experimental.PythonState):
    """Carries a `Progress` in a checkpoint, as JSON."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def serialize(self) -> str:
        return json.dumps(dataclasses.asdict(self.progress))

    def deserialize(self, string_value: bytes) -> None:
        self.progress = Progress(**json.loads(string_value))


# What TensorFlow raises for files that are cut, altered or of another model.
_DAMAGE = (tf.errors.OpError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)

# The files of a checkpoint. The index comes last: whoever sees it finds all of it.
_PARTS = (".data-00000-of-00001", ".index")
_PART = re.compile(
    rf"{re.escape(run_directory.CHECKPOINT_PREFIX)}(\d+)({'|'.join(map(re.escape, _PARTS))})"
)


class Checkpoints:
    """The checkpoints of a run, in the layout of `tf.train.CheckpointManager`.

    They are written by a thread, from copies, while training goes on.

    Args:
      directory: of the run; they live in `checkpoints/` there.
      items: the variables to save, by name (`Trainer.checkpoint_items`).
      keep: how many of the newest to keep.
      is_chief: whether this process writes them; `save` does nothing elsewhere.
    """

    def __init__(
        self,
        directory: str,
        items: dict[str, list[tf.Variable]],
        *,
        keep: int,
        is_chief: bool = True,
    ):
        self._run, self._is_chief = directory, is_chief
        self._directory = files.join(directory, run_directory.CHECKPOINTS)
        self._restored = _Saved(Progress())
        self._checkpoint = tf.train.Checkpoint(progress=self._restored, **items)
        self._variables = tf.nest.flatten(items)
        with tf.device("/CPU:0"):
            copies = tf.nest.map_structure(lambda item: tf.Variable(item, trainable=False), items)
        self._copies = tf.nest.flatten(copies)
        self._saved = _Saved(Progress())
        self._copied = tf.train.Checkpoint(progress=self._saved, **copies)
        self._keep = keep
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future | None = None

    def restore(
        self, from_chief: Callable[[int], int] = lambda step: step
    ) -> tuple[Progress | None, list[str]]:
        """Restores the newest checkpoint that is whole, the same on every worker.

        Args:
          from_chief: returns, on every worker, what the chief passes.

        Returns:
          The progress of the restored checkpoint, None if there is none, and the damaged ones it
          passed over, each with what is wrong (TensorFlow keeps a CRC32C of every tensor).

        Raises:
          ClusterError: this worker cannot read what the chief restored.
        """
        damaged, restored = [], -1
        for step in run_directory.checkpoint_steps(self._run):
            problem = self._read(step)
            if problem is None:
                restored = step
                break
            damaged.append(problem)
        agreed = from_chief(restored)
        if agreed < 0:
            return None, damaged
        if agreed != restored:
            problem = self._read(agreed)
            if problem is not None:
                raise ClusterError(
                    f"the chief resumes from a checkpoint this worker cannot read: {problem}"
                )
        return self._restored.progress, damaged

    def _path(self, step: int) -> str:
        return files.join(self._directory, f"{run_directory.CHECKPOINT_PREFIX}{step}")

    def _read(self, step: int) -> str | None:
        """Restores the checkpoint of a step; returns None, or what is wrong with it."""
        path = self._path(step)
        try:
            self._checkpoint.read(path).assert_existing_objects_matched()
        except _DAMAGE as error:
            return f"{path} ({str(error).splitlines()[0][:120]})"
        return None

    def save(self, progress: Progress) -> None:
        """Begins to write a checkpoint of this moment, once the one before is there.

        The oldest beyond the number to keep is dropped. What may go wrong is raised by the next
        call, or by `wait`.
        """
        if not self._is_chief:
            return
        self.wait()
        for own, variable in zip(self._copies, self._variables, strict=True):
            own.assign(variable)
        self._saved.progress = copy.deepcopy(progress)
        self._writing = self._writer.submit(self._write, progress.step)

    def wait(self) -> None:
        """Returns once the checkpoint that was begun is there.

        Raises:
          OSError, tf.errors.OpError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write(self, step: int) -> None:
        path = self._path(step)
        files.make_directory(self._directory)
        # TensorFlow makes the index under its own name, where a kill would leave half of it.
        with files.replacing(path, _PARTS) as temporary:
            self._copied.write(temporary)
        self.tidy(step)

    def tidy(self, step: int) -> None:
        """Drops those beyond the number to keep, the newest being of `step`, and lists the rest.

        Done after each save, and at the end of a run: a process may have died between the two.
        """
        steps = run_directory.checkpoint_steps(self._run)
        # Those of later steps are damaged: training went on from an earlier one.
        kept = [other for other in steps if other <= step][: self._keep]
        self._list(kept)
        names = [
            name
            for name in files.names_in(self._directory)
            if (match := _PART.fullmatch(name)) and int(match[1]) not in kept
        ]
        # An index first, so that it never lacks its data. Data without one was left by a process
        # that died between the two.
        for name in sorted(names, key=lambda name: not name.endswith(".index")):
            with contextlib.suppress(FileNotFoundError, tf.errors.NotFoundError):
                files.remove(files.join(self._directory, name))

    def _list(self, steps: list[int]) -> None:
        """Writes the list by which TensorFlow's own tools find the newest (CheckpointState, text).

        The names are relative, so that the directory can be moved.
        """
        names = [f"{run_directory.CHECKPOINT_PREFIX}{step}" for step in reversed(steps)]
        lines = [f'model_checkpoint_path: "{names[-1]}"']
        lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
        # A manager drops names without a time; only the order of the names counts.
        lines += [f"all_model_checkpoint_timestamps: {time.time()}" for _ in names]
        files.write_text(files.join(self._directory, "checkpoint"), "\n".join(lines) + "\n")


def last_is_readable(directory: str) -> bool:
    """Returns whether every tensor of a run's newest checkpoint can be read (CRC32C included).

    Args:
      directory: of the run.
    """
    newest = run_directory.checkpoint_steps(directory)[0]
    name = f"{run_directory.CHECKPOINT_PREFIX}{newest}"
    try:
        reader = tf.train.load_checkpoint(files.join(directory, run_directory.CHECKPOINTS, name))
        for variable in reader.get_variable_to_shape_map():
            reader.get_tensor(variable)
    except _DAMAGE:
        return False
    return True


def resume(
    checkpoints: Checkpoints, plan: Plan, from_chief: Callable[[int], int], console: Console
) -> tuple[Progress, int | None]:
    """Returns how far a run has come, and the step it is resumed from (None: it begins).

    Raises:
      UsageError: it has come further than `--epochs`, or `--resume=must` finds nothing sound.
    """
    config = plan.config
    progress, damaged = checkpoints.restore(from_chief)
    for problem in damaged:
        console.warn(f"warning: damaged checkpoint passed over: {problem}")
    if progress is None and config.resume == "must" and damaged:
        raise UsageError(
            f"--resume=must, but none of the {len(damaged)} checkpoints in {config.model_dir}"
            " can be read; restore one, or let --resume=auto begin again"
        )
    if progress is None:
        return Progress(), None
    if progress.step > plan.total_steps:
        raise UsageError(
            f"{config.model_dir} is at step {progress.step:,} already, past the"
            f" {plan.total_steps:,} of --epochs={config.epochs}; ask for more epochs"
        )
    return progress, progress.step
