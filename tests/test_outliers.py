"""The images that are no digits: a function of their arguments, and in MNIST's form."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data import outliers, synthetic


def test_they_are_a_function_of_digits_and_seed_and_have_mnists_form() -> None:
    images, labels = synthetic.generate(1000, 0)[:2]
    pool, drawn = outliers.make(images, labels, 1), outliers.LETTERS_DRAWN + outliers.SCRIBBLES
    np.testing.assert_array_equal(outliers.make(images.copy(), labels.copy(), 1), pool)
    others = outliers.make(images[::-1], labels[::-1], 1)
    np.testing.assert_array_equal(others[:drawn], pool[:drawn])
    assert (others[drawn:] != pool[drawn:]).any((1, 2)).mean() > 0.99
    assert (outliers.make(images, labels, 2) != pool).any((1, 2)).mean() > 0.99

    sides = np.maximum(*((pool > 25).any(axis).sum(1) for axis in (1, 2)))
    assert np.quantile(sides, [0.2, 0.8]) == pytest.approx(20, abs=2)  # gaps count for nothing
    for axis in (1, 2):
        mass = np.maximum(pool.sum(axis, dtype=float), 1e-9)
        centre = mass @ np.arange(28) / mass.sum(1)
        assert np.mean(np.abs(centre - 14) < 0.6) > 0.98


@pytest.mark.parametrize("grey", [0, 255])
def test_images_without_a_margin_or_ink_are_cut_too(grey: int) -> None:
    images = np.full((50, 28, 28), grey, np.uint8)
    assert outliers.make(images, np.arange(50) % 10, 1).shape == (4000, 28, 28)
