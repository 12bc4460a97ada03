"""The synthetic digits: the same everywhere, MNIST's form, teach reading; and what is no digit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from trainer.data import load, outliers
from trainer.data.synthetic import generate

# Of `generate(3000, 100, seed=7)`, with numpy 2.4 on x86-64.
DIGEST = "2379a48dc48e4abcd1c166f9bb11f59892b8d9215037b7c52b5f4ab26df64e8d"


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, ...]:
    return generate(6000, 2000)


def test_seeds_differ_and_fewer_examples_are_the_first_of_more(digits):
    assert not np.array_equal(generate(1000, 1000, seed=1)[0], digits[0][:1000])
    for few, many in zip(generate(1234, 10), digits, strict=True):
        np.testing.assert_array_equal(few, many[: len(few)])


def test_every_machine_draws_the_same_digits():
    code = (
        "import hashlib; from trainer.data.synthetic import generate\n"
        "drawn = b''.join(array.tobytes() for array in generate(3000, 100, seed=7))\n"
        "print(hashlib.sha256(drawn).hexdigest())"
    )
    # As on a processor without the faster instructions that numpy chooses.
    instructions = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    for disabled in ("", " ".join(instructions)):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled}
        drawn = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
        assert drawn.strip() == DIGEST


def test_classes_are_balanced_and_in_random_order(digits):
    for labels in digits[1], digits[3]:
        for block in labels.reshape(-1, 1000):
            np.testing.assert_array_equal(np.bincount(block), [100] * 10)
        for lag in range(1, 21):
            # A tenth by chance, deviation 0.003 to 0.007; a sorted or cyclic order gives 0 or 1.
            assert np.mean(labels[lag:] == labels[:-lag]) == pytest.approx(0.1, abs=0.04)


def test_size_place_and_ink_are_those_of_mnist(digits):
    assert len({image.tobytes() for image in digits[0]}) == len(digits[0])  # no two are the same
    images, place = digits[0].astype(float), np.arange(28)
    sides = []
    for axis in (1, 2):
        touched = (images > 0).any(axis)
        sides.append(28 - touched.argmax(1) - touched[:, ::-1].argmax(1))
        # Half a pixel, as in MNIST: images are moved by whole pixels.
        centre = (images.sum(axis) * place).sum(1) / images.sum((1, 2))
        assert np.abs(centre - 14).max() <= 0.5
    longest = np.maximum(*sides)
    # MNIST's is 20 always; soft edges may touch one pixel more, a thin stroke's end one less.
    assert np.isin(longest, [19, 20, 21]).mean() > 0.99
    assert np.median(longest) == 20
    assert images.mean() / 255 == pytest.approx(0.131, abs=0.015)  # MNIST: 0.1307
    assert images.std() / 255 == pytest.approx(0.308, abs=0.015)  # MNIST: 0.3081
    assert images.max((1, 2)).min() > 0.9 * 255  # each digit is written in ink, not in pencil


def accuracy_of_a_reader(images, labels, test_images, test_labels) -> float:
    """Reads the test images by ridge regression on 1000 random ReLU features of the others."""
    mix = np.random.default_rng(0).normal(size=(784, 1000)).astype(np.float32) / 28

    def features(images: np.ndarray) -> np.ndarray:
        return np.maximum(images.reshape(-1, 784).astype(np.float32) / 255 @ mix, 0)

    x, y = features(images), np.eye(10, dtype=np.float32)[labels] - 0.1
    weights = np.linalg.solve(x.T @ x + np.eye(len(x.T), dtype=np.float32), x.T @ y)
    return float(np.mean((features(test_images) @ weights).argmax(1) == test_labels))


def test_who_learned_on_them_reads_them_and_real_digits(digits, mnist_dir):
    # 0.92; classes that look alike, or labels that belong to other images, cost 0.05 and more.
    assert accuracy_of_a_reader(*digits) > 0.88
    mnist = load("mnist", str(mnist_dir))
    real = mnist.train_images[:5000], mnist.train_labels[:5000]
    # 0.86; without the slant, or with one glyph a class, it is below the bound.
    assert accuracy_of_a_reader(*digits[:2], *real) > 0.84


def test_outliers_are_a_function_of_digits_and_seed_and_have_mnists_form() -> None:
    images, labels = generate(1000, 0)[:2]
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
def test_images_without_a_margin_or_ink_are_cut_to_outliers_too(grey: int) -> None:
    images = np.full((50, 28, 28), grey, np.uint8)
    assert outliers.make(images, np.arange(50) % 10, 1).shape == (12800, 28, 28)
