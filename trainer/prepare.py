"""What precedes a run: data is loaded and the workers meet while TensorFlow is imported."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from trainer import data, plan
from trainer.cluster.environment import Cluster
from trainer.cluster.rendezvous import meet
from trainer.config import Config
from trainer.data import Dataset
from trainer.process import startup
from trainer.process.clock import Clock
from trainer.process.console import Console
from trainer.run import directory as run_directory
from trainer.run import files


def prepare(
    config: Config,
    cluster: Cluster,
    dataset: Dataset | None,
    console: Console,
    stopwatch: Clock,
) -> tuple[Config, Cluster, Dataset]:
    """Loads the data while TensorFlow is imported, then meets the other workers.

    They meet last, so that all are ready to connect at the same time.

    Returns:
      The configuration with the real names of data set and directory; the cluster, which is this
      process alone where there is nothing left to train; and the data.
    """
    said: list[str] = []

    def load() -> tuple[Config, Dataset]:
        loaded = dataset or data.load(_dataset_name(config), config.data_dir, notify=said.append)
        named = dataclasses.replace(
            config.resolved(),
            dataset=loaded.name,
            model_dir=config.model_dir or run_directory.default_path(loaded.name, config.model),
        )
        return named, loaded

    loading = _in_background(load)
    try:
        startup.import_tensorflow()
        stopwatch.lap("imports")
        named, loaded = loading.result()
        if len(cluster.workers) > 1:
            if cluster.is_chief and only_finishing_is_left(named, loaded):
                return named, Cluster(), loaded
            meet(
                cluster,
                plan.statement(named, loaded),
                timeout_s=config.cluster_timeout_s,
                finished=functools.partial(has_finished, named),
            )
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


def has_finished(config: Config) -> bool:
    """Whether the run has finished with as many epochs as asked for."""
    recorded = run_directory.read(config.model_dir)
    return bool(recorded and recorded.finished(config.epochs))


def _trained_to_the_end(config: Config, dataset: Dataset) -> bool:
    """Whether the run's newest checkpoint is of its last step."""
    steps = plan.epoch_end(config, plan.examples_to_train_on(config, dataset), config.epochs)
    newest = run_directory.checkpoint_steps(config.model_dir)[:1]
    return newest == [steps]


def only_finishing_is_left(config: Config, dataset: Dataset) -> bool:
    """Whether that checkpoint can also be read: else there are steps to train again."""
    from trainer.run.checkpoints import is_whole

    if not _trained_to_the_end(config, dataset):
        return False
    step = run_directory.checkpoint_steps(config.model_dir)[0]
    directory = files.join(config.model_dir, run_directory.CHECKPOINTS)
    return is_whole(files.join(directory, f"{run_directory.CHECKPOINT_PREFIX}{step}"))
