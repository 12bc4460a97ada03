"""The tf.data input pipeline: batch n as a function of (seed, n), sliced and placed on devices.

The training examples, shuffled anew for every epoch, form one endless sequence, and batch n is its
slice [n * batch, (n + 1) * batch). Without a shuffle buffer or iterator state a run resumes at any
step, on any number of workers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import augmentation
from trainer.plan import Plan


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    plan: Plan,
    first_step: int = 0,
    replicas: int = 1,
    local_replicas: Sequence[int] = (0,),
) -> list[tf.data.Dataset]:
    """Returns, for each local replica, the superbatches from the one that holds `first_step` on.

    Superbatch k holds the steps [k * steps_per_loop, (k + 1) * steps_per_loop): gathering thousands
    of examples at once costs a fraction of an element for each step. Of `images` uint8 [examples,
    28, 28] and `labels` uint8 [examples] they hold (uint8 [steps_per_loop, batch, 28, 28], int32
    [steps_per_loop, batch]), batch being the r-th of the equal slices of each global batch for
    replica r, and after it its share of `--outliers`, with the label `outliers.LABEL`.
    """
    seed, augment, batch_size = plan.config.seed, plan.config.augment, plan.config.batch_size
    # The parts of a global batch: how many images, of how many.
    parts = [(batch_size, len(images))]
    if extra := round(plan.config.outliers * batch_size):
        images, labels = _with_outliers(images, labels, seed)
        parts.append((extra, len(images) - parts[0][1]))
    places = np.split(np.arange(batch_size + extra), [batch_size])
    all_images, all_labels, stages, count = tf.constant(images), tf.constant(labels), [], 0
    if augment != "none":
        # Once, because XLA compiles padding to a test of every pixel.
        all_images = tf.pad(all_images, ((0, 0), (1, 1), (1, 1)))
        stages, count = augmentation.DISTORTIONS[augment]
        # XLA makes distortions several times as fast; they run beside the training step.
        stages = [tf.function(stage, jit_compile=True, autograph=False) for stage in stages]

    def replica_batches(replica: int) -> tf.data.Dataset:
        mine = np.concatenate([np.array_split(part, replicas)[replica] for part in places])

        @tf.autograph.experimental.do_not_convert  # which would take longer than all the rest
        def superbatch(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            steps = number * plan.steps_per_loop + tf.range(plan.steps_per_loop, dtype=tf.int64)
            chosen = tf.gather(_batch_examples(steps, parts, seed), mine, axis=1)
            pixels = tf.gather(all_images, tf.reshape(chosen, [-1]))
            if stages:
                offsets = augmentation.random_offsets(steps, seed, (batch_size + extra, count))
                offsets = tf.reshape(tf.gather(offsets, mine, axis=1), (-1, count))
                for stage in stages:
                    pixels = stage(pixels, offsets)
            pixels = tf.reshape(pixels, (*chosen.shape, 28, 28))
            return pixels, tf.cast(tf.gather(all_labels, chosen), tf.int32)

        numbers = first_step // plan.steps_per_loop, -(-plan.total_steps // plan.steps_per_loop)
        dataset = tf.data.Dataset.range(*numbers).map(superbatch).prefetch(2)
        return dataset.with_options(_options())

    return [replica_batches(replica) for replica in local_replicas]


def _with_outliers(images: np.ndarray, labels: np.ndarray, seed: int) -> list[np.ndarray]:
    from trainer.data import outliers  # makes tables of strokes

    pool = outliers.make(images, labels, seed)
    marks = np.full(len(pool), outliers.LABEL, labels.dtype)
    return [np.concatenate(pair) for pair in ((images, pool), (labels, marks))]


def _batch_examples(steps: tf.Tensor, parts: list[tuple[int, int]], seed: int) -> tf.Tensor:
    """Which images the global batches of `steps` hold, each part in an order of its own."""
    chosen, first = [], 0
    for size, examples in parts:
        positions = steps[:, None] * size + tf.range(size, dtype=tf.int64)
        chosen.append(first + example_order(positions, examples=examples, seed=seed))
        first += examples
    return tf.concat(chosen, 1)


def distribute(datasets: list[tf.data.Dataset], strategy: tf.distribute.Strategy) -> Iterator[Any]:
    """Returns an iterator over what `strategy.run` takes, of `datasets` from `training_batches`."""
    iterators = []
    for dataset, device in zip(datasets, strategy.extended.worker_devices, strict=True):
        if tf.DeviceSpec.from_string(device).device_type != "CPU":
            prefetch = tf.data.experimental.prefetch_to_device(device, buffer_size=1)
            dataset = dataset.apply(prefetch).with_options(_options())
        iterators.append(iter(dataset))
    return iterators[0] if len(iterators) == 1 else _per_replica(iterators, strategy)


def _per_replica(iterators: list[Iterator], strategy: tf.distribute.Strategy) -> Iterator[Any]:
    for local in zip(*iterators, strict=True):
        yield strategy.experimental_distribute_values_from_function(
            lambda context, local=local: local[context.replica_id_in_sync_group % len(local)]
        )


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.autotune.enabled = False  # with it an iterator's destructor can wait for minutes
    options.experimental_warm_start = True  # prepares the first element before it is asked for
    return options


def example_order(positions: tf.Tensor, *, examples: int, seed: int) -> tf.Tensor:
    """Returns which examples, int64 in [0, examples), stand at `positions` of the endless sequence.

    The positions are int64 of any shape; [e * examples, (e + 1) * examples) is epoch e.
    """
    flat = tf.reshape(positions, [-1])
    epochs = tf.cast(flat // examples, tf.int32)
    order = tf.raw_ops.RandomIndexShuffle(
        index=flat % examples,
        seed=tf.stack([tf.fill(tf.shape(flat), seed), epochs, tf.zeros_like(epochs)], 1),
        max_index=tf.constant(examples - 1, tf.int64),
        rounds=8,  # of the block cipher; with the default of 4 two epochs correlate at 0.8
    )
    return tf.reshape(order, tf.shape(positions))
