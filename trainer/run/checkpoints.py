"""Checkpoints: all that training changes, so that on equal hardware a run resumes exactly."""

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from trainer.config import Scope
from trainer.errors import ClusterError, UsageError
from trainer.plan import Plan
from trainer.process.console import Console
from trainer.run import directory, files, identity

# What TensorFlow raises for files that are cut, altered or of another model.
_DAMAGE = (tf.errors.OpError, AssertionError, LookupError, OSError, RuntimeError, TypeError)
_DAMAGE += (ValueError,)
# The files of a checkpoint. The index comes last: whoever sees it finds all of it.
_ENDINGS = (".data-00000-of-00001", ".index")
_FILE = re.compile(rf"{directory.CHECKPOINT_PREFIX}(\d+)({'|'.join(_ENDINGS)})")
Items = dict[str, list[tf.Variable]]


@dataclasses.dataclass
class Progress:
    """How far a run has come: what is not a tensor."""

    step: int = 0
    train_seconds: float = 0.0
    steady_examples: int = 0  # without the first call of the loop, which includes compilation
    steady_seconds: float = 0.0
    epoch_loss: float = 0.0  # the sum of the means of each step of the epoch under way
    epoch_correct: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # as in history.csv
    # Path, step and SHA-256 of the weights of --init_from.
    initial: dict[str, Any] = dataclasses.field(default_factory=dict)


