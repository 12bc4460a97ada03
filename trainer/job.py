"""The story of a run: data, workers, devices, training, then test, export and pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer import plan, prepare
from trainer.cluster.devices import Cluster
from trainer.cluster.rendezvous import FinishedError, Peers
from trainer.config import Config
from trainer.data import Dataset
from trainer.errors import UsageError
from trainer.plan import Plan
from trainer.process import startup
from trainer.process.clock import Clock
from trainer.process.console import Console, counted
from trainer.process.signals import StopSignals
from trainer.run import directory as run_directory
from trainer.run import files, lock
from trainer.run.directory import Recorded

if TYPE_CHECKING:
    from trainer.loop import Run


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
    stop: StopSignals
    stopwatch: Clock


def run(
    config: Config,
    cluster: Cluster,
    *,
    console: Console,
    stop: StopSignals,
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
    peers, stopwatch = Peers(cluster, silence_s=config.peer_timeout_s), Clock()
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
        process.stop.install()
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
    from trainer.results.event_files import Summaries
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
    summaries = None
    if is_chief:
        directory = files.join(config.model_dir, run_directory.TENSORBOARD)
        summaries = Summaries(directory, -1 if progress is None else progress.step)
    run = loop.Run(
        plan=settled,
        trainer=trainer,
        dataset=dataset,
        progress=progress or Progress(),
        checkpoints=checkpoints,
        summaries=summaries,
        console=console,
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
        finish(run, resumed_from)
        peers.say_done()
    else:
        peers.wait_until_done()


def finish(run: Run, resumed_from: int | None) -> None:
    """Touches the test set, once; then exports the model, draws the pictures, writes the result."""
    import tensorflow as tf

    from trainer.model import networks
    from trainer.model.trainer import evaluate
    from trainer.results import charts, export, figures, report, tensorboard

    settled, config, dataset, step = run.plan, run.plan.config, run.dataset, run.progress.step
    run.console.progress(1.0, "testing, exporting, drawing")
    run.checkpoints.tidy(step)
    logits = run.trainer.logits(dataset.test_images)
    probabilities = tf.nn.softmax(logits).numpy()
    loss, accuracy = evaluate(logits, dataset.test_labels)
    run.stopwatch.lap("test")
    tensorboard.tested(run, probabilities, loss, accuracy)
    run.stopwatch.lap("summaries")

    copy = networks.build(config.model, precision=settled.precision, seed=config.seed)
    copy.set_weights(run.trainer.model.get_weights())
    saved_model = export.publish(
        copy,
        files.join(config.model_dir, run_directory.SAVED_MODEL),
        step,
        images=dataset.test_images,
        probabilities=probabilities,
        precision=settled.precision,
    )
    run.stopwatch.lap("export")
    picture = figures.predictions(
        dataset.test_images,
        dataset.test_labels,
        probabilities,
        title=f"{config.model} reads {accuracy:.2%} of {len(dataset.test_labels):,}"
        f" {dataset.name} test digits right",
    )
    files.write_bytes(files.join(config.model_dir, run_directory.PREDICTIONS), picture)
    run.summaries.close()
    error = charts.calibration_error(dataset.test_labels, probabilities)
    metrics = _metrics(run, loss, accuracy, error, resumed_from)
    report.write(
        metrics,
        directory=config.model_dir,
        history=run.progress.history,
        dataset=dataset,
        probabilities=probabilities,
        weights=run.trainer.model.get_weights(),
    )
    run.stopwatch.lap("pictures")
    metrics |= {"wall_seconds": run.stopwatch.total, "seconds": run.stopwatch.seconds}
    run_directory.write_json(config.model_dir, run_directory.METRICS, metrics)
    _say_where(run, metrics, saved_model)


def _metrics(
    run: Run, loss: float, accuracy: float, calibration_error: float, resumed_from: int | None
) -> dict[str, Any]:
    settled, config, progress = run.plan, run.plan.config, run.progress
    rate = progress.steady_examples / progress.steady_seconds if progress.steady_seconds else None
    # Not this process's devices: it may be a chief that came back alone, just to finish.
    trained_on = run_directory.read(config.model_dir).settled
    return {
        "dataset": run.dataset.name,
        "model": config.model,
        "parameters": run.trainer.model.count_params(),
        "epochs": config.epochs,
        "steps": progress.step,
        "examples_train": settled.examples,
        "examples_validation": config.validation_examples,
        "examples_test": len(run.dataset.test_labels),
        "test_loss": loss,
        "test_accuracy": accuracy,
        "test_calibration_error": calibration_error,
        "validation_accuracy": progress.history[-1]["validation_accuracy"],
        "train_seconds": round(progress.train_seconds, 3),
        "wall_seconds": run.stopwatch.total,
        "examples_per_second": rate and round(rate),
        "strategy": trained_on["strategy"],
        "replicas": trained_on["replicas"],
        "workers": trained_on["workers"],
        "precision": settled.precision,
        "jit_compile": trained_on["jit_compile"] != "off",
        "seed": config.seed,
        "resumed_from_step": resumed_from,
        "weights_sha256": run.trainer.weights_sha256(),
        "finished": True,
    }


def _say_where(run: Run, metrics: Mapping[str, Any], saved_model: str) -> None:
    say, where = run.console.line, run.plan.config.model_dir
    count, accuracy = metrics["examples_test"], metrics["test_accuracy"]
    rate = metrics["examples_per_second"]
    # A resumed run has trained before this process began.
    whole = "in all" if metrics["resumed_from_step"] is None else "since it was resumed"
    say(
        f"test    {accuracy:.2%} of {count:,} {metrics['dataset']} digits read right,"
        f" {counted(round(count * (1 - accuracy)), 'mistake')}; loss {metrics['test_loss']:.4f}"
    )
    if accuracy < 0.2:  # of ten classes
        say(
            "        hardly better than guessing; try more --epochs, or a lower --learning_rate"
            f" than {run.plan.config.learning_rate:g}"
        )
    say(
        f"time    {metrics['train_seconds']:.1f} s training"
        f"{f' at {rate:,} digits/s' if rate else ''}, {metrics['wall_seconds']:.1f} s {whole}"
    )
    say()
    say(f"Everything is in {where}: report.html, predictions.png, metrics.json, saved_model/")
    runs, where = shlex.quote(os.path.dirname(where) or where), shlex.quote(where)
    python = shlex.quote(sys.executable)
    tensorboard = shlex.quote(os.path.join(os.path.dirname(sys.executable), "tensorboard"))
    say(f"  see the curves   {tensorboard} --logdir {runs}")
    say(f"  read your own    {python} -m trainer.predict --model_dir {where} image.png")
