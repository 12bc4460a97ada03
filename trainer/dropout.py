"""Dropout as a function of (seed, step) and an example's place in the global batch alone.

Keras's layer counts its calls, and each replica drops the same for its first example as the others
for theirs. Here a run does not depend on how many replicas share its batches, and can be resumed at
any step.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from keras import layers


class Place(NamedTuple):
    """Where some digits stand in a run.

    Attributes:
      seed: of the run.
      step: int32 tensor ().
      first: int32 tensor (), the place in the global batch of the first of them.
    """

    seed: int
    step: tf.Tensor
    first: tf.Tensor


_place: contextvars.ContextVar[Place] = contextvars.ContextVar("place")


@contextlib.contextmanager
def training_at(place: Place) -> Iterator[None]:
    """Within it a model is called in training, with the digits that stand at `place`."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


class Dropout(layers.Layer):
    """Sets a share of the features to zero in training, and scales up the others.

    Srivastava et al., https://jmlr.org/papers/v15/srivastava14a.html.

    Args:
      rate: the share of the features that is dropped, from 0 to below 1.
      number: two layers of different numbers drop different features.
    """

    def __init__(self, rate: float, number: int, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.number = rate, number

    def call(self, inputs, training=False):
        """Returns [n, ...] for [n, ...]; raises `LookupError` in training out of `training_at`."""
        if not training:
            return inputs
        place = _place.get()
        step = tf.cast(place.step, tf.uint32)
        keys = [_mixed(_mixed(step * 4 + half, place.seed), self.number) for half in (0, 1)]
        first = tf.cast(place.first, tf.uint32)
        return inputs * _factors(tuple(inputs.shape), inputs.dtype, self.rate, first, *keys)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _factors(shape, dtype, rate, first, *keys):
    """What features are multiplied with; each draws a number of its own from the two keys."""
    examples, features = shape[0], math.prod(shape[1:])
    rows = tf.cast(tf.range(examples), tf.uint32) + first
    numbers = rows[:, None] * features + tf.cast(tf.range(features), tf.uint32)
    kept = _mixed(numbers + keys[0], keys[1]) >= int(rate * 2**32)
    return tf.reshape(tf.cast(kept, dtype) / (1 - rate), shape)


def _mixed(numbers, key):
    """Random bits, uint32, for numbers, uint32: the end of MurmurHash3, with a key in the middle.

    XLA takes twenty times as long for TensorFlow's Philox on a CPU, and gives other numbers than
    TensorFlow does without it. Appleby, https://github.com/aappleby/smhasher.
    """
    shift = tf.bitwise.right_shift
    numbers = (numbers ^ shift(numbers, 16)) * 0x85EBCA6B + tf.cast(key, tf.uint32)
    numbers = (numbers ^ shift(numbers, 13)) * 0xC2B2AE35
    return numbers ^ shift(numbers, 16)