class Checkpoints:
    """The checkpoints of a run, in the layout of `tf.train.CheckpointManager`.

    The chief's are written by a thread, from copies, while training goes on; `save` does nothing
    elsewhere. `items` are the variables to save, by name (`Trainer.checkpoint_items`); with them
    goes the run's identity, its flags and `data_sha256` (`Dataset.sha256`).
    """

    def __init__(self, plan: Plan, items: Items, data_sha256: Mapping[str, str], *, is_chief: bool):
        self._plan, self._data_sha256, self._is_chief = plan, data_sha256, is_chief
        self._directory = files.join(plan.config.model_dir, directory.CHECKPOINTS)
        with tf.device("/CPU:0"):
            self._progress = tf.Variable("")  # JSON: the flags of the run, data_sha256, progress
            copies = tf.nest.map_structure(lambda item: tf.Variable(item, trainable=False), items)
        self._variables, self._copies = tf.nest.flatten(items), tf.nest.flatten(copies)
        self._unreadable: set[int] = set()  # steps; their files are left alone
        self._checkpoint = tf.train.Checkpoint(progress=self._progress, **items)
        self._weights = tf.train.Checkpoint(model=items["model"])
        self._copied = tf.train.Checkpoint(progress=self._progress, **copies)
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future | None = None

    def restore(self, from_chief: Callable, console: Console) -> tuple[Progress, int | None]:
        """Restores the newest checkpoint that is whole, the same on every worker.

        Those that cannot be read are passed over with a warning, and stay. Returns how far the run
        has come, and the step it is resumed from (None: it begins). Raises `UsageError` if it must
        not go on from there, `ClusterError` if this worker cannot read what the chief restored.
        """
        config, progress = self._plan.config, None
        for step in directory.checkpoint_steps(config.model_dir):
            try:
                progress = self._read(step)
                break
            except ClusterError as error:
                console.warn(f"warning: unreadable checkpoint passed over: {error}")
                self._unreadable.add(step)
        agreed = from_chief(progress.step if progress else -1)
        if agreed < 0:
            for variable, copy in zip(self._variables, self._copies, strict=True):
                variable.assign(copy)  # what was read of a damaged one, or not on the chief
            if self._unreadable and config.resume == "must":
                raise UsageError(
                    f"--resume=must, but none of the {len(self._unreadable)} checkpoints in"
                    f" {config.model_dir} can be read; restore one"
                )
            return Progress(initial=self._read_initial(console) if config.init_from else {}), None
        if not files.exists(files.join(config.model_dir, directory.CONFIG)):
            raise UsageError(
                f"{config.model_dir} holds a run on the chief only; share it with all workers"
            )
        if progress is None or progress.step != agreed:
            progress = self._read(agreed)
        if agreed > self._plan.total_steps:
            raise UsageError(
                f"{config.model_dir} is at step {agreed:,} already, past the"
                f" {self._plan.total_steps:,} of --epochs={config.epochs}; ask for more epochs"
            )
        if self._is_chief:
            self._tidy()
        return progress, agreed

    def _read(self, step: int) -> Progress:
        head = tf.train.Checkpoint(progress=self._progress)
        with _readable(self._plan.config.model_dir, step) as path:
            head.read(path).expect_partial().assert_existing_objects_matched()
            config, data_sha256, progress = json.loads(self._progress.numpy())
            identity.check_same_run(self._plan.config, config, self._data_sha256, data_sha256)
            self._checkpoint.read(path).assert_existing_objects_matched()
            return Progress(**progress)

    def _read_initial(self, console: Console) -> dict[str, Any]:
        """Gives the model the newest weights of the run in `--init_from` that can be read."""
        run, reason = self._plan.config.init_from, "no checkpoint"
        for step in directory.checkpoint_steps(run):
            try:
                with _readable(run, step) as path:
                    self._weights.read(path).assert_existing_objects_matched()
                console.line(f"begins with the weights of {run}, step {step:,}")
                return {"path": run, "step": step}
            except ClusterError as error:
                reason = error
        raise UsageError(f"--init_from={run} has no weights for this network: {reason}")

    def save(self, progress: Progress) -> None:
        """Begins to write a checkpoint of this moment, once the one before is there (`wait`)."""
        if not self._is_chief:
            return
        self.wait()
        for copy, variable in zip(self._copies, self._variables, strict=True):
            copy.assign(variable)
        config, data_sha256 = self._plan.config.within(Scope.RUN), dict(self._data_sha256)
        self._progress.assign(json.dumps([config, data_sha256, dataclasses.asdict(progress)]))
        self._writing = self._writer.submit(self._write, progress.step)

    def wait(self) -> None:
        """Returns once the checkpoint that was begun is there; raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write(self, step: int) -> None:
        # TensorFlow makes the index under its own name, where a kill would leave half of it.
        with files.replacing(_path(self._plan.config.model_dir, step), _ENDINGS) as temporary:
            self._copied.write(temporary)
        self._unreadable.discard(step)
        self._tidy()

    def _tidy(self) -> None:
        """Lists the newest checkpoints for TensorFlow and drops the others that can be read."""
        steps = directory.checkpoint_steps(self._plan.config.model_dir)
        kept = [step for step in steps if step not in self._unreadable]
        kept = kept[: self._plan.config.keep_checkpoints]
        # Relative names, so that the directory can be moved. A manager drops those without a time.
        names = [f"{directory.CHECKPOINT_PREFIX}{each}" for each in reversed(kept)]
        times = [time.time()] * len(names)
        state = tf.compat.v1.train.generate_checkpoint_state_proto(".", names[-1], names, times)
        files.write_text(files.join(self._directory, "checkpoint"), str(state))
        # An index goes before its data. Data alone was left by a process that died between the two.
        names = files.names_in(self._directory)
        for name in sorted(names, key=lambda name: not name.endswith(".index")):
            match = _FILE.fullmatch(name)
            if match and int(match[1]) not in {*kept, *self._unreadable}:
                files.remove(files.join(self._directory, name))


def last_is_readable(run: str) -> bool:
    """Returns whether every tensor of a run's newest checkpoint can be read (CRC32C included)."""
    try:
        with _readable(run, directory.checkpoint_steps(run)[0]) as path:
            reader = tf.compat.v1.train.NewCheckpointReader(path)
            for variable in reader.get_variable_to_shape_map():
                reader.get_tensor(variable)
    except ClusterError:
        return False
    return True


def _path(run: str, step: int) -> str:
    name = f"{directory.CHECKPOINT_PREFIX}{step}"
    return files.join(run, directory.CHECKPOINTS, name)


@contextlib.contextmanager
def _readable(run: str, step: int) -> Iterator[str]:
    """Yields the path of a run's checkpoint; `ClusterError` if the block finds it damaged."""
    path = _path(run, step)
    try:
        with files.without_pattern(path, _ENDINGS) as readable:
            yield readable
    except _DAMAGE as error:
        reason = (str(error) or repr(error)).splitlines()[0][:120]
        raise ClusterError(f"{path} cannot be read ({reason})") from None
