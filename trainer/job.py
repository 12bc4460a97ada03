"""The story of a run, top to bottom: data, devices, model, training, test, export, pictures."""

from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import trainer
from trainer import data, distribution, run_directory, runtime, storage
from trainer.config import Config
from trainer.console import Console
from trainer.data import Dataset
from trainer.distribution import Cluster, Devices
from trainer.errors import UsageError
from trainer.recipes import RECIPES

if TYPE_CHECKING:
    from trainer.checkpoints import Checkpoints, Progress
    from trainer.summaries import Summaries
    from trainer.training import LoopResult, Trainer

GPU_STEPS_PER_LOOP = 200
GRID_DIGITS = 128


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is settled before the first step.

    Attributes:
      config: resolved, with the data set's and the directory's real names.
      devices: where it trains.
      precision, jit_compile, steps_per_loop: what `auto` became.
      examples: how many training examples there are, the validation examples not counted.
    """

    config: Config
    devices: Devices
    precision: str
    jit_compile: str
    steps_per_loop: int
    examples: int

    def epoch_end(self, epoch: int) -> int:
        """Returns the step that ends an epoch (0 ends at step 0).

        Its last batch may reach into the next epoch.
        """
        return -(-epoch * self.examples // self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """The step that ends the run."""
        return self.epoch_end(self.config.epochs)


def run(
    config: Config,
    cluster: Cluster,
    *,
    console: Console,
    stop: runtime.StopSignals,
    dataset: Dataset | None = None,
) -> None:
    """Trains as `config` says, from wherever its directory stands, and leaves all results there.

    Args:
      config: as the flags gave it.
      cluster: this process and the workers beside it.
      console: where progress is told.
      stop: the signals that may end the run early.
      dataset: stands in for what `config` names.

    Raises:
      UsageError: the configuration does not fit the machine, the directory or the data, or training
        diverged.
      DataError: the data is missing or corrupt.
      Interrupted: a signal came; progress was saved.
    """
    dataset = _load_while_importing_tensorflow(config, dataset, console)
    recorded = run_directory.open_for(config, is_chief=cluster.is_chief)
    config = _with_real_names(config, dataset, recorded)
    if recorded and recorded.finished(config.epochs):
        console.line(f"{config.model_dir}: finished already")
        return
    plan = _plan(config, cluster, dataset, recorded)
    if cluster.is_chief:
        _record(plan, dataset)
    _introduce(plan, dataset, console)
    with ThreadPoolExecutor(1) as background:
        # Importing matplotlib takes as long as an epoch; the loop leaves the interpreter idle
        # meanwhile.
        figures = background.submit(importlib.import_module, "trainer.figures")
        _train_and_finish(plan, dataset, figures, console, stop)


def _load_while_importing_tensorflow(
    config: Config, dataset: Dataset | None, console: Console
) -> Dataset:
    """Returns the data, loaded in a thread while this one imports TensorFlow."""
    said: list[str] = []
    with ThreadPoolExecutor(1) as background:
        loading = None
        if dataset is None:
            loading = background.submit(
                data.load, config.dataset, config.data_dir, notify=said.append
            )
        try:
            runtime.import_tensorflow()
            return dataset if loading is None else loading.result()
        finally:
            for text in said:
                console.warn(text)


def _with_real_names(
    config: Config, dataset: Dataset, recorded: run_directory.Recorded | None
) -> Config:
    config = dataclasses.replace(
        config.resolved(),
        dataset=dataset.name,
        model_dir=config.model_dir or run_directory.default_path(dataset.name, config.model),
    )
    if recorded:
        run_directory.check_data(config, recorded, dataset.sha256)
    return config


def _plan(
    config: Config, cluster: Cluster, dataset: Dataset, recorded: run_directory.Recorded | None
) -> Plan:
    examples = len(dataset.train_labels) - config.validation_examples
    if examples < 1:
        raise UsageError(
            f"--validation_examples={config.validation_examples} leaves none of the"
            f" {len(dataset.train_labels)} to train on"
        )
    recipe = RECIPES[config.model]
    devices = distribution.set_up(config, cluster)
    # A run goes on as it began, on whatever machine it is resumed.
    precision = recorded.settled.get("precision") if recorded else None
    return Plan(
        config=config,
        devices=devices,
        precision=precision or distribution.precision(config, devices, bfloat16=recipe.bfloat16),
        jit_compile=distribution.jit_compile(config, devices, on_cpu=recipe.jit_compile),
        steps_per_loop=config.steps_per_loop
        or (recipe.steps_per_loop if devices.kind == "CPU" else GPU_STEPS_PER_LOOP),
        examples=examples,
    )


def _record(plan: Plan, dataset: Dataset) -> None:
    """Makes the directory and writes `config.json`."""
    import tensorflow as tf

    directory = plan.config.model_dir
    try:
        storage.make_directory(directory)
        for place in (directory, storage.join(directory, run_directory.SAVED_MODEL)):
            storage.remove_leftovers(place)
        run_directory.write_json(
            directory,
            run_directory.CONFIG,
            {
                "config": plan.config.to_dict(),
                "settled": {
                    "precision": plan.precision,
                    "jit_compile": plan.jit_compile,
                    "steps_per_loop": plan.steps_per_loop,
                    "strategy": plan.devices.name,
                    "devices": plan.devices.kind,
                    "replicas": plan.devices.replicas,
                    "workers": len(plan.devices.cluster.workers),
                    "cpus": runtime.available_cpus(),
                },
                "data": {
                    "name": dataset.name,
                    "source": dataset.source,
                    "sha256": dataset.sha256,
                },
                "versions": {
                    "trainer": trainer.__version__,
                    "python": platform.python_version(),
                    "tensorflow": tf.__version__,
                    "keras": tf.keras.__version__,
                    "platform": platform.platform(),
                },
            },
        )
    except (OSError, tf.errors.OpError) as error:
        raise UsageError(
            f"cannot write to --model_dir={directory}: {str(error).splitlines()[0]};"
            " give another one"
        ) from None


def _introduce(plan: Plan, dataset: Dataset, console: Console) -> None:
    config, devices = plan.config, plan.devices
    console.line(
        f"data    {dataset.name}: {plan.examples:,} training,"
        f" {config.validation_examples:,} validation,"
        f" {len(dataset.test_labels):,} test digits; {dataset.source}"
    )
    where = f"{devices.replicas} x {devices.kind}" if devices.replicas > 1 else devices.kind
    workers = (
        f", {len(devices.cluster.workers)} workers" if len(devices.cluster.workers) > 1 else ""
    )
    console.line(
        f"model   {config.model}, {plan.precision}{'' if plan.jit_compile == 'off' else ', XLA'},"
        f" on {where}{workers}; batches of {config.batch_size}, {plan.total_steps:,} steps"
    )
    console.line(f"run     {config.model_dir}")


def _train_and_finish(
    plan: Plan,
    dataset: Dataset,
    figures: Future,
    console: Console,
    stop: runtime.StopSignals,
) -> None:
    from trainer.checkpoints import Checkpoints, Progress
    from trainer.summaries import Summaries
    from trainer.training import Trainer

    config, is_chief = plan.config, plan.devices.cluster.is_chief
    trainer_ = Trainer(
        config,
        plan.devices,
        precision=plan.precision,
        jit_compile=plan.jit_compile,
        total_steps=plan.total_steps,
    )
    checkpoints = Checkpoints(
        storage.join(config.model_dir, run_directory.CHECKPOINTS),
        trainer_.checkpoint_items(),
        keep=config.keep_checkpoints,
    )
    progress, damaged = checkpoints.restore()
    for path in damaged:
        console.warn(f"warning: damaged checkpoint passed over: {path}")
    resumed_from = progress.step if progress else None
    if resumed_from is not None:
        console.line(f"resumed at step {resumed_from:,}")
    summaries = None
    if is_chief:
        tensorboard = storage.join(config.model_dir, run_directory.TENSORBOARD)
        summaries = Summaries(tensorboard, -1 if progress is None else progress.step)
    progress = progress or Progress()

    with stop.deferred():
        train(plan, trainer_, dataset, progress, checkpoints, summaries, console, stop)
    if stop.received is not None and progress.step < plan.total_steps:
        raise stop.error(f"progress is saved at step {progress.step:,}; the same command goes on")
    if is_chief:
        finish(plan, trainer_, dataset, progress, summaries, figures, console, resumed_from)


def train(
    plan: Plan,
    trainer_: Trainer,
    dataset: Dataset,
    progress: Progress,
    checkpoints: Checkpoints,
    summaries: Summaries | None,
    console: Console,
    stop: runtime.StopSignals,
) -> None:
    """Runs the training loop from `progress` to the end, or until a signal comes, and saves.

    Only the chief has `summaries`, validates and saves.

    Raises:
      UsageError: if the loss or gradient stops being finite; the last good checkpoint stays.
    """
    config = plan.config
    if summaries and progress.step == 0:
        _summarize_start(plan, trainer_, dataset, summaries)
    first = True
    for superbatch, base, begin, end in _calls(plan, dataset, progress.step):
        started = time.perf_counter()
        result = trainer_.run(superbatch, base, begin, end)
        seconds = time.perf_counter() - started
        if result.failed_step is not None:
            raise UsageError(
                f"the loss is not a finite number at step {result.failed_step + 1}; lower"
                f" --learning_rate={config.learning_rate:g} or use --precision=float32;"
                f" the checkpoints in {config.model_dir} are from before it"
            )
        _count(progress, result, seconds, config.batch_size, steady=not first)
        first = False
        epoch = 1 + sum(progress.step > plan.epoch_end(e) for e in range(1, config.epochs))
        rate = result.steps * config.batch_size / seconds
        console.progress(
            progress.step / plan.total_steps,
            f"epoch {epoch}/{config.epochs}  loss {result.loss:.4f}"
            f"  {result.accuracy:.2%}  {rate:,.0f}/s",
        )
        if summaries:
            summaries.scalars(
                "train",
                {
                    "loss": result.loss,
                    "accuracy": result.accuracy,
                    "gradient_norm": result.gradient_norm,
                    "learning_rate": float(trainer_.learning_rate(progress.step - 1)),
                    "examples_per_second": rate,
                },
                progress.step,
            )
        epoch_done = progress.step == plan.epoch_end(epoch)
        if epoch_done:
            _end_epoch(plan, trainer_, dataset, progress, summaries, console, epoch)
        every = config.checkpoint_every
        stopping = stop.received is not None
        if summaries and (epoch_done or stopping or (every and progress.step % every == 0)):
            summaries.flush()
            checkpoints.save(progress)
        if stopping:
            return


def _calls(plan: Plan, dataset: Dataset, step: int) -> Iterator[tuple[Any, int, int, int]]:
    """Yields for each call of the training loop: superbatch, its first step, first and last to run.

    A call never crosses the end of an epoch, a checkpoint or the edge of what is profiled.
    """
    from trainer import pipeline

    config, loop = plan.config, plan.steps_per_loop
    profile = config.profile_range()
    dataset_ = plan.devices.strategy.distribute_datasets_from_function(
        lambda context: pipeline.training_batches(
            dataset.train_images[: plan.examples],
            dataset.train_labels[: plan.examples],
            global_batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
            first_step=step,
            last_step=plan.total_steps,
            steps_per_loop=loop,
            replicas=plan.devices.replicas,
            local_replicas=plan.devices.local_replicas,
        )
    )
    ends = {plan.epoch_end(epoch) for epoch in range(1, config.epochs + 1)}
    if profile:
        ends |= {profile[0] - 1, profile[1]}
    for superbatch in dataset_ if step < plan.total_steps else ():
        base = step // loop * loop
        while step < min(base + loop, plan.total_steps):
            limits = [base + loop, plan.total_steps, *(end for end in ends if end > step)]
            if config.checkpoint_every:
                limits.append((step // config.checkpoint_every + 1) * config.checkpoint_every)
            end = min(limits)
            with _profiled(plan, profile, step, end):
                yield superbatch, base, step, end
            step = end


def _profiled(plan: Plan, profile: tuple[int, int] | None, step: int, end: int):
    """Starts the profiler before the first step of the range, and stops it after the last."""
    import contextlib

    import tensorflow as tf

    @contextlib.contextmanager
    def around():
        if profile and plan.devices.cluster.is_chief:
            if step == profile[0] - 1:
                tf.profiler.experimental.start(
                    storage.join(plan.config.model_dir, run_directory.TENSORBOARD, "train")
                )
            yield
            if end == min(profile[1], plan.total_steps) and step >= profile[0] - 1:
                tf.profiler.experimental.stop()
        else:
            yield

    return around()


def _count(
    progress: Progress, result: LoopResult, seconds: float, batch_size: int, *, steady: bool
) -> None:
    progress.step += result.steps
    progress.train_seconds += seconds
    progress.epoch_loss += result.loss * result.steps
    progress.epoch_right += result.accuracy * result.steps
    if steady:
        progress.steady_examples += result.steps * batch_size
        progress.steady_seconds += seconds


def _end_epoch(
    plan: Plan,
    trainer_: Trainer,
    dataset: Dataset,
    progress: Progress,
    summaries: Summaries | None,
    console: Console,
    epoch: int,
) -> None:
    """Validates, and adds the epoch to the history."""
    steps = plan.epoch_end(epoch) - plan.epoch_end(epoch - 1)
    loss, accuracy = progress.epoch_loss / steps, progress.epoch_right / steps
    progress.epoch_loss = progress.epoch_right = 0.0
    if summaries is None:
        return
    validation = _evaluate(
        trainer_, dataset.train_images[plan.examples :], dataset.train_labels[plan.examples :]
    )
    progress.history.append(
        {
            "epoch": epoch,
            "step": progress.step,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_loss": validation and validation[0],
            "validation_accuracy": validation and validation[1],
            "learning_rate": float(trainer_.learning_rate(progress.step - 1)),
            "train_seconds": round(progress.train_seconds, 3),
        }
    )
    run_directory.write_history(plan.config.model_dir, progress.history)
    text = f"epoch {epoch}/{plan.config.epochs}  loss {loss:.4f}  accuracy {accuracy:.2%}"
    if validation:
        names = ("loss", "accuracy")
        summaries.scalars("validation", dict(zip(names, validation, strict=True)), progress.step)
        text += f"   validation loss {validation[0]:.4f}  accuracy {validation[1]:.2%}"
    console.line(f"{text}   {progress.train_seconds:.1f} s")


def _evaluate(trainer_: Trainer, images: Any, labels: Any) -> tuple[float, float] | None:
    from trainer.training import evaluate

    return evaluate(trainer_.logits(images), labels) if len(labels) else None


def _summarize_start(plan: Plan, trainer_: Trainer, dataset: Dataset, summaries: Summaries) -> None:
    from trainer import figures, pipeline

    config = plan.config
    batches = pipeline.training_batches(
        dataset.train_images[: plan.examples],
        dataset.train_labels[: plan.examples],
        global_batch_size=GRID_DIGITS,
        seed=config.seed,
        augment=config.augment,
        first_step=0,
        last_step=1,
        steps_per_loop=1,
    )
    digits = next(iter(batches))[0][0].numpy()
    summaries.image(
        "train",
        "input_digits",
        figures.digit_grid(digits),
        0,
        f"{dataset.name}, as the model sees it",
    )
    summaries.record("train", "configuration", config.to_dict(), 0)
    summaries.graph("train", trainer_.inference_graph())


def finish(
    plan: Plan,
    trainer_: Trainer,
    dataset: Dataset,
    progress: Progress,
    summaries: Summaries,
    figures: Future,
    console: Console,
    resumed_from: int | None,
) -> None:
    """Touches the test set, once; then exports the model, draws the picture, writes the result."""
    import numpy as np
    import tensorflow as tf

    from trainer import export, models
    from trainer.training import evaluate

    config = plan.config
    console.progress(1.0, "testing, exporting, drawing")
    logits = trainer_.logits(dataset.test_images)
    probabilities = tf.nn.softmax(logits).numpy()
    loss, accuracy = evaluate(logits, dataset.test_labels)
    step = progress.step
    summaries.redo("test", step)
    summaries.scalars("test", {"loss": loss, "accuracy": accuracy}, step)
    summaries.hyperparameters(
        {
            key: value
            for key, value in config.to_dict().items()
            if key not in ("model_dir", "data_dir", "resume", "profile") and value is not None
        },
        trial=config.model_dir,
    )

    copy = models.build(config.model, precision=plan.precision, seed=config.seed)
    copy.set_weights(trainer_.model.get_weights())
    saved_model = export.publish(
        copy,
        storage.join(config.model_dir, run_directory.SAVED_MODEL),
        step,
        images=dataset.test_images,
        probabilities=probabilities,
        precision=plan.precision,
    )
    picture = figures.result().predictions(
        dataset.test_images,
        dataset.test_labels,
        probabilities,
        title=f"{config.model} reads {accuracy:.2%} of {len(dataset.test_labels):,}"
        f" {dataset.name} test digits right",
    )
    storage.write_bytes(storage.join(config.model_dir, run_directory.PREDICTIONS), picture)
    summaries.close()
    validation = progress.history[-1]["validation_accuracy"]
    metrics: Mapping[str, Any] = {
        "dataset": dataset.name,
        "model": config.model,
        "parameters": trainer_.model.count_params(),
        "epochs": config.epochs,
        "steps": step,
        "examples_train": plan.examples,
        "examples_validation": config.validation_examples,
        "examples_test": len(dataset.test_labels),
        "test_loss": loss,
        "test_accuracy": accuracy,
        "validation_accuracy": validation,
        "train_seconds": round(progress.train_seconds, 3),
        "wall_seconds": round(time.perf_counter() - trainer.STARTED, 3),
        "examples_per_second": round(progress.steady_examples / progress.steady_seconds)
        if progress.steady_seconds
        else None,
        "strategy": plan.devices.name,
        "replicas": plan.devices.replicas,
        "workers": len(plan.devices.cluster.workers),
        "precision": plan.precision,
        "jit_compile": plan.jit_compile != "off",
        "seed": config.seed,
        "resumed_from_step": resumed_from,
        "weights_sha256": trainer_.weights_sha256(),
        "finished": True,
    }
    run_directory.write_json(config.model_dir, run_directory.METRICS, metrics)
    mistakes = int(np.sum(probabilities.argmax(1) != dataset.test_labels))
    _say_where(console, config, metrics, mistakes, saved_model)


def _say_where(
    console: Console, config: Config, metrics: Mapping[str, Any], mistakes: int, saved_model: str
) -> None:
    rate = metrics["examples_per_second"]
    console.line(
        f"test    {metrics['test_accuracy']:.2%} of {metrics['examples_test']:,}"
        f" {metrics['dataset']} digits read right, {mistakes:,} mistakes;"
        f" loss {metrics['test_loss']:.4f}"
    )
    console.line(
        f"time    {metrics['train_seconds']:.1f} s training"
        f"{f' at {rate:,} digits/s' if rate else ''}, {metrics['wall_seconds']:.1f} s in all"
    )
    where = config.model_dir
    console.line()
    console.line(
        f"Everything is in {where}: predictions.png, history.csv, metrics.json,"
        f" saved_model/{metrics['steps']}"
    )
    console.line(f"  see the curves   tensorboard --logdir {os.path.dirname(where) or where}")
    console.line(f"  read your own    python -m trainer.predict --model_dir {where} image.png")
