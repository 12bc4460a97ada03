"""The outer loop: between calls of the compiled one it reports, validates, saves and may stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer.data import Dataset, pipeline
from trainer.errors import UsageError
from trainer.model.trainer import LoopResult, Trainer
from trainer.plan import Plan
from trainer.process.startup import StopSignals
from trainer.process.stopwatch import Stopwatch
from trainer.results.reporter import SilentReporter
from trainer.run.checkpoints import Checkpoints, Progress


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run works with.

    Attributes:
      plan: what is settled.
      trainer: model and compiled loop.
      dataset: all examples.
      progress: how far it has come; changes as it goes on.
      checkpoints: where it is saved.
      reporter: what is told of it.
      stop: the signals that may end it early.
      stopwatch: where its time goes.
    """

    plan: Plan
    trainer: Trainer
    dataset: Dataset
    progress: Progress
    checkpoints: Checkpoints
    reporter: SilentReporter
    is_chief: bool
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
    if progress.step == 0:
        run.reporter.start()
        lap("summaries")
    warm = False
    for superbatch, base, begin, end in _calls(run, batches):
        lap("input" if warm else "pipeline")  # the first is prepared from nothing
        if progress.step == 0:
            run.reporter.input_digits(superbatch)
            lap("summaries")
        result = run.trainer.run(superbatch, base, begin, end)
        seconds = lap("training" if warm else "first_loop")
        _check_finite(run, result)
        _count(progress, result, seconds, plan.config.batch_size, warm=warm)
        warm = True
        epoch = plan.epoch_under_way(progress.step - 1)
        run.reporter.loop_done(progress, result, seconds=seconds)
        lap("summaries")
        epoch_done = progress.step == plan.epoch_end(epoch)
        if epoch_done:
            _end_epoch(run, epoch)
            lap("validation")
        stopping = run.trainer.any_worker(run.stop.received is not None)
        every = plan.config.checkpoint_every
        due = epoch_done or stopping or (every and progress.step % every == 0)
        if run.is_chief and due:
            run.reporter.flush()
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
            with run.reporter.profiling(step, end):
                yield superbatch, base, step, end
            step = end


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


def _end_epoch(run: Run, epoch: int) -> None:
    plan, progress = run.plan, run.progress
    steps = plan.epoch_end(epoch) - plan.epoch_end(epoch - 1)
    loss, accuracy = progress.epoch_loss / steps, progress.epoch_right / steps
    progress.epoch_loss = progress.epoch_right = 0.0
    run.reporter.epoch_done(progress, loss=loss, accuracy=accuracy)
