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
BEND = 1.0  # pixels, by which augment="elastic" moves each of its control points as well

# Rounds of the block cipher in RandomIndexShuffle. With TensorFlow's default of 4 the orders of two
# epochs correlate at 0.8; from 8 on no statistic tells them from independent permutations.
_SHUFFLE_ROUNDS = 8

# Elastic bends an image by this many control points in each direction.
_CONTROLS = 4

# Random numbers that the augmentation of one example takes.
DRAWS = {"shift": 6, "affine": 6, "elastic": 6 + 2 * _CONTROLS**2}


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
      replica in turn. With `augment="shift"` a third part, float32 [steps_per_loop, batch, 2], is
      what `shift` takes in the training step; the others are in the images already.
    """
    batch = global_batch_size // replicas
    all_images, all_labels = tf.constant(images), tf.constant(labels)
    local = len(local_replicas)

    @tf.autograph.experimental.do_not_convert  # which would take longer than all the rest
    def superbatch(element: tf.Tensor) -> tuple[tf.Tensor, ...]:
        steps = (element // local) * steps_per_loop + tf.range(steps_per_loop, dtype=tf.int64)
        offset = (local_replicas[0] + element % local) * batch
        positions = (steps * global_batch_size + offset)[:, None] + tf.range(batch, dtype=tf.int64)
        chosen = example_order(positions, examples=len(images), seed=seed)
        pixels = tf.gather(all_images, chosen)
        shape = (steps_per_loop, batch)
        parts = [tf.ensure_shape(tf.cast(tf.gather(all_labels, chosen), tf.int32), shape)]
        if augment != "none":
            count = DRAWS[augment]
            draws = uniform_draws(steps, global_batch_size, offset, batch, count, seed)
        if augment in DISTORTIONS:
            flat = tf.reshape(pixels, (-1, 28, 28))
            flat = DISTORTIONS[augment](flat, tf.reshape(draws, (-1, count)))
            pixels = tf.reshape(flat, tf.shape(pixels))
        elif augment == "shift":
            parts.append(tf.ensure_shape(draws[..., :2] * SHIFT, (*shape, 2)))
        return tf.ensure_shape(pixels, (*shape, 28, 28)), *parts

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


def shift(images: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    """Returns images moved by up to a pixel, interpolated linearly; what comes in is black.

    A filter of three taps in each direction: nothing but multiplications and additions, which XLA
    fuses into the training step.

    Args:
      images: float32 [n, 28, 28].
      by: float32 [n, 2], pixels down and to the right, each between -1 and 1.

    Returns:
      float32 [n, 28, 28].
    """
    for axis in (1, 2):
        pixels = by[:, axis - 1, None, None]
        padding = [[0, 0], [0, 0], [0, 0]]
        padding[axis] = [1, 1]
        padded = tf.pad(images, padding)
        before, after = (
            (padded[:, :28], padded[:, 2:]) if axis == 1 else (padded[..., :28], padded[..., 2:])
        )
        images = (
            (1 - tf.abs(pixels)) * images
            + tf.nn.relu(pixels) * before
            + tf.nn.relu(-pixels) * after
        )
    return images


def affine(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Returns images shifted, rotated, scaled and sheared about their centres, on black.

    Args:
      images: uint8 [n, 28, 28].
      draws: float32 [n, 6] in [-1, 1]: the share of the largest distortion that each image gets.

    Returns:
      uint8 [n, 28, 28], interpolated bilinearly.
    """
    (xx, xy, x0), (yx, yy, y0) = _inverse_map(draws)
    zero = tf.zeros_like(xx)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images[..., None],
        transforms=tf.stack([xx, xy, x0, yx, yy, y0, zero, zero], 1),
        output_shape=(28, 28),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[..., 0]


def _inverse_map(draws: tf.Tensor):
    """Returns the maps from a pixel (x, y, 1) of the result to the x, and to the y, of the image.

    Args:
      draws: float32 [n, 6] in [-1, 1].
    """
    down, right, turn, tall, wide, slant = tf.unstack(draws, axis=1)
    angle = turn * ROTATION
    height, width = 1 + tall * SCALE, 1 + wide * SCALE
    xx = tf.cos(angle) / width
    xy = tf.sin(angle) / width + slant * SHEAR
    yx = -tf.sin(angle) / height
    yy = tf.cos(angle) / height
    centre = (28 - 1) / 2
    x0 = centre + right * AFFINE_SHIFT - centre * (xx + xy)
    y0 = centre + down * AFFINE_SHIFT - centre * (yx + yy)
    return (xx, xy, x0), (yx, yy, y0)


# Compiled it is six times as fast; it runs beside the training step.
@tf.function(jit_compile=True, autograph=False)
def elastic(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Returns images distorted as by `affine`, and bent smoothly.

    The bend is a field of displacements after Simard, Steinkraus and Platt, "Best practices for
    convolutional neural networks applied to visual document analysis", 2003, section 2; smooth
    because it is a cubic B-spline over a coarse grid of random displacements.

    Args:
      images: uint8 [n, 28, 28].
      draws: float32 [n, 38] in [-1, 1]: the share of the largest distortion that each image gets.

    Returns:
      uint8 [n, 28, 28], interpolated bilinearly.
    """
    (xx, xy, x0), (yx, yy, y0) = _inverse_map(draws[:, :6])
    controls = tf.reshape(draws[:, 6:], (-1, 2, _CONTROLS, _CONTROLS)) * BEND
    spline = tf.constant(_spline())
    bend_x, bend_y = tf.unstack(tf.einsum("yi,ncij,xj->cnyx", spline, controls, spline))
    x, y = tf.range(28.0), tf.range(28.0)[:, None]

    def place(by_x, by_y, offset, bend):
        """Where in the image, with a black margin of a pixel about it, the pixels come from."""
        by_x, by_y, offset = (each[:, None, None] for each in (by_x, by_y, offset))
        return tf.clip_by_value(by_x * x + by_y * y + offset + bend + 1, 0.0, 28.999)

    left, top = place(xx, xy, x0, bend_x), place(yx, yy, y0, bend_y)
    column, row = tf.floor(left), tf.floor(top)
    right, below = left - column, top - row  # the shares of the pixels there
    flat = tf.reshape(tf.pad(images, [[0, 0], [1, 1], [1, 1]]), (-1, 30 * 30))
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


DISTORTIONS = {"affine": affine, "elastic": elastic}
