"""TensorBoard's event files of a run, their steps without overlap or gap after a resume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.plugins.histogram.summary import histogram_pb
from tensorboard.plugins.hparams import api
from tensorboard.plugins.projector import metadata as projector_metadata
from tensorboard.plugins.projector import projector_config_pb2
from tensorboard.plugins.scalar.summary import scalar_pb

from trainer.results import figures
from trainer.run import files

PARTS = ("train", "validation", "test")
_NUMBERS = api.RealInterval(0.0, 1e9)


class EventFiles:
    """Writers for `directory`/train, validation and test, each opened when first used.

    Events after the step that a run resumes at are dropped, so that every step is there once.

    Args:
      directory: the run's `tensorboard`.
      resumed_at: the last step whose events stay; None for none.
    """

    def __init__(self, directory: str, resumed_at: int | None):
        self._directory = directory
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        for part in PARTS:
            files.remove_leftovers(files.join(directory, part))
            keep_events(files.join(directory, part), -1 if resumed_at is None else resumed_at)

    def writer(self, part: str) -> tf.summary.SummaryWriter:
        """Returns the writer of a part of `PARTS`."""
        if part not in self._writers:
            path = files.join(self._directory, part)
            self._writers[part] = tf.summary.create_file_writer(path)
        return self._writers[part]

    def scalars(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each named curve."""
        self._add(part, [scalar_pb(tag, value) for tag, value in values.items()], step)

    def histograms(self, part: str, values: Mapping[str, np.ndarray], step: int) -> None:
        """Adds the distribution of each array, of any shape."""
        self._add(part, [histogram_pb(tag, array) for tag, array in values.items()], step)

    def _add(self, part: str, summaries: Sequence[Any], step: int) -> None:
        # One event for all: `tf.summary.scalar` for each takes ten times as long.
        merged = tf.compat.v1.Summary()
        for summary in summaries:
            merged.MergeFromString(summary.SerializeToString())
        with self.writer(part).as_default(step):
            tf.summary.experimental.write_raw_pb(merged.SerializeToString())

    def image(self, part: str, tag: str, pixels: np.ndarray, step: int, description: str) -> None:
        """Adds a picture: uint8 [height, width, 1 or 3]."""
        with self.writer(part).as_default(step):
            tf.summary.image(tag, pixels[None], description=description)

    def text(self, part: str, tag: str, markdown: str, step: int) -> None:
        """Adds a text in Markdown."""
        with self.writer(part).as_default(step):
            tf.summary.text(tag, markdown)

    def graph(self, part: str, graph: tf.Graph) -> None:
        """Adds the computation graph."""
        with self.writer(part).as_default(0):
            tf.summary.graph(graph)

    def projector(
        self, part: str, features: np.ndarray, images: np.ndarray, header: str, rows: Sequence[str]
    ) -> None:
        """Writes the projector's files.

        Args:
          part: one of `PARTS`.
          features: float [n, features].
          images: uint8 [n, 28, 28], a picture for each point.
          header: names of the labels, separated by tabs.
          rows: the labels of each point, separated by tabs.
        """
        config = projector_config_pb2.ProjectorConfig()
        embedding = config.embeddings.add(
            tensor_name="last hidden layer",
            tensor_shape=features.shape,
            tensor_path="features.tsv",
            metadata_path="labels.tsv",
        )
        embedding.sprite.image_path = "digits.png"
        embedding.sprite.single_image_dim.extend([28, 28])
        sprite = figures.mosaic(images, math.ceil(math.sqrt(len(images))), 28, 28)
        vectors = "\n".join("\t".join(f"{value:.4g}" for value in row) for row in features.tolist())
        contents = {
            "features.tsv": f"{vectors}\n".encode(),
            "labels.tsv": "\n".join([header, *rows, ""]).encode(),
            "digits.png": tf.io.encode_png(sprite[..., None]).numpy(),
            projector_metadata.PROJECTOR_FILENAME: str(config).encode(),
        }
        directory = files.join(self._directory, part)
        files.make_directory(directory)
        for name, content in contents.items():
            files.write_bytes(files.join(directory, name), content)

    def hyperparameters(
        self, values: Mapping[str, Any], choices: Mapping[str, Sequence[str]], run: str
    ) -> None:
        """Writes the HParams page's record: accuracies by these values, in this order.

        The record lies one level above the parts: the page looks for the metrics of a record in the
        directories below its own. It takes the domains of all runs from the first one's record.

        Args:
          values: numbers and strings, by name.
          choices: for each string all values there are.
          run: names the run.
        """
        columns = [
            api.HParam(name, api.Discrete(choices[name]) if choices.get(name) else _NUMBERS)
            for name in values
        ]
        metrics = [
            api.Metric("accuracy", group=part, display_name=f"{part} accuracy")
            for part in ("test", "validation")
        ]
        keep_events(self._directory, -1)
        with tf.summary.create_file_writer(self._directory).as_default(0) as writer:
            api.hparams_config(columns, metrics)
            api.hparams(values, trial_id=run)
            writer.close()

    def start_over(self, part: str) -> None:
        """Drops all events of a part."""
        keep_events(files.join(self._directory, part), -1)

    def flush(self) -> None:
        """Writes to disk what was added so far."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def keep_events(directory: str, last_step: int) -> None:
    """Drops the events after `last_step`, and cut records, from the event files in `directory`."""
    for name in files.names_in(directory):
        if ".tfevents." not in name or ".partial-" in name:
            continue
        path = files.join(directory, name)
        kept, complete = [], True
        try:
            for record in tf.data.TFRecordDataset([path]).as_numpy_iterator():
                if _step_of(record) <= last_step:
                    kept.append(record)
                else:
                    complete = False
        except tf.errors.DataLossError:  # the file ends within a record
            complete = False
        if not kept:
            files.remove(path)
        elif not complete:
            with files.replacing(path) as temporary, tf.io.TFRecordWriter(temporary) as writer:
                for record in kept:
                    writer.write(record)


def _step_of(record: bytes) -> float:
    try:
        return tf.compat.v1.Event.FromString(record).step
    except DecodeError:
        return math.inf
