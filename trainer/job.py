"""The story of a run: data, workers, devices, training, then test, export and pictures."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trainer import data
from trainer import plan as plans
from trainer.cluster import rendezvous
from trainer.cluster.agreement import Agreement
from trainer.cluster.devices import Devices, set_up
from trainer.cluster.environment import Cluster
from trainer.cluster.lost_worker import lost_worker
from trainer.config import Config
from trainer.data import Dataset
from trainer.plan import Plan
from trainer.process import startup
from trainer.process.clock import Clock
from trainer.process.console import Console
from trainer.process.signals import StopSignals
from trainer.run import directory, files, identity, lock
from trainer.run.directory import Recorded, State


def run(config: Config, cluster: Cluster, *, console: Console, stop: StopSignals) -> None:
    """Trains as `config` says, from wherever its directory stands; raises any `TrainerError`."""
    clock = Clock()
    config, dataset = _get_ready(config, cluster, console, clock)
    examples = plans.training_examples(config, len(dataset.train_labels))
    last_step = plans.epoch_end(config, examples, config.epochs)
    cluster = _meet(config, cluster, dataset, last_step)
    clock.lap("cluster")
    writing = lock.held(config.model_dir) if cluster.is_chief else contextlib.nullcontext()
    with _named_failures(config, cluster), writing:
        recorded = directory.examine(config, last_step=last_step, data_sha256=dataset.sha256)
        if recorded.state is State.FINISHED:
            console.line(directory.finished_line(config, recorded))
            return
        devices = set_up(config, cluster)
        stop.install()  # the strategy has taken SIGTERM
        precision = recorded.resolved.get("precision")
        plan = plans.make(config, examples, devices.hardware, devices.replicas, precision)
        agreement = Agreement(devices)
        here = f"{len(devices.local_replicas)} {devices.hardware.kind}"
        facts = {"--precision": plan.precision, "--jit_compile": plan.jit_compile, "devices": here}
        agreement.compare(facts)
        clock.lap("devices")
        _train_and_finish(plan, devices, agreement, dataset, recorded, console, stop, clock)


def _get_ready(
    config: Config, cluster: Cluster, console: Console, clock: Clock
) -> tuple[Config, Dataset]:
    """Loads the data while TensorFlow is imported; returns it and the resolved configuration."""
    if len(cluster.workers) > 1:
        # A lost worker is reported once, by name, and not by every operation that it fails.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    startup.keep_freed_memory()
    if config.dataset == "auto" and config.model_dir and not config.data_dir:
        # A run goes on with the data set that `auto` became when it began.
        known = directory.read(config.model_dir).config.get("dataset", "auto")
        config = dataclasses.replace(config, dataset=known)
    notify = console.warn if cluster.is_chief else console.line  # said once for all workers
    wanted = config.dataset, config.data_dir
    loading = ThreadPoolExecutor(1).submit(data.load, *wanted, notify=notify)
    startup.import_tensorflow()
    clock.lap("imports")
    loaded = loading.result()
    clock.lap("data")
    found = {
        "dataset": loaded.name,
        "model_dir": config.model_dir or directory.default_path(loaded.name, config.model),
        "validation_examples": plans.validation_examples(config, len(loaded.train_labels)),
    }
    return dataclasses.replace(config.resolved(), **found), loaded


def _meet(config: Config, cluster: Cluster, dataset: Dataset, last_step: int) -> Cluster:
    """Waits for the other workers, whom a chief that only writes the results does not need."""
    from trainer.run.checkpoints import last_is_readable

    if cluster.is_chief and len(cluster.workers) > 1:
        recorded = directory.examine(config, last_step=last_step, data_sha256=dataset.sha256)
        if recorded.state is State.TRAINED and last_is_readable(config.model_dir):
            return Cluster()
    fingerprint = identity.fingerprint(config, dataset.sha256)
    finished = functools.partial(directory.has_finished, config)
    rendezvous.meet(cluster, fingerprint, config.cluster_timeout_s, finished)
    return cluster


@contextlib.contextmanager
def _named_failures(config: Config, cluster: Cluster) -> Iterator[None]:
    """Turns errors of the directory and of lost workers into those that a user can act on."""
    try:
        yield
    except (OSError, startup.import_tensorflow().errors.OpError) as error:
        if not cluster.is_chief and directory.has_finished(config):
            return  # the chief may leave before all have heard from it
        known = files.failure(error, config.model_dir) or lost_worker(error, cluster)
        if known:
            raise known from error
        raise


def _train_and_finish(
    plan: Plan,
    devices: Devices,
    agreement: Agreement,
    dataset: Dataset,
    recorded: Recorded,
    console: Console,
    stop: StopSignals,
    clock: Clock,
) -> None:
    from trainer import loop
    from trainer.model.trainer import Trainer
    from trainer.results.finish import finish
    from trainer.results.reporter import Reporter, SilentReporter
    from trainer.run.checkpoints import Checkpoints

    config, is_chief = plan.config, devices.cluster.is_chief
    trainer, reporter = Trainer(plan, devices), SilentReporter()
    checkpoints = Checkpoints(plan, trainer.checkpoint_items(), dataset.sha256, is_chief=is_chief)
    progress, resumed_from = checkpoints.restore(agreement.from_chief, console)
    if progress.initial and resumed_from is None:
        progress.initial["weights_sha256"] = trainer.weights_sha256()
        agreement.compare({"weights in --init_from": trainer.weights_sha256()})
    # Whoever only writes the results may run elsewhere than where the run was trained.
    trained = resumed_from == plan.total_steps
    resolved = recorded.resolved if trained else directory.trained_on(plan, devices)
    if is_chief:
        directory.record(plan, resolved, dataset, progress.history, progress.initial)
        reporter = Reporter(plan, trainer, dataset, console, devices, resumed_from)
    before = recorded.resolved if resumed_from is not None else resolved
    identity.say_where_sums_differ(before, resolved, agreement.differing, console)
    clock.lap("model")
    batches = _batches(plan, devices, dataset, progress.step)
    clock.lap("pipeline")
    if progress.step < plan.total_steps:
        trainer.trace(batches)  # the first digits are prepared meanwhile
        progress.train_seconds += clock.lap("graph")
    ended = loop.train(
        plan, trainer, batches, progress, checkpoints, reporter, agreement, stop, clock
    )
    if not ended:
        agreement.wait_for_chief()
    stop.deferred = False
    if not ended or stop.received is not None:
        saved = f"progress is saved at step {progress.step:,}"
        raise stop.error(f"{saved}; the same --model_dir={config.model_dir} goes on from there")
    if is_chief:
        finish(plan, trainer, dataset, progress, reporter, console, clock, resumed_from)
    agreement.wait_for_chief()


def _batches(plan: Plan, devices: Devices, dataset: Dataset, first_step: int) -> Iterator[Any]:
    from trainer.data import pipeline

    images, labels = dataset.train_images[: plan.examples], dataset.train_labels[: plan.examples]
    place = devices.replicas, devices.local_replicas
    datasets = pipeline.training_batches(images, labels, plan, first_step, *place)
    return pipeline.distribute(datasets, devices.strategy)
