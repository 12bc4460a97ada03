"""Random distortions of the training digits.

Each takes images uint8 [n, 30, 30], padded by a black pixel on each side, and offsets in [-1, 1],
which multiply its largest distortions, for each image; it returns uint8 [n, 28, 28], bilinear.
`photo` is `affine` and then `pen`.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

SHIFT = 0.5  # pixels; of `shift`
AFFINE_SHIFT = 1.5  # pixels; of `affine`, as the next three
ROTATION = math.radians(10)
SCALE = 0.1  # relative, of height and width independently
SHEAR = 0.1  # pixels to the side for each pixel of height
STROKE = 0.3  # of full ink, that `pen` moves the level that ends a stroke
PALE = 0.35  # of full ink, that a pale stroke lacks
GAP, AROUND = 2.0, 10  # pixels: a gap's largest radius, and how far from the centre it is
ELASTIC = 1.6  # `elastic` distorts as many times as much as `affine`
BEND = 1.6  # pixels that `elastic` moves a control point, to the right and down
_CONTROLS = 4  # control points in each direction


def random_offsets(steps: tf.Tensor, seed: int, shape: tuple[int, int]) -> tf.Tensor:
    """Returns float32 [steps, *shape] in [-1, 1), a function of (seed, step) for each of `steps`.

    These are int64 [steps]; the shape is (examples, offsets for each) of a global batch.
    """

    @tf.autograph.experimental.do_not_convert
    def of_step(step: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.constant(seed, tf.int64), step])
        return tf.random.stateless_uniform(shape, key, -1.0, 1.0, alg="philox")

    return tf.map_fn(of_step, steps, fn_output_signature=tf.TensorSpec(shape, tf.float32))


def shift(images: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Moves images; offsets float32 [n, 2]: down, right."""
    by = offsets[:, :, None, None] * SHIFT
    # The weights of the pixel before, the pixel itself and the one after it, [n, 2, 1, 1].
    taps = tf.nn.relu(by), 1 - tf.abs(by), tf.nn.relu(-by)
    moved = sum(
        taps[row][:, 0]
        * taps[column][:, 1]
        * tf.cast(images[:, row : row + 28, column : column + 28], tf.float32)
        for row in range(3)
        for column in range(3)
    )
    return tf.cast(moved + 0.5, tf.uint8)


def affine(images: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Distorts images.

    The first six offsets, float32 [n, 6 or more]: down, right, rotation, height, width, shear.
    """
    return _sampled(images, *_affine_coordinates(offsets[:, :6]))


def pen(images: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Changes strokes of images [n, 28, 28] as pens, cameras and thresholds do.

    The last six of the offsets, float32 [n, 6 or more]: width, blur, paleness; of a gap, its place
    to the right, down, and its size. A blurred stroke is as wide as the level that cuts its soft
    edges off makes it.
    """
    width, blur, paleness, x, y, gap = tf.unstack(offsets[:, -6:, None, None], axis=1)
    pixels = tf.cast(images, tf.float32) / 255
    at = tf.range(28.0) - 13.5
    away = tf.sqrt((at - AROUND * x) ** 2 + (at[:, None] - AROUND * y) ** 2)
    pixels *= tf.clip_by_value(away - GAP * gap, 0.0, 1.0)
    padded = tf.pad(pixels, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    soft = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    change = width**3  # most digits change little
    pixels += tf.maximum(tf.abs(change), tf.nn.relu(blur)) * (soft - pixels)
    gain = 0.5 / (0.5 - STROKE * tf.abs(change))  # keeps paper black and ink white
    pixels = tf.clip_by_value((pixels - 0.5 + STROKE * change) * gain + 0.5, 0.0, 1.0)
    pixels *= 1 - PALE * tf.nn.relu(paleness)
    return tf.cast(255 * pixels + 0.5, tf.uint8)


def elastic(images: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Distorts images as `affine` does, only more, and bends them smoothly.

    Displacements after Simard, Steinkraus and Platt, "Best practices for convolutional neural
    networks applied to visual document analysis", 2003, section 2, as a cubic B-spline over a grid
    of control points. Offsets float32 [n, 38]: of `affine`, then these points' right, then down.
    """
    x, y = _affine_coordinates(offsets[:, :6] * ELASTIC)
    controls = tf.reshape(offsets[:, 6:], (-1, 2, _CONTROLS, _CONTROLS)) * BEND
    spline = tf.constant(_spline())
    bend_x, bend_y = tf.unstack(tf.einsum("yi,ncij,xj->cnyx", spline, controls, spline))
    return _sampled(images, x + bend_x, y + bend_y)


def _affine_coordinates(offsets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns x and y, float32 [n, 28, 28], in the image of each pixel of the result."""
    down, right, turn, tall, wide, slant = tf.unstack(offsets[:, :, None, None], axis=1)
    angle = turn * ROTATION
    height, width = 1 + tall * SCALE, 1 + wide * SCALE
    centre = (28 - 1) / 2
    x, y = tf.range(28.0) - centre, tf.range(28.0)[:, None] - centre
    from_x = tf.cos(angle) / width * x + (tf.sin(angle) / width + slant * SHEAR) * y
    from_y = tf.cos(angle) / height * y - tf.sin(angle) / height * x
    return from_x + centre + right * AFFINE_SHIFT, from_y + centre + down * AFFINE_SHIFT


def _sampled(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Interpolates images at x and y, counted without the margin."""
    left, top = (tf.clip_by_value(coordinate + 1, 0.0, 28.999) for coordinate in (x, y))
    column, row = tf.floor(left), tf.floor(top)
    right, below = left - column, top - row  # the weights of the pixels there
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
    at = (np.arange(28) + 0.5) / 28 * _CONTROLS - 0.5
    far = np.abs(at[:, None] - np.arange(_CONTROLS))
    near = 2 / 3 - far**2 + far**3 / 2
    weights = np.where(far < 1, near, np.maximum(2 - far, 0) ** 3 / 6)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


# The stages of each distortion, and the number of offsets for an image. XLA compiles stages apart:
# together it would repeat the first for each pixel that the next looks at.
DISTORTIONS = {
    "shift": ((shift,), 2),
    "affine": ((affine,), 6),
    "photo": ((affine, pen), 6 + 6),
    "elastic": ((elastic,), 6 + 2 * _CONTROLS**2),
}
