"""Dropout: what is dropped for a digit depends on the seed, the step and its place, and no more."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trainer.dropout import Dropout, Place, training_at

FEATURES = np.ones((8, 6, 6, 32), np.float32)


def dropped(
    rows: slice = slice(0, 8), *, seed: int = 1, step: int = 3, number: int = 1, xla: bool = False
) -> np.ndarray:
    """What a layer makes of some of the features, which are all ones, as the rows of a batch."""

    def call(features, step, first):
        with training_at(Place(seed, step, first)):
            return Dropout(0.2, number)(features, training=True)

    call = tf.function(call, jit_compile=True, autograph=False) if xla else call
    return call(FEATURES[rows], tf.constant(step), tf.constant(rows.start)).numpy()


def test_a_share_is_dropped_and_the_rest_scaled_up() -> None:
    whole = dropped()
    np.testing.assert_allclose(np.unique(whole), [0, 1.25])
    zeros = whole == 0
    # Of 9,216 independent ones, four standard deviations: 0.2 x 0.8, and 0.04 x 0.96 for two.
    assert zeros.mean() == pytest.approx(0.2, abs=0.017)
    for axis in range(4):
        both = zeros & np.roll(zeros, 1, axis)
        assert both.mean() == pytest.approx(0.04, abs=0.009)


def test_a_digit_keeps_the_same_features_in_any_part_of_the_batch_and_with_xla() -> None:
    parts = [dropped(slice(*edges)) for edges in ((0, 2), (2, 5), (5, 8))]
    np.testing.assert_array_equal(np.concatenate(parts), dropped())
    np.testing.assert_array_equal(dropped(xla=True), dropped())


@pytest.mark.parametrize("changed", [{"seed": 2}, {"step": 4}, {"number": 2}])
def test_other_seeds_steps_and_layers_drop_others(changed: dict[str, int]) -> None:
    # Of independent ones a share of 2 x 0.2 x 0.8 differs.
    assert (dropped(**changed) != dropped()).mean() == pytest.approx(0.32, abs=0.02)


def test_nothing_is_dropped_in_inference_and_in_training_only_at_a_place() -> None:
    layer = Dropout(0.2, 1)
    np.testing.assert_array_equal(layer(FEATURES), FEATURES)
    with pytest.raises(LookupError):
        layer(FEATURES, training=True)
