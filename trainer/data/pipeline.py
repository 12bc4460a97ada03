"""tf.data: which examples make up batch n, which replica gets which, how they are distorted.

Batch n is a function of (seed, n). The training examples, shuffled anew for every epoch, form one
endless sequence, and batch n is its slice [n * batch, (n + 1) * batch): no shuffle buffer, no
iterator state, and every epoch shows each example once whatever the batch size. So a run resumes at
any step, on any number of workers, in the same sequence.

Steps come in superbatches, one element of the dataset for a whole call of the training loop:
gathering thousands of examples at once costs a fraction of what an element a step does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# The largest distortions, each drawn uniformly between its negative and itself.
SHIFT = 0.5  # pixels, augment="shift"
AFFINE_SHIFT = 1.5  # pixels
ROTATION = math.radians(10)
SCALE = 0.1  # relative, in each direction for itself
SHEAR = 0.1  # pixels sideways a pixel of height

# augment="elastic" goes further in each of these, and moves each of its control points as well.
ELASTIC = 1.6
BEND = 1.6  # pixels

# Rounds of the block cipher in RandomIndexShuffle. With TensorFlow's default of 4 the orders of two
# epochs correlate at 0.8; from 8 on no statistic tells them from independent permutations.
_SHUFFLE_ROUNDS = 8

# Elastic bends an image by this many control points in each direction.
_CONTROLS = 4

# Random numbers that the augmentation of one example takes.
DRAWS = {"shift": 2, "affine": 6, "elastic": 6 + 2 * _CONTROLS**2}


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    global_batch_size: int,
    seed: int,
    augment: str,
    first_step: int,
    last_step: int,
    steps_per_loop: int,
    replicas: int = 1,
    local_replicas: Sequence[int] = (0,),
) -> tf.data.Dataset:
    """Returns the superbatches that hold steps first_step ... last_step - 1.

    Superbatch k holds steps [k * steps_per_loop, (k + 1) * steps_per_loop), so the first one may
    begin before `first_step`, and the last one may end after `last_step`.

    Args:
      images: uint8 [examples, 28, 28].
      labels: uint8 [examples].
      global_batch_size: examples a step, over all replicas; divisible by `replicas`.
      seed: of the run.
      augment: one of `recipes.AUGMENTATIONS`.
      first_step: the first step that is wanted.
      last_step: the step after the last one that is wanted.
      steps_per_loop: steps in a superbatch.
      replicas: how many replicas share a global batch; replica r takes the r-th of its equal
        slices.
      local_replicas: the numbers of this process's replicas.

    Returns:
      A dataset of (images uint8 [steps_per_loop, batch, 28, 28], labels int32 [steps_per_loop,
      batch]), batch being a replica's share, for each superbatch one element for every local
      replica in turn.
    """
    batch = global_batch_size // replicas
    local, examples = len(local_replicas), len(images)
    all_images, all_labels, distort = tf.constant(images), tf.constant(labels), None
    if augment != "none":
        all_images = with_margin(all_images)
        # Compiled they are several times as fast; they run beside the training step.
        distort = tf.function(DISTORTIONS[augment], jit_compile=True, autograph=False)

    @tf.autograph.experimental.do_not_convert  # which would take longer than all the rest
    def superbatch(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        steps = (element // local) * steps_per_loop + tf.range(steps_per_loop, dtype=tf.int64)
        offset = (local_replicas[0] + element % local) * batch
        positions = (steps * global_batch_size + offset)[:, None] + tf.range(batch, dtype=tf.int64)
        chosen = example_order(positions, examples=examples, seed=seed)
        shape = (steps_per_loop, batch)
        numbers = tf.cast(tf.gather(all_labels, chosen), tf.int32)
        pixels = tf.gather(all_images, tf.reshape(chosen, [-1]))
        if distort:
            count = DRAWS[augment]
            draws = uniform_draws(steps, global_batch_size, offset, batch, count, seed)
            pixels = distort(pixels, tf.reshape(draws, (-1, count)))
        return tf.reshape(pixels, (*shape, 28, 28)), tf.ensure_shape(numbers, shape)

    first, last = first_step // steps_per_loop, -(-last_step // steps_per_loop)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_warm_start = True  # not only when the first element is asked for
    dataset = tf.data.Dataset.range(first * local, last * local).map(superbatch)
    return dataset.prefetch(2 * local).with_options(options)


def example_order(positions: tf.Tensor, *, examples: int, seed: int) -> tf.Tensor:
    """Returns which examples stand at some positions of the endless sequence.

    Args:
      positions: int64, any shape; [e * examples, (e + 1) * examples) is epoch e.
      examples: how many training examples there are.
      seed: of the run.

    Returns:
      int64 in [0, examples), shaped as `positions`; over the positions of an epoch a permutation.
    """
    flat = tf.reshape(positions, [-1])
    epochs = tf.cast(flat // examples, tf.int32)
    seeds = tf.stack([tf.fill(tf.shape(flat), seed), epochs, tf.zeros_like(epochs)], 1)
    order = tf.raw_ops.RandomIndexShuffle(
        index=flat % examples,
        seed=seeds,
        max_index=tf.constant(examples - 1, tf.int64),
        rounds=_SHUFFLE_ROUNDS,
    )
    return tf.reshape(order, tf.shape(positions))


def uniform_draws(
    steps: tf.Tensor, global_batch: int, offset: tf.Tensor, batch: int, count: int, seed: int
) -> tf.Tensor:
    """Returns float32 [steps, batch, count] in [-1, 1), a function of (seed, step) alone.

    Args:
      steps: int64 [steps].
      global_batch: examples a step.
      offset: the place in the global batch of the first example wanted.
      batch: how many examples are wanted.
      count: random numbers an example, one of `DRAWS`.
      seed: of the run.
    """

    @tf.autograph.experimental.do_not_convert
    def of_step(step: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.constant(seed, tf.int64), step])
        draws = tf.random.stateless_uniform((global_batch, count), key, -1.0, 1.0, alg="philox")
        return draws[offset : offset + batch]

    return tf.map_fn(of_step, steps, fn_output_signature=tf.TensorSpec([batch, count], tf.float32))


def with_margin(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Returns uint8 [n, 28, 28] as the distortions take them, in a black margin of a pixel.

    Made once for all: where XLA adds a margin, it looks at each pixel whether it is in it.
    """
    return tf.pad(images, ((0, 0), (1, 1), (1, 1)))


