"""The story of a run: data, workers, devices, training, then test, export and pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from trainer import data, lock, plan, run_directory, runtime, storage
from trainer.config import Config
from trainer.console import Console
from trainer.data import Dataset
from trainer.distribution import Cluster
from trainer.errors import UsageError
from trainer.peers import FinishedError, Peers
from trainer.plan import Plan
from trainer.run_directory import Recorded
from trainer.stopwatch import Stopwatch

if TYPE_CHECKING:
    from trainer.loop import Run


def run(
    config: Config,
    cluster: Cluster,
    *,
    console: Console,
    stop: runtime.StopSignals,
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
    peers, stopwatch = Peers(cluster, silence_s=config.peer_timeout_s), Stopwatch()
    try:
        config, cluster, dataset = _prepare(config, cluster, peers, dataset, console, stopwatch)
    except FinishedError:
        console.line(f"{config.model_dir}: finished by the other workers")
        return
    with lock.held(config.model_dir) if cluster.is_chief else contextlib.nullcontext():
        _run_there(config, cluster, dataset, peers, console, stop, stopwatch)


def _run_there(
    config: Config,
    cluster: Cluster,
    dataset: Dataset,
    peers: Peers,
    console: Console,
    stop: runtime.StopSignals,
    stopwatch: Stopwatch,
) -> None:
    """The rest of the story, while no other process writes the directory."""
    recorded = run_directory.open_for(config, is_chief=cluster.is_chief)
    if recorded:
        run_directory.check_data(config, recorded, dataset.sha256)
        if recorded.finished(config.epochs):
            console.line(run_directory.finished_line(config, recorded))
            return
    try:
        settled = plan.settle(config, cluster, dataset, recorded)
        if len(cluster.workers) > 1:
            peers.agree(plan.settled_statement(settled))
        stop.take_back()
        if cluster.is_chief:
            trained = recorded and _only_finishing_is_left(config, dataset)
            plan.record(settled, dataset, recorded.settled if trained else None)
        _introduce(settled, dataset, console)
        stopwatch.lap("devices")
        _train_and_finish(settled, dataset, recorded, peers, console, stop, stopwatch)
    except (OSError, runtime.import_tensorflow().errors.OpError) as error:
        if unwritten := storage.failure(error, config.model_dir):
            raise unwritten from error
        if isinstance(error, OSError) or len(cluster.workers) == 1:
            raise
        raise peers.explain(error) from error


def _prepare(
    config: Config,
    cluster: Cluster,
    peers: Peers,
    dataset: Dataset | None,
    console: Console,
    stopwatch: Stopwatch,
) -> tuple[Config, Cluster, Dataset]:
    """Loads the data and meets the other workers while TensorFlow, which takes longer, is imported.

    Returns:
      The configuration with the real names of data set and directory; the cluster, which is this
      process alone where there is nothing left to train; and the data.
    """
    said: list[str] = []

    def meet(named: Config, loaded: Dataset) -> None:
        peers.meet(
            plan.statement(named, loaded),
            timeout_s=config.cluster_timeout_s,
            finished=functools.partial(_has_finished, named),
        )

    def data_and_workers() -> tuple[Config, Dataset, bool]:
        loaded = dataset or data.load(_dataset_name(config), config.data_dir, notify=said.append)
        named = dataclasses.replace(
            config.resolved(),
            dataset=loaded.name,
            model_dir=config.model_dir or run_directory.default_path(loaded.name, config.model),
        )
        chief_may_finish = cluster.is_chief and _trained_to_the_end(named, loaded)
        if len(cluster.workers) > 1 and not chief_may_finish:
            meet(named, loaded)
        return named, loaded, chief_may_finish

    preparing = _in_background(data_and_workers)
    try:
        runtime.import_tensorflow()
        stopwatch.lap("imports")
        named, loaded, chief_may_finish = preparing.result()
        if len(cluster.workers) > 1 and chief_may_finish:
            if _only_finishing_is_left(named, loaded):
                return named, Cluster(), loaded
            meet(named, loaded)
        return named, cluster, loaded
    finally:
        stopwatch.lap("data")
        for text in said:
            console.warn(text)


def _dataset_name(config: Config) -> str:
    """Returns what to load: a run goes on with the data set that `auto` became when it began."""
    if config.dataset == "auto" and config.model_dir and not config.data_dir:
        recorded = run_directory.read(config.model_dir)
        if recorded and recorded.config.get("dataset") in data.DATASETS:
            return recorded.config["dataset"]
    return config.dataset


def _in_background(function: Callable[[], Any]) -> Future:
    """Calls `function` in a thread that does not keep the process alive when it is told to stop."""
    future: Future = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def _has_finished(config: Config) -> bool:
    recorded = run_directory.read(config.model_dir)
    return bool(recorded and recorded.finished(config.epochs))


def _trained_to_the_end(config: Config, dataset: Dataset) -> bool:
    """Whether the run's newest checkpoint is of its last step."""
    steps = plan.epoch_end(config, plan.examples_to_train_on(config, dataset), config.epochs)
    newest = run_directory.checkpoint_steps(config.model_dir)[:1]
    return newest == [steps]


