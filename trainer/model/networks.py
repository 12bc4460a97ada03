"""The named networks in Keras, and their inference: images in, logits out."""

import keras
import tensorflow as tf
from keras import layers

from trainer.model import xla_layers
from trainer.recipes import RECIPES

# A digit as it is, and moved by a pixel each way: (top, left) of crops of it in a 1-pixel margin.
SHIFTS = (1, 1), (0, 1), (2, 1), (1, 0), (1, 2)

_RELU = {"activation": "relu", "kernel_initializer": "he_normal"}


def mlp(xla: bool) -> list[layers.Layer]:
    """One hidden layer of 128 units."""
    activation = xla_layers.relu if xla else "relu"
    return [layers.Flatten(), layers.Dense(128, activation=activation, name="hidden")]


def cnn(xla: bool) -> list[layers.Layer]:
    """Three convolutions and a hidden layer: small, and fast on a CPU."""
    pool = xla_layers.MaxPool if xla else layers.MaxPooling2D
    return [
        *_first_convolution(16, xla),
        layers.Conv2D(48, 3, name="conv2", **_RELU),
        pool(name="pool2"),
        layers.Conv2D(96, 3, padding="same", name="conv3", **_RELU),
        pool(name="pool3"),
        layers.Flatten(),
        layers.Dense(128, name="hidden", **_RELU),
    ]


def convnet(xla: bool) -> list[layers.Layer]:
    """Five convolutions and a hidden layer: for long runs.

    With GroupNorm of one group (Wu and He, https://arxiv.org/abs/1803.08494), as with BatchNorm an
    example's gradient would depend on the replicas, and SiLU (https://arxiv.org/abs/1702.03118).
    """
    pool = xla_layers.MaxPool if xla else layers.MaxPooling2D
    return [
        *_first_convolution(24, xla),
        *_normalized_convolution(48, "conv2", padding="valid"),
        *_normalized_convolution(48, "conv3"),
        pool(name="pool3"),
        *_normalized_convolution(96, "conv4"),
        *_normalized_convolution(96, "conv5"),
        pool(name="pool5"),
        layers.Flatten(),
        layers.Dense(192, name="hidden", **_RELU),
    ]


def _first_convolution(filters: int, xla: bool) -> list[layers.Layer]:
    """A 5x5 convolution of the image, ReLU and 2x2 max pooling."""
    image, conv1 = layers.Reshape((28, 28, 1)), {"padding": "same", "name": "conv1"} | _RELU
    if xla:
        return [image, xla_layers.ConvMaxPool(filters, 5, 2, **conv1)]
    return [image, layers.Conv2D(filters, 5, **conv1), layers.MaxPooling2D(name="pool1")]


def _normalized_convolution(filters: int, name: str, padding: str = "same") -> list[layers.Layer]:
    kernel = {"use_bias": False, "kernel_initializer": "he_normal"}
    return [
        layers.Conv2D(filters, 3, padding=padding, name=name, **kernel),
        layers.GroupNormalization(1, name=f"{name}_norm"),
        layers.Activation("silu", name=f"{name}_silu"),
    ]


# The layers up to the last hidden one, for XLA or not.
MODELS = {"mlp": mlp, "cnn": cnn, "convnet": convnet}


def build(
    name: str, *, precision: str = "float32", jit_compile: bool = False, seed: int = 1
) -> keras.Model:
    """Returns the model `name`: float32 [n, 28, 28] between 0 and 1 to float32 logits [n, 10].

    The hidden layers compute in `precision`, with variables of float32. `jit_compile` gives other
    operations, fast under XLA, for the same function. `seed` decides the initial weights.
    """
    keras.utils.set_random_seed(seed)
    hidden = MODELS[name](jit_compile)
    for layer in hidden:
        layer.dtype_policy = precision if precision == "float32" else f"mixed_{precision}"
    dense = xla_layers.Logits if jit_compile else layers.Dense
    logits = dense(10, name="logits", dtype="float32")
    return keras.Sequential([keras.Input((28, 28), name="images"), *hidden, logits], name=name)


def logits(model: keras.Model, digits: tf.Tensor) -> tf.Tensor:
    """Returns the logits of digits in inference, float32 [n, 10] for uint8 [n, 28, 28], n >= 0.

    Their mean over `SHIFTS` if the recipe says so: test-time augmentation (Krizhevsky et al.,
    "ImageNet classification with deep convolutional neural networks", 2012, section 4.1).
    """
    # Pads an empty batch: oneDNN's convolution (TensorFlow 2.21, on CPUs with AVX-512) gives it the
    # wrong number of channels.
    count = tf.shape(digits)[0]
    padded = tf.pad(digits, ((0, tf.cast(count == 0, tf.int32)), (0, 0), (0, 0)))
    pixels = tf.cast(tf.ensure_shape(padded, (None, 28, 28)), tf.float32) / 255
    if not RECIPES[model.name].test_time_shifts:
        return model(pixels, training=False)[:count]
    wide = tf.pad(pixels, ((0, 0), (1, 1), (1, 1)))
    crops = tf.concat([wide[:, top : top + 28, left : left + 28] for top, left in SHIFTS], 0)
    answers = tf.reshape(model(crops, training=False), (len(SHIFTS), -1, 10))
    return tf.reduce_mean(answers, 0)[:count]


def features(model: keras.Model, pixels: tf.Tensor) -> tf.Tensor:
    """Returns the last hidden layer's activations, float32 [n, units], of float32 [n, 28, 28]."""
    for layer in model.layers[:-1]:
        pixels = layer(pixels, training=False)
    return tf.cast(pixels, tf.float32)
