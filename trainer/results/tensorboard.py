"""TensorBoard's event files of a run, their steps without overlap or gap after a resume."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api
from tensorboard.plugins.projector import ProjectorConfig, metadata

from trainer.config import Config, Scope
from trainer.results import figures
from trainer.run import files


class _FirstColumn(api.Discrete):
    """The domain of the column that the HParams page sorts before the others."""

    def update_hparam_info(self, hparam_info):
        super().update_hparam_info(hparam_info)
        hparam_info.differs = True


class EventFiles:
    """Writers for `directory`/train, validation and test; drops events after `resumed_from`."""

    def __init__(self, directory: str, resumed_from: int | None):
        self._directory = directory
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        last_step = -1 if resumed_from is None else resumed_from
        for part, last in (("train", last_step), ("validation", last_step), ("test", -1)):
            keep_events(files.join(directory, part), last)

    def writer(self, part: str) -> tf.summary.SummaryWriter:
        """Returns the writer of `train`, `validation` or `test`, opened when first used."""
        if part not in self._writers:
            path = files.join(self._directory, part)
            self._writers[part] = tf.summary.create_file_writer(path)
        return self._writers[part]

    def add(self, part: str, summaries: Iterable[Summary], step: int) -> None:
        """Adds what TensorBoard's makers (`scalar_pb`, `histogram_pb`) return."""
        # In one event: a `tf.summary.scalar` for each takes ten times as long.
        merged = b"".join(summary.SerializeToString() for summary in summaries)
        with self.writer(part).as_default(step):
            tf.summary.experimental.write_raw_pb(merged)

    def projector(self, features: np.ndarray, images: np.ndarray, labels: Sequence[str]) -> None:
        """Writes the projector's files of features, float [n, m], test digits and their labels."""
        embedding = {
            "tensor_name": "last hidden layer",
            "tensor_shape": features.shape,
            "tensor_path": "features.tsv",
            "metadata_path": "labels.tsv",
            "sprite": {"image_path": "digits.png", "single_image_dim": [28, 28]},
        }
        sprite, table = figures.mosaic(images, math.ceil(len(images) ** 0.5)), io.BytesIO()
        np.savetxt(table, features, fmt="%.4g", delimiter="\t")
        contents = {
            "features.tsv": table.getvalue(),
            "labels.tsv": "\n".join([*labels, ""]).encode(),
            "digits.png": tf.io.encode_png(sprite[..., None]).numpy(),
            metadata.PROJECTOR_FILENAME: str(ProjectorConfig(embeddings=[embedding])).encode(),
        }
        for name, content in contents.items():
            files.write_bytes(files.join(self._directory, "test", name), content)

    def hyperparameters(self, config: Config) -> None:
        """Writes the HParams page's record: the accuracies by what identifies the run."""
        values = {"model": config.model, "epochs": config.epochs} | config.within(Scope.RUN)
        values["init_from"] = config.init_from or "none"
        # The page takes the domains it finds first for all runs, so they name every choice.
        parsers = {each.name: each.metadata["parser"] for each in dataclasses.fields(config)}
        columns = [api.HParam("model", _FirstColumn(parsers["model"].enum_values))]
        for name, value in [*values.items()][1:]:
            choices = getattr(parsers[name], "enum_values", None)
            number = None if isinstance(value, str) else api.RealInterval(0.0, 1e9)
            columns.append(api.HParam(name, api.Discrete(choices) if choices else number))
        parts = "test", "validation"
        metrics = [api.Metric("accuracy", part, f"{part} accuracy") for part in parts]
        keep_events(self._directory, -1)
        with tf.summary.create_file_writer(self._directory).as_default(0) as writer:
            api.hparams_config(columns, metrics)
            api.hparams(values, trial_id=config.model_dir)
            writer.close()

    def flush(self) -> None:
        """Writes to disk what was added so far."""
        for writer in self._writers.values():
            writer.flush()


def keep_events(directory: str, last_step: int) -> None:
    """Drops the events after `last_step`, and cut records, from the event files in `directory`."""
    names = [name for name in files.names_in(directory) if ".tfevents." in name]
    for path in (files.join(directory, name) for name in names):
        records = []
        with contextlib.suppress(tf.errors.DataLossError):  # the file ends within a record
            records.extend(tf.data.TFRecordDataset([path]).as_numpy_iterator())
        kept = [each for each in records if tf.compat.v1.Event.FromString(each).step <= last_step]
        if not kept:
            files.remove(path)
            continue
        with files.replacing(path) as temporary, tf.io.TFRecordWriter(temporary) as writer:
            for record in kept:
                writer.write(record)