def _only_finishing_is_left(config: Config, dataset: Dataset) -> bool:
    """Whether that checkpoint can also be read: else there are steps to train again."""
    from trainer.checkpoints import is_whole

    if not _trained_to_the_end(config, dataset):
        return False
    step = run_directory.checkpoint_steps(config.model_dir)[0]
    directory = storage.join(config.model_dir, run_directory.CHECKPOINTS)
    return is_whole(storage.join(directory, f"{run_directory.CHECKPOINT_PREFIX}{step}"))


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
    settled: Plan,
    dataset: Dataset,
    recorded: Recorded | None,
    peers: Peers,
    console: Console,
    stop: runtime.StopSignals,
    stopwatch: Stopwatch,
) -> None:
    from trainer import loop
    from trainer.checkpoints import Checkpoints, Progress
    from trainer.summaries import Summaries
    from trainer.training import Trainer

    config, is_chief = settled.config, settled.devices.cluster.is_chief
    model = Trainer(
        config,
        settled.devices,
        precision=settled.precision,
        jit_compile=settled.jit_compile,
        total_steps=settled.total_steps,
    )
    checkpoints = Checkpoints(
        storage.join(config.model_dir, run_directory.CHECKPOINTS),
        model.checkpoint_items(),
        keep=config.keep_checkpoints,
    )
    progress, damaged = checkpoints.restore(model.from_chief)
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
        directory = storage.join(config.model_dir, run_directory.TENSORBOARD)
        summaries = Summaries(directory, -1 if progress is None else progress.step)
    this = loop.Run(
        plan=settled,
        trainer=model,
        dataset=dataset,
        progress=progress or Progress(),
        checkpoints=checkpoints,
        summaries=summaries,
        console=console,
        stop=stop,
        stopwatch=stopwatch,
    )
    stopwatch.lap("model")

    with stop.deferred():
        ended = loop.train(this)
        if not ended:
            peers.leave_together()
    if not ended or stop.received is not None:
        if not is_chief:
            peers.say_goodbye()
        raise stop.error(
            f"progress is saved at step {this.progress.step:,}; the same command goes on from there"
        )
    if is_chief:
        peers.needs_nobody()
        finish(this, resumed_from)
        peers.say_done()
    else:
        peers.wait_until_done()


