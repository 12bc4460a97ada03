"""The networks: what XLA is given instead of a layer computes what the layer does."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainer import data
from trainer.model import networks


def gradients(model, pixels):
    with tf.GradientTape() as tape:
        logits = model(pixels, training=True)
        loss = tf.reduce_sum(tf.sin(logits))
    return logits, tape.gradient(loss, model.trainable_variables)


def close(one, other):
    return np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other)


@pytest.mark.parametrize("name", sorted(networks.MODELS))
def test_a_model_for_xla_has_the_same_weights_answers_and_gradients(name):
    # Few digits: of the units of many, one is so near the kink of a ReLU or a pool that rounding
    # decides.
    pixels = data.load("synthetic").train_images[:8] / np.float32(255)
    plain, fast = networks.build(name, seed=5), networks.build(name, jit_compile=True, seed=5)
    assert [weight.path for weight in plain.weights] == [weight.path for weight in fast.weights]
    for one, other in zip(plain.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    of_plain, of_fast = gradients(plain, pixels), gradients(fast, pixels)
    assert close(of_fast[0], of_plain[0])
    for weight, one, other in zip(plain.weights, of_fast[1], of_plain[1], strict=True):
        assert close(one, other), weight.path


@pytest.mark.parametrize("name", sorted(networks.MODELS))
def test_a_digit_is_read_the_same_alone_as_among_others(name):
    digits = data.load("synthetic").train_images[:6]
    model = networks.build(name, seed=5)
    alone = np.concatenate([networks.logits(model, digits[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(networks.logits(model, digits), alone, rtol=1e-4, atol=1e-5)
    assert networks.logits(model, digits[:0]).shape == (0, 10)


@pytest.mark.parametrize(("size", "shape"), [(3, (28, 28)), (5, (8, 12)), (7, (28, 28))])
def test_a_convolution_with_its_pool_is_what_the_two_layers_give(size, shape):
    images = np.random.default_rng(1).normal(size=(4, *shape, 1)).astype(np.float32)
    fused = networks.ConvMaxPool(6, size, padding="same", bias_initializer="normal")
    convolution = layers.Conv2D(6, size, padding="same", activation="relu")
    answer = fused(images)
    convolution.build(images.shape)
    convolution.set_weights(fused.get_weights())
    expected = layers.MaxPooling2D()(convolution(images))
    assert fused.compute_output_shape(images.shape) == expected.shape
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
