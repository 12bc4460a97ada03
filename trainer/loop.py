"""The outer loop: between calls of the compiled one it reports, validates, saves and may stop."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer.cluster.agreement import Agreement
from trainer.data import Dataset, pipeline
from trainer.errors import UsageError
from trainer.model.trainer import LoopResult, Trainer, evaluate
from trainer.plan import Plan
from trainer.process.console import Console
from trainer.process.startup import StopSignals
from trainer.process.stopwatch import Stopwatch
from trainer.results import tensorboard
from trainer.results.event_files import Summaries
from trainer.run import directory as run_directory
from trainer.run import files
from trainer.run.checkpoints import Checkpoints, Progress


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run works with.

    Attributes:
      plan: what is settled.
      trainer: model and compiled loop.
      agreement: what the workers agree on.
      dataset: all examples.
      progress: how far it has come; changes as it goes on.
      checkpoints: where it is saved.
      summaries: what TensorBoard shows; only the chief has them.
      console: where progress is told.
      stop: the signals that may end it early.
      stopwatch: where its time goes.
    """

    plan: Plan
    trainer: Trainer
    agreement: Agreement
    dataset: Dataset
    progress: Progress
    checkpoints: Checkpoints
    summaries: Summaries | None
    console: Console
    stop: StopSignals
    stopwatch: Stopwatch


def train(run: Run) -> bool:
    """Trains from where `run.progress` stands to the end, or until a worker is asked to stop.

    Returns:
      Whether it came to the end. Either way a checkpoint of the last step is there.

    Raises:
      UsageError: the loss or the gradient stopped being finite; the last good checkpoint stays.
    """
    try:
        return _train(run)
    finally:
        run.checkpoints.wait()
        run.stopwatch.lap("checkpoints")


def _train(run: Run) -> bool:
    plan, progress, lap = run.plan, run.progress, run.stopwatch.lap
    batches = _batches(run)
    lap("pipeline")
    if isinstance(batches, tf.data.Iterator):  # of one replica on a CPU
        # Its first digits are prepared meanwhile.
        run.trainer.trace(batches.element_spec)
        progress.train_seconds += lap("graph")
    if run.summaries and progress.step == 0:
        tensorboard.begin(run)
        lap("summaries")
    warm = False
    for superbatch, base, begin, end in _calls(run, batches):
        waited = lap("input" if warm else "pipeline")  # the first is prepared from nothing
        if run.summaries and progress.step == 0:
            tensorboard.input_digits(run, superbatch)
            lap("summaries")
        result = run.trainer.run(superbatch, base, begin, end)
        seconds = lap("training" if warm else "first_loop")
        _check_finite(run, result)
        _count(progress, result, seconds, plan.config.batch_size, warm=warm)
        warm = True
        epoch = plan.epoch_under_way(progress.step - 1)
        _report(run, result, epoch, seconds, waited)
        lap("summaries")
        epoch_done = progress.step == plan.epoch_end(epoch)
        if epoch_done:
            _end_epoch(run, epoch)
            lap("validation")
        stopping = run.agreement.any_worker(run.stop.received is not None)
        every = plan.config.checkpoint_every
        due = epoch_done or stopping or (every and progress.step % every == 0)
        if run.summaries and due:
            run.summaries.flush()
            run.checkpoints.save(progress)
        lap("checkpoints")
        if stopping:
            return False
    return True