def finish(this: Run, resumed_from: int | None) -> None:
    """Touches the test set, once; then exports the model, draws the pictures, writes the result."""
    import tensorflow as tf

    from trainer import board, charts, export, figures, models, report
    from trainer.training import evaluate

    settled, config, dataset, step = this.plan, this.plan.config, this.dataset, this.progress.step
    this.console.progress(1.0, "testing, exporting, drawing")
    this.checkpoints.tidy(step)
    logits = this.trainer.logits(dataset.test_images)
    probabilities = tf.nn.softmax(logits).numpy()
    loss, accuracy = evaluate(logits, dataset.test_labels)
    this.stopwatch.lap("test")
    board.tested(this, probabilities, loss, accuracy)
    this.stopwatch.lap("summaries")

    copy = models.build(config.model, precision=settled.precision, seed=config.seed)
    copy.set_weights(this.trainer.model.get_weights())
    saved_model = export.publish(
        copy,
        storage.join(config.model_dir, run_directory.SAVED_MODEL),
        step,
        images=dataset.test_images,
        probabilities=probabilities,
        precision=settled.precision,
    )
    this.stopwatch.lap("export")
    picture = figures.predictions(
        dataset.test_images,
        dataset.test_labels,
        probabilities,
        title=f"{config.model} reads {accuracy:.2%} of {len(dataset.test_labels):,}"
        f" {dataset.name} test digits right",
    )
    storage.write_bytes(storage.join(config.model_dir, run_directory.PREDICTIONS), picture)
    this.summaries.close()
    error = charts.calibration_error(dataset.test_labels, probabilities)
    metrics = _metrics(this, loss, accuracy, error, resumed_from)
    report.write(
        metrics,
        directory=config.model_dir,
        history=this.progress.history,
        dataset=dataset,
        probabilities=probabilities,
        weights=this.trainer.model.get_weights(),
    )
    this.stopwatch.lap("pictures")
    metrics |= {"wall_seconds": this.stopwatch.total, "seconds": this.stopwatch.seconds}
    run_directory.write_json(config.model_dir, run_directory.METRICS, metrics)
    _say_where(this, metrics, saved_model)


def _metrics(
    this: Run, loss: float, accuracy: float, calibration_error: float, resumed_from: int | None
) -> dict[str, Any]:
    settled, config, progress = this.plan, this.plan.config, this.progress
    rate = progress.steady_examples / progress.steady_seconds if progress.steady_seconds else None
    # Not this process's devices: it may be a chief that came back alone, just to finish.
    trained_on = run_directory.read(config.model_dir).settled
    return {
        "dataset": this.dataset.name,
        "model": config.model,
        "parameters": this.trainer.model.count_params(),
        "epochs": config.epochs,
        "steps": progress.step,
        "examples_train": settled.examples,
        "examples_validation": config.validation_examples,
        "examples_test": len(this.dataset.test_labels),
        "test_loss": loss,
        "test_accuracy": accuracy,
        "test_calibration_error": calibration_error,
        "validation_accuracy": progress.history[-1]["validation_accuracy"],
        "train_seconds": round(progress.train_seconds, 3),
        "wall_seconds": this.stopwatch.total,
        "examples_per_second": rate and round(rate),
        "strategy": trained_on["strategy"],
        "replicas": trained_on["replicas"],
        "workers": trained_on["workers"],
        "precision": settled.precision,
        "jit_compile": trained_on["jit_compile"] != "off",
        "seed": config.seed,
        "resumed_from_step": resumed_from,
        "weights_sha256": this.trainer.weights_sha256(),
        "finished": True,
    }


def _say_where(this: Run, metrics: Mapping[str, Any], saved_model: str) -> None:
    say, where = this.console.line, this.plan.config.model_dir
    count, accuracy = metrics["examples_test"], metrics["test_accuracy"]
    rate = metrics["examples_per_second"]
    say(
        f"test    {accuracy:.2%} of {count:,} {metrics['dataset']} digits read right,"
        f" {round(count * (1 - accuracy)):,} mistakes; loss {metrics['test_loss']:.4f}"
    )
    say(
        f"time    {metrics['train_seconds']:.1f} s training"
        f"{f' at {rate:,} digits/s' if rate else ''}, {metrics['wall_seconds']:.1f} s in all"
    )
    say()
    say(f"Everything is in {where}: report.html, predictions.png, metrics.json, saved_model/")
    say(f"  see the curves   tensorboard --logdir {os.path.dirname(where) or where}")
    say(f"  read your own    python -m trainer.predict --model_dir {where} image.png")
