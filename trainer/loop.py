"""The outer loop: between calls of the compiled one it reports, validates, saves and may stop."""

from collections.abc import Iterator
from typing import Any

from trainer.cluster.agreement import Agreement
from trainer.errors import UsageError
from trainer.model.trainer import LoopResult, Trainer
from trainer.plan import Plan
from trainer.process.clock import Clock
from trainer.process.signals import StopSignals, stall_guard
from trainer.results.reporter import Reporter
from trainer.run.checkpoints import Checkpoints, Progress


def train(
    plan: Plan,
    trainer: Trainer,
    batches: Iterator[Any],
    progress: Progress,
    checkpoints: Checkpoints,
    reporter: Reporter,
    agreement: Agreement,
    stop: StopSignals,
    clock: Clock,
) -> bool:
    """Trains from where `progress`, which grows, stands; returns whether it came to the end.

    Either way a checkpoint of the last step is there. Raises `UsageError`, and records nothing of
    it, once loss, gradient or weights are not finite. `batches` begin with that of `progress.step`.
    """
    superbatch, base, warm = None, None, False
    try:
        for call in plan.calls(progress.step):
            if call.base != base:
                superbatch, base = next(batches), call.base
            clock.lap("input" if warm else "pipeline")  # the first is prepared from nothing
            reporter.loop_starts(call, superbatch)
            clock.lap("summaries")
            with stall_guard(plan.config.stall_timeout_s):
                result = trainer.run(superbatch, call.base, call.first, call.last)
            seconds = clock.lap("training" if warm else "first_loop")
            stop.deferred = True  # not before: there is nothing to save, and compiling takes long
            if result.failed_step is not None:
                raise _diverged(plan, result.failed_step + 1)
            _count(plan, progress, result, seconds, warm)
            warm = True
            reporter.loop_done(progress, result, seconds=seconds)
            clock.lap("summaries")
            stopping = agreement.any_worker(stop.received is not None)
            if stopping or plan.saves_at(progress.step):
                if not trainer.is_finite(superbatch):  # after an update whose gradient still was
                    raise _diverged(plan, progress.step)
                _end_epoch(plan, progress, reporter)
                clock.lap("validation")
                reporter.flush()
                checkpoints.save(progress)
            clock.lap("checkpoints")
            if stopping:
                return False
        return True
    finally:
        checkpoints.wait()
        clock.lap("checkpoints")


def _diverged(plan: Plan, step: int) -> UsageError:
    return UsageError(
        f"training diverged: loss, gradient or weights are not finite numbers at step {step:,};"
        f" in another --model_dir, lower --learning_rate={plan.config.learning_rate:g}"
        f"{'' if plan.precision == 'float32' else ' or use --precision=float32'};"
        f" {plan.config.model_dir} keeps what was saved before that step"
    )


def _count(plan: Plan, progress: Progress, result: LoopResult, seconds: float, warm: bool) -> None:
    progress.step += result.steps
    progress.train_seconds += seconds
    progress.epoch_loss += result.loss * result.steps
    progress.epoch_correct += result.accuracy * result.steps
    if warm:
        progress.steady_examples += result.steps * plan.config.batch_size
        progress.steady_seconds += seconds


def _end_epoch(plan: Plan, progress: Progress, reporter: Reporter) -> None:
    epoch = plan.epoch_of(progress.step - 1)
    if progress.step != plan.epoch_end(epoch):
        return
    steps = plan.epoch_end(epoch) - plan.epoch_end(epoch - 1)
    loss, accuracy = progress.epoch_loss / steps, progress.epoch_correct / steps
    progress.epoch_loss = progress.epoch_correct = 0.0
    reporter.epoch_done(progress, loss=loss, accuracy=accuracy)