def shift(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Returns images moved by up to half a pixel; what comes in is black.

    Args:
      images: uint8 [n, 30, 30], with a margin.
      draws: float32 [n, 2] in [-1, 1]: the share of the largest shift, down and to the right.

    Returns:
      uint8 [n, 28, 28], interpolated bilinearly.
    """
    by = draws[:, :, None, None] * SHIFT
    # The shares of the pixel before, the one there and the one after it, [n, 2, 1, 1].
    taps = tf.nn.relu(by), 1 - tf.abs(by), tf.nn.relu(-by)
    moved = sum(
        taps[row][:, 0]
        * taps[column][:, 1]
        * tf.cast(images[:, row : row + 28, column : column + 28], tf.float32)
        for row in range(3)
        for column in range(3)
    )
    return tf.cast(moved + 0.5, tf.uint8)


def affine(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Returns images shifted, rotated, scaled and sheared about their centres, on black.

    Args:
      images: uint8 [n, 30, 30], with a margin.
      draws: float32 [n, 6] in [-1, 1]: the share of the largest distortion that each image gets.

    Returns:
      uint8 [n, 28, 28], interpolated bilinearly.
    """
    return _sampled(images, *_affine_places(draws))


def elastic(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Returns images distorted as by `affine`, only more, and bent smoothly.

    The bend is a field of displacements after Simard, Steinkraus and Platt, "Best practices for
    convolutional neural networks applied to visual document analysis", 2003, section 2; smooth
    because it is a cubic B-spline over a coarse grid of random displacements.

    Args:
      images: uint8 [n, 30, 30], with a margin.
      draws: float32 [n, 38] in [-1, 1]: the share of the largest distortion that each image gets.

    Returns:
      uint8 [n, 28, 28], interpolated bilinearly.
    """
    x, y = _affine_places(draws[:, :6] * ELASTIC)
    controls = tf.reshape(draws[:, 6:], (-1, 2, _CONTROLS, _CONTROLS)) * BEND
    spline = tf.constant(_spline())
    bend_x, bend_y = tf.unstack(tf.einsum("yi,ncij,xj->cnyx", spline, controls, spline))
    return _sampled(images, x + bend_x, y + bend_y)


def _affine_places(draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the x, and the y, in an image that the pixels of the result come from.

    Args:
      draws: float32 [n, 6]: the share of the largest distortion that each image gets.

    Returns:
      Two of float32 [n, 28, 28].
    """
    down, right, turn, tall, wide, slant = tf.unstack(draws[:, :, None, None], axis=1)
    angle = turn * ROTATION
    height, width = 1 + tall * SCALE, 1 + wide * SCALE
    x, y = tf.range(28.0), tf.range(28.0)[:, None]
    centre = (28 - 1) / 2
    x, y = x - centre, y - centre
    from_x = tf.cos(angle) / width * x + (tf.sin(angle) / width + slant * SHEAR) * y
    from_y = tf.cos(angle) / height * y - tf.sin(angle) / height * x
    return from_x + centre + right * AFFINE_SHIFT, from_y + centre + down * AFFINE_SHIFT


def _sampled(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns what images are at some places, interpolated bilinearly: uint8 [n, 28, 28].

    Args:
      images: uint8 [n, 30, 30], with a margin.
      x: float32 [n, 28, 28], to the right, in the image without its margin.
      y: likewise, downwards.
    """
    left, top = (tf.clip_by_value(place + 1, 0.0, 28.999) for place in (x, y))
    column, row = tf.floor(left), tf.floor(top)
    right, below = left - column, top - row  # the shares of the pixels there
    flat = tf.reshape(images, (-1, 30 * 30))
    first = tf.cast(row * 30 + column, tf.int32)

    def pixel(offset):
        found = tf.gather(flat, tf.reshape(first, (-1, 28 * 28)) + offset, batch_dims=1)
        return tf.cast(tf.reshape(found, tf.shape(left)), tf.float32)

    upper = pixel(0) * (1 - right) + pixel(1) * right
    lower = pixel(30) * (1 - right) + pixel(31) * right
    return tf.cast(upper * (1 - below) + lower * below + 0.5, tf.uint8)


def _spline() -> np.ndarray:
    """The weights of the control points for each pixel of a row, float32 [28, controls]."""
    places = (np.arange(28) + 0.5) / 28 * _CONTROLS - 0.5
    far = np.abs(places[:, None] - np.arange(_CONTROLS))
    near = 2 / 3 - far**2 + far**3 / 2
    weights = np.where(far < 1, near, np.maximum(2 - far, 0) ** 3 / 6)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


DISTORTIONS = {"shift": shift, "affine": affine, "elastic": elastic}
