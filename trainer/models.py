"""The named models: images in, logits out. Their recipes are in `recipes.py`."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers


class MaxPool(layers.Layer):
    """2x2 max pooling as a plain maximum, for XLA.

    XLA turns the gradient of `MaxPooling2D` into a scatter, which on a CPU takes longer than the
    convolutions around it.
    """

    def call(self, inputs):
        """Returns [n, height / 2, width / 2, channels]."""
        _, height, width, channels = inputs.shape
        blocks = tf.reshape(inputs, (-1, height // 2, 2, width // 2, 2, channels))
        return tf.reduce_max(blocks, (2, 4))

    def compute_output_shape(self, input_shape):
        """Returns the shape that `call` gives."""
        batch, height, width, channels = input_shape
        return batch, height // 2, width // 2, channels


def mlp(pool: type[layers.Layer]) -> list[layers.Layer]:
    """The network this project began with: one hidden layer of 128 units."""
    return [layers.Flatten(), layers.Dense(128, activation="relu", name="hidden")]


def cnn(pool: type[layers.Layer]) -> list[layers.Layer]:
    """Two 5x5 convolutions of 32 filters and a hidden layer: small, and fast on a CPU.

    No BatchNorm: in training it costs a CPU more than the convolutions beside it.
    """
    relu = {"activation": "relu", "kernel_initializer": "he_normal"}
    return [
        layers.Reshape((28, 28, 1)),
        layers.Conv2D(32, 5, padding="same", name="conv1", **relu),
        pool(name="pool1"),
        layers.Conv2D(32, 5, padding="same", name="conv2", **relu),
        pool(name="pool2"),
        layers.Flatten(),
        layers.Dense(128, name="hidden", **relu),
    ]


def convnet(pool: type[layers.Layer]) -> list[layers.Layer]:
    """Four convolutions and a wider hidden layer: the best accuracy for minutes of training."""
    relu = {"activation": "relu", "kernel_initializer": "he_normal"}
    return [
        layers.Reshape((28, 28, 1)),
        layers.Conv2D(32, 5, padding="same", name="conv1", **relu),
        pool(name="pool1"),
        layers.Conv2D(64, 3, padding="same", name="conv2", **relu),
        layers.Conv2D(64, 3, padding="same", name="conv3", **relu),
        pool(name="pool2"),
        layers.Conv2D(128, 3, padding="same", name="conv4", **relu),
        layers.Flatten(),
        layers.Dense(256, name="hidden", **relu),
    ]


MODELS: dict[str, Callable[[type[layers.Layer]], list[layers.Layer]]] = {
    "mlp": mlp,
    "cnn": cnn,
    "convnet": convnet,
}


def build(
    name: str, *, precision: str = "float32", jit_compile: bool = False, seed: int = 1
) -> keras.Model:
    """Returns the model `name`, its weights a function of `seed` alone.

    Args:
      name: a key of `MODELS`.
      precision: `float32`, `bfloat16` or `float16`: what the layers compute in. Variables and
        logits are float32.
      jit_compile: whether XLA compiles it; this decides how it pools, not what comes out.
      seed: decides the initial weights.

    The model takes pixels as float32 [n, 28, 28] between 0 and 1 and returns float32 logits
    [n, 10].
    """
    keras.utils.set_random_seed(seed)
    body = MODELS[name](MaxPool if jit_compile else layers.MaxPooling2D)
    for layer in body:
        layer.dtype_policy = precision if precision == "float32" else f"mixed_{precision}"
    logits = layers.Dense(10, name="logits", dtype="float32")
    return keras.Sequential([keras.Input((28, 28), name="images"), *body, logits], name=name)
