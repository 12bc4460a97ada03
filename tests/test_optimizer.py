"""AdamW, its schedule and its loss scaling, against the formulas in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from training import Plan, ReferenceAdamW, config

from trainer.model.optimizer import INITIAL_LOSS_SCALE, STEPS_TO_DOUBLE, AdamW


def optimizer(plan: Plan, weights: list[tf.Variable]) -> AdamW:
    strategy = tf.distribute.OneDeviceStrategy("/CPU:0")
    with strategy.scope():
        return AdamW(weights, strategy, plan)


def apply(adamw: AdamW, gradients: list, step: int) -> tuple[tf.Tensor, tf.Tensor]:
    tensors = [tf.constant(gradient, tf.float32) for gradient in gradients]
    return tf.function(adamw.apply, autograph=False)(tensors, tf.constant(step))


def test_updates_are_adamw_with_decay_of_the_kernels_alone() -> None:
    rng = np.random.default_rng(1)
    plan = Plan(config(weight_decay=0.3, learning_rate=0.05), total_steps=8)
    shapes = (3, 3, 1, 7), (7,), (35, 10), (10,)
    weights = [tf.Variable(rng.normal(size=shape), dtype=tf.float32) for shape in shapes]
    adamw = optimizer(plan, weights)
    reference = ReferenceAdamW([weight.numpy() for weight in weights], plan)
    for step in range(8):
        gradients = [rng.normal(size=shape) for shape in shapes]
        norm, healthy = apply(adamw, gradients, step)
        assert norm.numpy() == pytest.approx(reference.apply(gradients), rel=1e-5)
        assert healthy
    for weight, expected in zip(weights, reference.weights, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.2), (40, 0.0), (1, 0.2), (3, 0.9)])
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(total: int, warmup: float) -> None:
    plan = Plan(config(warmup=warmup, learning_rate=0.5), total_steps=total)
    adamw, reference = optimizer(plan, []), ReferenceAdamW([], plan)
    rates = [float(adamw.learning_rate(step)) for step in range(total)]
    assert rates == pytest.approx([reference.rate(step + 1) for step in range(total)], abs=1e-6)
    assert all(0 < rate <= 0.5 for rate in rates)


@pytest.mark.parametrize(
    ("gradient", "scale", "waited", "new_scale", "new_waited", "healthy"),
    [
        (1.0, INITIAL_LOSS_SCALE, 5, INITIAL_LOSS_SCALE, 6, True),
        (1.0, 2.0**10, STEPS_TO_DOUBLE - 1, 2.0**11, 0, True),
        (math.inf, 2.0**10, 5, 2.0**9, 0, True),
        (math.nan, 2.0**10, 5, 2.0**9, 0, True),
        (math.inf, 1.0, 5, 1.0, 0, False),  # there is no smaller scale
    ],
)
def test_loss_scaling_skips_overflows_and_halves_and_doubles_after_a_long_calm(
    gradient: float, scale: float, waited: int, new_scale: float, new_waited: int, healthy: bool
) -> None:
    weight = tf.Variable([1.0])
    adamw = optimizer(Plan(config(), precision="float16"), [weight])
    assert adamw.loss_scale.numpy() == INITIAL_LOSS_SCALE
    adamw.loss_scale.assign(scale)
    adamw.steps_since_scaling.assign(waited)
    norm, found = apply(adamw, [[gradient * scale]], 0)
    assert bool(found) == healthy
    assert adamw.loss_scale.numpy() == new_scale
    assert adamw.steps_since_scaling.numpy() == new_waited
    if math.isfinite(gradient):
        assert norm.numpy() == pytest.approx(gradient)
        assert weight.numpy() != 1.0
    else:
        assert weight.numpy() == 1.0


def test_the_loss_scale_does_not_change_the_update() -> None:
    weights = [tf.Variable([1.0, -2.0]) for _ in range(2)]
    for weight, precision in zip(weights, ("float32", "float16"), strict=True):
        adamw = optimizer(Plan(config(), precision=precision), [weight])
        scale = INITIAL_LOSS_SCALE if precision == "float16" else 1.0
        apply(adamw, [np.array([0.5, 3.0]) * scale], 0)
    np.testing.assert_array_equal(*weights)
