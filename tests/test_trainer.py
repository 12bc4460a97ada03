"""The training step and the loop around it: against NumPy, and against themselves elsewhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from training import Plan, ReferenceAdamW, config, superbatch, trainer


def reference_step(
    adamw: ReferenceAdamW, images: np.ndarray, labels: np.ndarray
) -> tuple[float, float, float]:
    """Trains `mlp` on a batch; returns loss without smoothing, accuracy and gradient norm."""
    w1, b1, w2, b2 = adamw.weights
    pixels = images.reshape(len(images), -1) / 255
    hidden = np.maximum(pixels @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    smoothing = adamw.config.label_smoothing
    digits, batch = labels < 10, adamw.config.batch_size
    target = np.eye(11)[labels, :10] * (1 - smoothing) + smoothing / 10
    target[~digits] = 1 / 10
    slope = (probabilities - target) / batch
    back = slope @ w2.T * (hidden > 0)
    norm = adamw.apply([pixels.T @ back, back.sum(0), hidden.T @ slope, slope.sum(0)])
    loss = -np.log(probabilities[digits, labels[digits]]).sum() / batch
    return loss, (logits.argmax(1) == labels).sum() / batch, norm


@pytest.mark.parametrize("outliers", [0.0, 0.2])
@pytest.mark.parametrize("jit_compile", ["off", "step", "loop"])
def test_the_loop_is_adamw_on_the_smoothed_cross_entropy(jit_compile: str, outliers: float) -> None:
    """That of the digits; for what is no digit the target is uniform, and it counts as none."""
    settings = config(weight_decay=0.05, label_smoothing=0.2, warmup=0.1, outliers=outliers)
    model = trainer(settings, jit_compile=jit_compile)
    reference = ReferenceAdamW(model.model.get_weights(), Plan(settings))
    images, labels = superbatch(settings)
    steps = zip(images.numpy(), labels.numpy(), strict=True)
    loss, accuracy, norm = np.mean([reference_step(reference, *step) for step in steps], 0)
    result = model.run((images, labels), 0, 0, 10)
    assert result.failed_step is None
    assert result.steps == 10
    assert result.loss == pytest.approx(loss, rel=1e-4)
    assert result.accuracy == pytest.approx(accuracy, abs=1e-6)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-4)
    for weight, expected in zip(model.model.get_weights(), reference.weights, strict=True):
        # float32 against float64: a hundredth of one step's change.
        np.testing.assert_allclose(weight, expected, atol=settings.learning_rate / 100)
    assert float(model.learning_rate(4)) == pytest.approx(reference.rate(5))


def test_calls_of_any_length_make_the_same_weights_from_one_graph() -> None:
    settings = config(augment="shift")
    batches = superbatch(settings)
    whole, parts = trainer(settings), trainer(settings)
    parts.trace(tf.nest.map_structure(tf.TensorSpec.from_tensor, batches))
    together = whole.run(batches, 0, 0, 10)
    results = [parts.run(batches, 0, *edge) for edge in itertools.pairwise([0, 1, 4, 9, 10])]
    assert whole.weights_sha256() == parts.weights_sha256()
    assert sum(r.loss * r.steps for r in results) == pytest.approx(together.loss * 10, rel=1e-6)
    assert [r.steps for r in results] == [1, 3, 5, 1]
    assert parts._loop.experimental_get_tracing_count() == 1


def test_the_seed_decides_the_weights() -> None:
    settings = config()
    one, same, another = trainer(settings), trainer(settings), trainer(config(seed=2))
    assert one.weights_sha256() == same.weights_sha256() != another.weights_sha256()
    for model in (one, same):
        model.run(superbatch(settings), 0, 0, 10)
    assert one.weights_sha256() == same.weights_sha256()


def test_restored_checkpoint_items_train_on_to_the_same_weights() -> None:
    settings = config()
    one, other = (trainer(settings, precision="float16") for _ in range(2))
    batches = superbatch(settings)
    one.run(batches, 0, 0, 5)
    items, copies = (tf.nest.flatten(model.checkpoint_items()) for model in (one, other))
    for variable, copy in zip(items, copies, strict=True):
        copy.assign(variable)
    for model in (one, other):
        model.run(batches, 0, 5, 10)
    assert one.weights_sha256() == other.weights_sha256()
    for variable, copy in zip(items, copies, strict=True):
        np.testing.assert_array_equal(variable, copy)


@pytest.mark.parametrize("jit_compile", ["off", "loop"])
def test_a_diverged_step_is_reported_by_its_number(jit_compile: str) -> None:
    """A rate that throws the weights out of float32 in the first step fails the second."""
    settings = config(learning_rate=1e38, warmup=0.0)
    model = trainer(settings, jit_compile=jit_compile)
    assert model.run(superbatch(settings), 20, 20, 30).failed_step == 21


@pytest.mark.parametrize("jit_compile", ["off", "step", "loop"])
def test_a_float16_overflow_is_skipped_with_half_the_scale(jit_compile: str) -> None:
    settings = config()
    model = trainer(settings, precision="float16", jit_compile=jit_compile)
    batches, before = superbatch(settings), model.weights_sha256()
    model.optimizer.loss_scale.assign(2.0**100)
    assert model.run(batches, 0, 0, 1).failed_step is None
    assert model.weights_sha256() == before
    assert model.optimizer.loss_scale.numpy() == 2.0**99
    model.optimizer.loss_scale.assign(2.0**10)
    assert math.isfinite(model.run(batches, 0, 1, 4).gradient_norm)
    assert model.weights_sha256() != before
    assert model.optimizer.steps_since_scaling.numpy() == 3


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_learns_what_float32_learns(precision: str) -> None:
    settings = config()
    half, full = trainer(settings, precision=precision), trainer(settings)
    batches = superbatch(settings)
    losses = [model.run(batches, 0, 0, 10).loss for model in (half, full)]
    # bfloat16 keeps 8 bits, and ten steps let rounding add up.
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {weight.dtype for weight in half.model.get_weights()} == {np.dtype(np.float32)}
    norms = [model.run(batches, 0, 9, 10).gradient_norm for model in (half, full)]
    assert norms[0] == pytest.approx(norms[1], rel=0.2)


@pytest.mark.parametrize("count", [0, 1, 200, 345])
def test_logits_answer_every_example_once_in_its_place(count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    model = trainer(config())
    logits = model.logits(images)
    assert logits.shape == (count, 10)
    assert logits.dtype == np.float32
    if count:
        direct = model.model(images.astype(np.float32) / 255, training=False)
        np.testing.assert_allclose(logits, direct, atol=1e-5)


def test_every_weight_counts_in_the_digest() -> None:
    model = trainer(config())
    digests = {model.weights_sha256()}
    for weight in model.model.weights:
        change = np.zeros(weight.shape, np.float32)
        change.flat[-1] = 1
        weight.assign_add(change)
        digests.add(model.weights_sha256())
    assert len(digests) == len(model.model.weights) + 1 == 5
