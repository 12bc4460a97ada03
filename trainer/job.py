"""The story of a run: data, workers, devices, training, then test, export and pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from trainer import plan, prepare
from trainer.cluster.devices import Cluster
from trainer.cluster.rendezvous import FinishedError, Peers
from trainer.config import Config
from trainer.data import Dataset
from trainer.errors import UsageError
from trainer.plan import Plan
from trainer.process import startup
from trainer.process.console import Console
from trainer.process.stopwatch import Stopwatch
from trainer.run import directory as run_directory
from trainer.run import files, lock
from trainer.run.directory import Recorded


@dataclasses.dataclass(frozen=True)
class _Process:
    """What a run has around it, whatever it trains.

    Attributes:
      peers: the processes of the other workers.
      console: where progress is told.
      stop: the signals that may end the run early.
      stopwatch: where its time goes.
    """

    peers: Peers
    console: Console
    stop: startup.StopSignals
    stopwatch: Stopwatch


def run(
    config: Config,
    cluster: Cluster,
    *,
    console: Console,
    stop: startup.StopSignals,
    dataset: Dataset | None = None,
) -> None:
    """Trains as `config` says, from wherever its directory stands, and leaves everything there.

    Args:
      config: as the flags gave it.
      cluster: this process and the workers beside it.
      console: where progress is told.
      stop: the signals that may end the run early.
      dataset: stands in for what `config` names.

    Raises:
      UsageError: the configuration does not fit the machine, the directory, the data or the other
        workers, or training diverged.
      DataError: the data is missing or corrupt.
      ClusterError: the workers did not find each other, or lost touch.
      StorageError: the directory cannot be written any more.
      Interrupted: a signal came; progress was saved.
    """
    if len(cluster.workers) > 1:
        # A lost worker is reported once, by name, and not by every operation that it fails.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    startup.keep_freed_memory()
    peers, stopwatch = Peers(cluster, silence_s=config.peer_timeout_s), Stopwatch()
    try:
        config, cluster, dataset = prepare.prepare(
            config, cluster, peers, dataset, console, stopwatch
        )
    except FinishedError:
        console.line(f"{config.model_dir}: finished by the other workers")
        return
    with lock.held(config.model_dir) if cluster.is_chief else contextlib.nullcontext():
        _run_there(config, cluster, dataset, _Process(peers, console, stop, stopwatch))


def _run_there(config: Config, cluster: Cluster, dataset: Dataset, process: _Process) -> None:
    """The rest of the story, while no other process writes the directory."""
    recorded = run_directory.open_for(config, is_chief=cluster.is_chief)
    if recorded:
        run_directory.check_data(config, recorded, dataset.sha256)
        if recorded.finished(config.epochs):
            process.console.line(run_directory.finished_line(config, recorded))
            return
    try:
        settled = plan.settle(config, cluster, dataset, recorded)
        if len(cluster.workers) > 1:
            process.peers.agree(plan.settled_statement(settled))
        process.stop.take_back()
        if cluster.is_chief:
            # Only to finish may not be where it was trained: what trained it stays on record.
            trained = recorded and prepare.only_finishing_is_left(config, dataset)
            plan.record(settled, dataset, recorded.settled if trained else None)
        _introduce(settled, dataset, process.console)
        process.stopwatch.lap("devices")
        _train_and_finish(settled, dataset, recorded, process)
    except (OSError, startup.import_tensorflow().errors.OpError) as error:
        if unwritten := files.failure(error, config.model_dir):
            raise unwritten from error
        if isinstance(error, OSError) or len(cluster.workers) == 1:
            raise
        raise process.peers.explain(error) from error


def _introduce(settled: Plan, dataset: Dataset, console: Console) -> None:
    config, devices = settled.config, settled.devices
    console.line(
        f"data    {dataset.name}: {settled.examples:,} training, {config.validation_examples:,}"
        f" validation, {len(dataset.test_labels):,} test digits; {dataset.source}"
    )
    where = devices.kind if devices.replicas == 1 else f"{devices.replicas} x {devices.kind}"
    workers = len(devices.cluster.workers)
    console.line(
        f"model   {config.model}, {settled.precision}"
        f"{'' if settled.jit_compile == 'off' else ', XLA'}, on {where}"
        f"{f' of {workers} workers' if workers > 1 else ''};"
        f" batches of {config.batch_size}, {settled.total_steps:,} steps"
    )
    console.line(f"run     {config.model_dir}")


def _train_and_finish(
    settled: Plan, dataset: Dataset, recorded: Recorded | None, process: _Process
) -> None:
    from trainer import loop
    from trainer.model.trainer import Trainer
    from trainer.results.finish import finish
    from trainer.results.reporter import Reporter, SilentReporter
    from trainer.run.checkpoints import Checkpoints, Progress

    config, is_chief = settled.config, settled.devices.cluster.is_chief
    peers, console, stop = process.peers, process.console, process.stop
    trainer = Trainer(
        config,
        settled.devices,
        precision=settled.precision,
        jit_compile=settled.jit_compile,
        total_steps=settled.total_steps,
    )
    checkpoints = Checkpoints(
        files.join(config.model_dir, run_directory.CHECKPOINTS),
        trainer.checkpoint_items(),
        keep=config.keep_checkpoints,
    )
    progress, damaged = checkpoints.restore(trainer.from_chief)
    for path in damaged:
        console.warn(f"warning: damaged checkpoint passed over: {path}")
    resumed_from = progress.step if progress else None
    if progress:
        console.line(f"resumed at step {progress.step:,}")
    elif config.resume == "must" and damaged:
        raise UsageError(
            f"--resume=must, but none of the {len(damaged)} checkpoints in {config.model_dir} can"
            " be read; restore one, or let --resume=auto begin again"
        )
    if progress and progress.step > settled.total_steps:
        raise UsageError(
            f"{config.model_dir} is at step {progress.step:,} already, past the"
            f" {settled.total_steps:,} of --epochs={config.epochs}; ask for more epochs"
        )
    reporter = SilentReporter()
    if is_chief:
        reporter = Reporter(
            plan=settled,
            trainer=trainer,
            dataset=dataset,
            console=console,
            resumed_from=resumed_from,
        )
    run = loop.Run(
        plan=settled,
        trainer=trainer,
        dataset=dataset,
        progress=progress or Progress(),
        checkpoints=checkpoints,
        reporter=reporter,
        is_chief=is_chief,
        stop=stop,
        stopwatch=process.stopwatch,
    )
    process.stopwatch.lap("model")

    with stop.deferred():
        ended = loop.train(run)
        if not ended:
            peers.leave_together()
    if not ended or stop.received is not None:
        if not is_chief:
            peers.say_goodbye()
        raise stop.error(
            f"progress is saved at step {run.progress.step:,}; the same command goes on from there"
        )
    if is_chief:
        peers.needs_nobody()
        checkpoints.tidy(run.progress.step)
        finish(
            plan=settled,
            trainer=trainer,
            dataset=dataset,
            progress=run.progress,
            reporter=reporter,
            console=console,
            clock=process.stopwatch,
            resumed_from=resumed_from,
        )
        peers.say_done()
    else:
        peers.wait_until_done()
