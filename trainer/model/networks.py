"""The named models: images in, logits out. Their recipes are in `recipes.py`."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers


@tf.custom_gradient
def relu(inputs):
    """The rectifier, its gradient a product, for XLA.

    XLA computes the usual gradient, a selection, in place, with masked stores, of which an AMD core
    does one in some twenty cycles.
    """
    outputs = tf.nn.relu(inputs)
    return outputs, lambda upstream: upstream * tf.sign(outputs)


@tf.custom_gradient
def few_columns(rows, kernel):
    """The product [n, k] x [k, columns] for XLA, where the columns are few.

    A product of few rows takes five times as long on a CPU as one of few columns, and the kernel's
    gradient may be either.
    """

    def gradients(upstream):
        of_rows = tf.matmul(upstream, kernel, transpose_b=True)
        # XLA (of TensorFlow 2.21) makes the other one of a product transposed, but not negated.
        return of_rows, -tf.transpose(-tf.matmul(upstream, rows, transpose_a=True))

    return rows @ kernel, gradients


class Logits(layers.Dense):
    """A layer of few units, for XLA."""

    def call(self, inputs):
        """Returns [n, units] for [n, features]."""
        return few_columns(inputs, tf.identity(self.kernel)) + self.bias


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


class ConvMaxPool(layers.Conv2D):
    """A "same" convolution of an image of one channel, ReLU and 2x2 max pooling, for XLA.

    As one matrix product. The four positions of a pool look at (size + 1) x (size + 1) pixels
    between them, size being the kernel's, which is odd: so the kernel is laid into such a patch in
    four places, and a patch times the four of them is all that a pool needs. A convolution of one
    channel is slow on a CPU, and pooling afterwards goes over four times the numbers.
    """

    def call(self, inputs):
        """Returns [n, height / 2, width / 2, filters] for [n, height, width, 1], even sizes."""
        _, height, width, _ = inputs.shape
        size, margin = self.kernel_size[0], self.kernel_size[0] // 2
        # Patches of whole 2x2 blocks of pixels, because a pool moves by two.
        padded = tf.pad(inputs[..., 0], ((0, 0), (margin, margin), (margin, margin)))
        rows, columns, reach = height // 2, width // 2, margin + 1
        blocks = tf.reshape(padded, (-1, rows + margin, 2, columns + margin, 2))
        blocks = tf.transpose(blocks, (0, 1, 3, 2, 4))
        blocks = tf.reshape(blocks, (-1, rows + margin, columns + margin, 4))
        patches = [
            blocks[:, down : down + rows, right : right + columns]
            for down in range(reach)
            for right in range(reach)
        ]
        patches = tf.reshape(tf.concat(patches, 3), (-1, (size + 1) ** 2))
        kernel = tf.cast(self.kernel, inputs.dtype)
        kernels = [
            tf.pad(kernel[:, :, 0], ((down, 1 - down), (right, 1 - right), (0, 0)))
            for down in (0, 1)
            for right in (0, 1)
        ]
        kernels = tf.reshape(tf.stack(kernels, 2), (reach, 2, reach, 2, 4 * self.filters))
        kernels = tf.reshape(tf.transpose(kernels, (0, 2, 1, 3, 4)), (-1, 4 * self.filters))
        products = tf.reshape(patches @ kernels, (-1, rows, columns, 4, self.filters))
        return tf.nn.relu(tf.reduce_max(products, 3) + tf.cast(self.bias, inputs.dtype))

    def compute_output_shape(self, input_shape):
        """Returns the shape that `call` gives."""
        batch, height, width, _ = input_shape
        return batch, height // 2, width // 2, self.filters


def mlp(xla: bool) -> list[layers.Layer]:
    """The network this project began with: one hidden layer of 128 units."""
    activation = relu if xla else "relu"
    return [layers.Flatten(), layers.Dense(128, activation=activation, name="hidden")]


def cnn(xla: bool) -> list[layers.Layer]:
    """Three convolutions of 16, 48 and 96 filters and a hidden layer: small, and fast on a CPU.

    Few filters where the image is large, a pool after each, and no BatchNorm: it would make what a
    digit teaches depend on the rest of its batch, and so on how many replicas share it.
    """
    pool = MaxPool if xla else layers.MaxPooling2D
    return [
        *_first(16, xla),
        layers.Conv2D(48, 3, name="conv2", **_RECTIFIED),
        pool(name="pool2"),
        layers.Conv2D(96, 3, padding="same", name="conv3", **_RECTIFIED),
        pool(name="pool3"),
        layers.Flatten(),
        layers.Dense(128, name="hidden", **_RECTIFIED),
    ]


def deep(xla: bool) -> list[layers.Layer]:
    """Five convolutions of 24, 48, 48, 96 and 96 filters and a hidden layer: for long runs."""
    pool = MaxPool if xla else layers.MaxPooling2D
    return [
        *_first(24, xla),
        *_normalized(48, "conv2", padding="valid"),
        *_normalized(48, "conv3"),
        pool(name="pool3"),
        *_normalized(96, "conv4"),
        *_normalized(96, "conv5"),
        pool(name="pool5"),
        layers.Flatten(),
        layers.Dense(192, name="hidden", **_RECTIFIED),
    ]


# The usual rectifier: between convolutions `relu` gains nothing.
_RECTIFIED = {"activation": "relu", "kernel_initializer": "he_normal"}


def _first(filters: int, xla: bool) -> list[layers.Layer]:
    """A 5x5 convolution of the image and its pool."""
    image = layers.Reshape((28, 28, 1))
    conv1 = {"filters": filters, "kernel_size": 5, "padding": "same", "name": "conv1"}
    if xla:
        return [image, ConvMaxPool(**conv1, **_RECTIFIED)]
    return [image, layers.Conv2D(**conv1, **_RECTIFIED), layers.MaxPooling2D(name="pool1")]


def _normalized(filters: int, name: str, padding: str = "same") -> list[layers.Layer]:
    """A 3x3 convolution, normalized over the whole of an image, and SiLU.

    GroupNorm of one group: Wu and He, https://arxiv.org/abs/1803.08494. Unlike BatchNorm it leaves
    what a digit teaches independent of the rest of its batch. SiLU, x * sigmoid(x), is a smooth
    rectifier: Elfwing, Uchibe and Doya, https://arxiv.org/abs/1702.03118.
    """
    kernel = {"use_bias": False, "kernel_initializer": "he_normal"}
    return [
        layers.Conv2D(filters, 3, padding=padding, name=name, **kernel),
        layers.GroupNormalization(1, name=f"{name}_norm"),
        layers.Activation("silu", name=f"{name}_silu"),
    ]


class Committee(layers.Layer):
    """Networks that learn side by side and answer as one.

    They differ in their initial weights alone, but not in what they get wrong, so that their mean
    is right more often than each: Lakshminarayanan, Pritzel and Blundell,
    https://arxiv.org/abs/1612.01474. Each looks at a digit where it is and a pixel to every side.
    """

    def __init__(self, members: list[keras.Model], **kwargs):
        super().__init__(**kwargs)
        self.members = members

    def call(self, inputs, training=False):
        """Returns the mean of their logits [n, 10]; in training all of them, [n, members, 10]."""
        if training:
            return tf.stack([member(inputs, training=True) for member in self.members], 1)
        padded = tf.pad(inputs, ((0, 0), (1, 1), (1, 1)))
        corners = (1, 1), (0, 1), (2, 1), (1, 0), (1, 2)
        looks = tf.concat([padded[:, top : top + 28, left : left + 28] for top, left in corners], 0)
        answers = [member(looks, training=False) for member in self.members]
        shape = len(self.members) * len(corners), tf.shape(inputs)[0], 10
        return tf.reduce_mean(tf.reshape(answers, shape), 0)

    def compute_output_shape(self, input_shape):
        """Returns the shape that `call` gives, but in training."""
        return input_shape[0], 10


# Each model's body, without the logits, and how many such networks it consists of.
MODELS: dict[str, tuple[Callable[[bool], list[layers.Layer]], int]] = {
    "mlp": (mlp, 1),
    "cnn": (cnn, 1),
    "convnet": (deep, 2),
}


def build(
    name: str, *, precision: str = "float32", jit_compile: bool = False, seed: int = 1
) -> keras.Model:
    """Returns the model `name`, its weights a function of `seed` alone.

    Args:
      name: a key of `MODELS`.
      precision: `float32`, `bfloat16` or `float16`: what the layers compute in. Variables and
        logits are float32.
      jit_compile: whether XLA compiles it; this decides by what operations, not what comes out.
      seed: decides the initial weights.

    The model takes pixels as float32 [n, 28, 28] between 0 and 1 and returns float32 logits
    [n, 10]; one of several networks returns each one's in training, float32 [n, networks, 10].
    """
    keras.utils.set_random_seed(seed)
    body, networks = MODELS[name]

    def network(name: str) -> keras.Model:
        hidden = body(jit_compile)
        for layer in hidden:
            layer.dtype_policy = precision if precision == "float32" else f"mixed_{precision}"
        dense = Logits if jit_compile else layers.Dense
        logits = dense(10, name="logits", dtype="float32")
        return keras.Sequential([keras.Input((28, 28), name="images"), *hidden, logits], name=name)

    if networks == 1:
        return network(name)
    members = [network(f"network{number}") for number in range(1, networks + 1)]
    committee = Committee(members, name="committee", dtype="float32")
    return keras.Sequential([keras.Input((28, 28), name="images"), committee], name=name)


def logits(model: keras.Model, digits: tf.Tensor) -> tf.Tensor:
    """Returns what a model answers in inference.

    Args:
      model: from `build`.
      digits: uint8 [n, 28, 28]; n may be 0.

    Returns:
      float32 [n, 10].
    """
    # A black digit in place of none: oneDNN's convolution (of TensorFlow 2.21, which uses it where
    # the CPU has AVX-512) gives nothing the wrong number of channels.
    count = tf.shape(digits)[0]
    some = tf.pad(digits, ((0, tf.cast(count == 0, tf.int32)), (0, 0), (0, 0)))
    pixels = tf.cast(tf.ensure_shape(some, (None, 28, 28)), tf.float32) / 255
    return model(pixels, training=False)[:count]


def features(model: keras.Model, pixels: tf.Tensor) -> tf.Tensor:
    """Returns what the last hidden layer makes of digits, of several networks side by side.

    Args:
      model: from `build`.
      pixels: float32 [n, 28, 28] between 0 and 1.

    Returns:
      float32 [n, features].
    """
    last = model.layers[-1]
    if isinstance(last, Committee):
        return tf.concat([features(member, pixels) for member in last.members], 1)
    for layer in model.layers[:-1]:
        pixels = layer(pixels, training=False)
    return tf.cast(pixels, tf.float32)
