"""What TensorBoard shows of a run: event files whose steps neither overlap nor have gaps."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from trainer.run import files

PARTS = ("train", "validation", "test")


class Summaries:
    """Writers for `directory`/train, validation and test, each made when first used.

    A run that is resumed at a step first drops what an earlier process wrote after it, so that
    every step is there once.

    Args:
      directory: the run's `tensorboard`.
      step: the last step whose events stay; -1 for none.
    """

    def __init__(self, directory: str, step: int):
        self._directory = directory
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        for part in PARTS:
            files.remove_leftovers(files.join(directory, part))
            keep_events(files.join(directory, part), step)

    def _writer(self, part: str) -> tf.summary.SummaryWriter:
        if part not in self._writers:
            path = files.join(self._directory, part)
            self._writers[part] = tf.summary.create_file_writer(path)
        return self._writers[part]

    def _add(
        self, part: str, plugin: Any, values: Mapping[str, Any], step: int, *about: Any
    ) -> None:
        """Adds to a part, by tag, what a plugin of TensorBoard shows.

        All in one event: an operation of TensorFlow for each would take ten times as long.
        """
        made = plugin.create_summary_metadata(*about)
        metadata = tf.compat.v1.SummaryMetadata.FromString(made.SerializeToString())
        summary = tf.compat.v1.Summary()
        for tag, value in values.items():
            tensor = tf.make_tensor_proto(value)
            summary.value.add(tag=tag, tensor=tensor, metadata=metadata)
        with self._writer(part).as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step)

    def scalars(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Adds one point to each named curve of a part."""
        from tensorboard.plugins.scalar import metadata

        points = {name: np.float32(value) for name, value in values.items()}
        self._add(part, metadata, points, step, None, None)

    def image(self, part: str, name: str, pixels: np.ndarray, step: int, description: str) -> None:
        """Adds a picture: uint8 [height, width] or [height, width, 3]."""
        from PIL import Image
        from tensorboard.plugins.image import metadata

        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG", compress_level=1)
        height, width = pixels.shape[:2]
        value = [str(width).encode(), str(height).encode(), content.getvalue()]
        self._add(part, metadata, {name: value}, step, None, description)

    def record(self, part: str, name: str, values: Mapping[str, Any], step: int) -> None:
        """Adds a JSON-like record as text, a table row for each of its entries."""
        from tensorboard.plugins.text import metadata

        rows = "\n".join(
            f"| {key} | `{json.dumps(value)}` |"
            for key, value in values.items()
            if value is not None
        )
        table = f"| | |\n| --- | --- |\n{rows}".encode()
        self._add(part, metadata, {name: table}, step, None, None)

    def graph(self, part: str, graph: tf.Graph) -> None:
        """Adds the computation graph."""
        with self._writer(part).as_default(0):
            tf.summary.graph(graph)

    def digits(self, part: str, name: str, images: np.ndarray, step: int) -> None:
        """Adds digits, uint8 [n, 28, 28], side by side."""
        self.image(part, name, digit_grid(images), step, f"{len(images)} digits")

    def histograms(self, part: str, values: Mapping[str, np.ndarray], step: int) -> None:
        """Adds the distribution of each array, of any shape, in 30 buckets."""
        from tensorboard.plugins.histogram import metadata

        buckets = {}
        for name, array in values.items():
            counts, edges = np.histogram(array[np.isfinite(array)], 30)
            buckets[name] = np.stack([edges[:-1], edges[1:], counts], 1)
        self._add(part, metadata, buckets, step, None, None)

    def pr_curves(self, part: str, curves: Mapping[str, np.ndarray], step: int) -> None:
        """Adds precision-recall curves: float [6, thresholds], as `board.pr_curve` returns them."""
        from tensorboard.plugins.pr_curve import metadata

        values = {name: curve.astype(np.float32) for name, curve in curves.items()}
        thresholds = next(iter(values.values())).shape[1]
        self._add(part, metadata, values, step, None, None, thresholds)

    def layout(self, part: str, categories: Mapping[str, Mapping[str, str]], step: int) -> None:
        """Adds the layout of the Custom Scalars page: by category and chart, its curves' tags."""
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        layout = layout_pb2.Layout(
            category=[
                layout_pb2.Category(
                    title=category,
                    chart=[
                        layout_pb2.Chart(
                            title=title, multiline=layout_pb2.MultilineChartContent(tag=[tag])
                        )
                        for title, tag in charts.items()
                    ],
                )
                for category, charts in categories.items()
            ]
        )
        self._add(part, metadata, {metadata.CONFIG_SUMMARY_TAG: layout.SerializeToString()}, step)

    def projector(
        self, part: str, contents: Mapping[str, bytes], *, name: str, shape: Sequence[int]
    ) -> None:
        """Writes what the projector shows: features.tsv, labels.tsv and digits.png."""
        from tensorboard.plugins.projector import metadata, projector_config_pb2

        config = projector_config_pb2.ProjectorConfig()
        embedding = config.embeddings.add(
            tensor_name=name,
            tensor_shape=shape,
            tensor_path="features.tsv",
            metadata_path="labels.tsv",
        )
        embedding.sprite.image_path = "digits.png"
        embedding.sprite.single_image_dim.extend([28, 28])
        directory = files.join(self._directory, part)
        files.make_directory(directory)
        for file, content in contents.items():
            files.write_bytes(files.join(directory, file), content)
        files.write_text(files.join(directory, metadata.PROJECTOR_FILENAME), str(config))

    def begin_test(self, step: int) -> None:
        """Drops what an earlier attempt at finishing said of the test set at this step."""
        keep_events(files.join(self._directory, "test"), step - 1)

    def hyperparameters(self, values: Mapping[str, Any], trial: str) -> None:
        """Adds what the HParams page compares runs by; it takes the metrics from the parts' curves.

        The record lies one level above them, because the page looks for metrics below the directory
        of the record.
        """
        from tensorboard.plugins.hparams import api

        remove_events(self._directory)
        flat = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in values.items()
        }
        with tf.summary.create_file_writer(self._directory).as_default(0) as writer:
            api.hparams(flat, trial_id=trial)
            writer.close()

    def flush(self) -> None:
        """Puts on disk what was added so far."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Closes the files; adding more afterwards opens new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def digit_grid(images: np.ndarray, columns: int = 16) -> np.ndarray:
    """Returns uint8 [height, width]: images [n, 28, 28] in rows, a grey line between them."""
    rows = -(-len(images) // columns)
    grid = np.full((rows * 29 + 1, columns * 29 + 1), 64, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * 29 + 1, place % columns * 29 + 1
        grid[top : top + 28, left : left + 28] = image
    return grid


def keep_events(directory: str, last_step: int) -> None:
    """Drops all events after `last_step` from the event files in `directory`.

    So goes, too, the record that a kill has cut short.
    """
    for name in files.names_in(directory):
        if not _is_event_file(name):
            continue
        path = files.join(directory, name)
        kept, whole = [], True
        records = iter(tf.data.TFRecordDataset([path]))
        while True:
            try:
                record = next(records).numpy()
            except StopIteration:
                break
            except tf.errors.DataLossError:
                whole = False
                break
            if _step_of(record) <= last_step:
                kept.append(record)
            else:
                whole = False
        if whole:
            continue
        if not kept:
            files.remove(path)
            continue
        with files.replacing(path) as temporary, tf.io.TFRecordWriter(temporary) as writer:
            for record in kept:
                writer.write(record)


def _step_of(record: bytes) -> float:
    try:
        return tf.compat.v1.Event.FromString(record).step
    except DecodeError:  # no event: of no step that is to be kept
        return math.inf


def remove_events(directory: str) -> None:
    """Removes the event files that lie directly in `directory`."""
    for name in filter(_is_event_file, files.names_in(directory)):
        files.remove(files.join(directory, name))


def _is_event_file(name: str) -> bool:
    return ".tfevents." in name and ".partial-" not in name
