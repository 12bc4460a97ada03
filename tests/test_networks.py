"""The networks: XLA's formulations compute what Keras's layers do; inference over shifts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import runs
import tensorflow as tf

from trainer.model import networks


def gradients(model: keras.Model, pixels: np.ndarray) -> tuple[tf.Tensor, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
        logits = model(pixels, training=True)
        loss = tf.reduce_sum(tf.sin(logits))
    return logits, tape.gradient(loss, model.trainable_variables)


def close(one: tf.Tensor, other: tf.Tensor) -> bool:
    return np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other)


@pytest.mark.parametrize("name", sorted(networks.MODELS))
def test_a_model_for_xla_has_the_same_weights_answers_and_gradients(name: str) -> None:
    # Few digits: of the units of many, one is so near the kink of a ReLU or a pool that rounding
    # decides.
    pixels = runs.tiny_arrays()[0][:8] / np.float32(255)
    plain, fast = (networks.build(name, jit_compile=xla, seed=5) for xla in (False, True))
    assert [weight.path for weight in plain.weights] == [weight.path for weight in fast.weights]
    for one, other in zip(plain.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    of_plain, of_fast = gradients(plain, pixels), gradients(fast, pixels)
    assert of_plain[0].shape == (8, 10)
    assert close(of_fast[0], of_plain[0])
    for weight, one, other in zip(plain.weights, of_fast[1], of_plain[1], strict=True):
        assert close(one, other), weight.path


@pytest.mark.parametrize("name", sorted(networks.MODELS))
def test_a_digit_is_read_the_same_alone_as_among_others(name: str) -> None:
    digits = runs.tiny_arrays()[0][:6]
    model = networks.build(name, seed=5)
    alone = np.concatenate([networks.logits(model, digits[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(networks.logits(model, digits), alone, rtol=1e-4, atol=1e-5)
    assert networks.logits(model, digits[:0]).shape == (0, 10)


@pytest.mark.parametrize(("name", "reach"), [("mlp", 0), ("cnn", 0), ("convnet", 1)])
def test_convnet_alone_answers_with_the_mean_over_shifts_by_a_pixel(name: str, reach: int) -> None:
    digits = runs.tiny_arrays()[0][:6]
    model = networks.build(name, seed=5)
    padded = np.pad(digits, ((0, 0), (1, 1), (1, 1))) / np.float32(255)
    places = {(1, 1), (1 - reach, 1), (1 + reach, 1), (1, 1 - reach), (1, 1 + reach)}
    crops = [padded[:, top : top + 28, left : left + 28] for top, left in places]
    mean = np.mean([model(crop, training=False) for crop in crops], 0)
    np.testing.assert_allclose(networks.logits(model, digits), mean, rtol=1e-4, atol=1e-5)