def _batches(run: Run) -> Iterator[Any]:
    """Returns the superbatches from where the run stands; the first is prepared from now on."""
    plan, config, step = run.plan, run.plan.config, run.progress.step
    if step == plan.total_steps:
        return iter(())

    def local_batches(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        return pipeline.training_batches(
            run.dataset.train_images[: plan.examples],
            run.dataset.train_labels[: plan.examples],
            global_batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
            first_step=step,
            last_step=plan.total_steps,
            steps_per_loop=plan.steps_per_loop,
            replicas=plan.devices.replicas,
            local_replicas=plan.devices.local_replicas,
        )

    if len(plan.devices.local_replicas) == 1 and plan.devices.kind == "CPU":
        # Nothing to hand out; and what a strategy hands out slows the mlp's steps by a fifth.
        return iter(local_batches())
    return iter(plan.devices.strategy.distribute_datasets_from_function(local_batches))


def _calls(run: Run, batches: Iterator[Any]) -> Iterator[tuple[Any, int, int, int]]:
    """Yields for each call of the compiled loop: superbatch, its first step, first and last step.

    A call never crosses the end of an epoch, a checkpoint or an edge of what is profiled.
    """
    plan, config, step = run.plan, run.plan.config, run.progress.step
    loop, total = plan.steps_per_loop, plan.total_steps
    profile = config.profile_range()
    edges = (profile[0] - 1, profile[1]) if profile else ()
    for superbatch in batches:
        base = step // loop * loop
        while step < min(base + loop, total):
            epoch_end = plan.epoch_end(plan.epoch_under_way(step))
            ends = [base + loop, epoch_end, *(edge for edge in edges if edge > step)]
            if config.checkpoint_every:
                ends.append((step // config.checkpoint_every + 1) * config.checkpoint_every)
            end = min(ends)
            with _profiled(run, profile, step, end):
                yield superbatch, base, step, end
            step = end


@contextlib.contextmanager
def _profiled(run: Run, profile: tuple[int, int] | None, step: int, end: int) -> Iterator[None]:
    """Starts the profiler before the first step of the range, and stops it after the last."""
    if not profile or not run.summaries or not profile[0] - 1 <= step < profile[1]:
        yield
        return
    if step == profile[0] - 1:
        directory = files.join(run.plan.config.model_dir, run_directory.TENSORBOARD, "train")
        tf.profiler.experimental.start(directory)
    yield
    if end == min(profile[1], run.plan.total_steps):
        with contextlib.suppress(tf.errors.UnavailableError):  # resumed within the range
            tf.profiler.experimental.stop()


def _check_finite(run: Run, result: LoopResult) -> None:
    if result.failed_step is not None:
        config = run.plan.config
        raise UsageError(
            f"training diverged: loss or gradient is not a finite number at step"
            f" {result.failed_step + 1}; lower --learning_rate={config.learning_rate:g}"
            f"{'' if run.plan.precision == 'float32' else ' or use --precision=float32'};"
            f" the checkpoints in {config.model_dir} are from before it"
        )


def _count(
    progress: Progress, result: LoopResult, seconds: float, batch_size: int, *, warm: bool
) -> None:
    progress.step += result.steps
    progress.train_seconds += seconds
    progress.epoch_loss += result.loss * result.steps
    progress.epoch_right += result.accuracy * result.steps
    if warm:
        progress.steady_examples += result.steps * batch_size
        progress.steady_seconds += seconds


def _report(run: Run, result: LoopResult, epoch: int, seconds: float, waited: float) -> None:
    progress, config = run.progress, run.plan.config
    rate = result.steps * config.batch_size / seconds
    run.console.progress(
        progress.step / run.plan.total_steps,
        f"epoch {epoch}/{config.epochs}  loss {result.loss:.4f}  accuracy {result.accuracy:.2%}"
        f"  {rate:,.0f} digits/s",
    )
    if run.summaries:
        values = {
            "loss": result.loss,
            "accuracy": result.accuracy,
            "gradient_norm": result.gradient_norm,
            "learning_rate": float(run.trainer.learning_rate(progress.step - 1)),
            "examples_per_second": rate,
            "input_wait": waited / (waited + seconds),
        }
        run.summaries.scalars("train", values, progress.step)


def _end_epoch(run: Run, epoch: int) -> None:
    """Validates, and adds a row to the history; the chief alone does, the others just go on."""
    plan, progress = run.plan, run.progress
    steps = plan.epoch_end(epoch) - plan.epoch_end(epoch - 1)
    loss, accuracy = progress.epoch_loss / steps, progress.epoch_right / steps
    progress.epoch_loss = progress.epoch_right = 0.0
    if not run.summaries:
        return
    images, labels = run.dataset.train_images, run.dataset.train_labels
    validation = None
    if plan.config.validation_examples:
        logits = run.trainer.logits(images[plan.examples :])
        validation = evaluate(logits, labels[plan.examples :])
        tensorboard.validated(run, logits, *validation)
    tensorboard.epoch(run)
    progress.history.append(
        {
            "epoch": epoch,
            "step": progress.step,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_loss": validation and validation[0],
            "validation_accuracy": validation and validation[1],
            "learning_rate": float(run.trainer.learning_rate(progress.step - 1)),
            "train_seconds": round(progress.train_seconds, 3),
        }
    )
    run_directory.write_history(plan.config.model_dir, progress.history)
    text = f"epoch {epoch}/{plan.config.epochs}  loss {loss:.4f}  accuracy {accuracy:.2%}"
    if validation:
        text += f"   validation loss {validation[0]:.4f}  accuracy {validation[1]:.2%}"
    run.console.line(f"{text}   {progress.train_seconds:.1f} s")
