"""Batch n is a function of (seed, n): whatever the loop's length, the start, or who shares it."""

from __future__ import annotations

import types

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import Config
from trainer.data import augmentation, pipeline

EXAMPLES, BATCH = 50, 12

augments = pytest.mark.parametrize("augment", ["none", "shift", "affine", "elastic"])


def datasets(first: int, last: int, **options: object) -> list[tf.data.Dataset]:
    """Datasets whose images, even distorted, have their example's number in the middle."""
    numbers = np.arange(EXAMPLES, dtype=np.uint8)
    images = np.zeros((EXAMPLES, 28, 28), np.uint8)
    images[:, 8:21, 8:21] = numbers[:, None, None]
    loop, shared = options.pop("steps_per_loop", 5), {"replicas", "local_replicas"}
    flags = {name: value for name, value in options.items() if name not in shared}
    defaults = {"seed": 1, "augment": "none", "outliers": 0.0}
    config = Config(batch_size=BATCH, **defaults | flags).resolved()
    plan = types.SimpleNamespace(config=config, steps_per_loop=loop, total_steps=last)
    shares = {name: options[name] for name in shared & options.keys()}
    return pipeline.training_batches(images, numbers % 10, plan, first, **shares)


def steps(first: int, last: int, **options: object) -> dict[int, list[np.ndarray]]:
    """The batches (images, labels) `first` to `last` - 1, the local replicas' shares in a row."""
    loop, found = options.get("steps_per_loop", 5), {}
    shares = zip(*datasets(first, last, **options), strict=True)
    for number, superbatch in enumerate(shares, first // loop):
        for i in range(loop):
            parts = zip(*superbatch, strict=True)
            found[number * loop + i] = [np.concatenate([x[i] for x in part]) for part in parts]
    return {step: found[step] for step in range(first, last)}


def assert_same(one: dict[int, list[np.ndarray]], other: dict[int, list[np.ndarray]]) -> None:
    assert one.keys() == other.keys()
    for step in one:
        for part, same in zip(one[step], other[step], strict=True):
            np.testing.assert_array_equal(part, same, err_msg=f"step {step}")


def numbers(batch: list[np.ndarray]) -> np.ndarray:
    """Which examples a batch holds."""
    return batch[0][:, 14, 14]


@augments
def test_a_batch_does_not_depend_on_the_length_of_the_loop_or_the_start(augment: str) -> None:
    whole = steps(0, 23, augment=augment)
    for loop in (1, 100):
        assert_same(steps(0, 23, augment=augment, steps_per_loop=loop), whole)
    late = steps(13, 23, augment=augment, steps_per_loop=4)
    assert_same(late, {step: whole[step] for step in range(13, 23)})


@pytest.mark.parametrize(
    ("replicas", "workers", "augment"), [(4, 2, "none"), (3, 3, "shift"), (4, 2, "elastic")]
)
def test_replicas_and_workers_share_the_very_same_batch(replicas, workers, augment) -> None:
    local = replicas // workers
    shares = [
        steps(0, 10, augment=augment, replicas=replicas, local_replicas=numbers)
        for numbers in np.split(np.arange(replicas), workers)
    ]
    assert len(shares[0][0][0]) == BATCH // replicas * local
    together = {
        step: [np.concatenate(parts) for parts in zip(*(s[step] for s in shares), strict=True)]
        for step in range(10)
    }
    assert_same(together, steps(0, 10, augment=augment))


@pytest.mark.parametrize(("replicas", "workers", "augment"), [(4, 2, "photo"), (12, 1, "none")])
def test_images_that_are_no_digits_come_on_top_of_a_batch(replicas, workers, augment) -> None:
    """Five of them a step, so the shares of some replicas are larger; some have none."""
    plain, whole, late = (
        steps(first, 10, augment=augment, outliers=share, steps_per_loop=loop)
        for first, share, loop in ((0, 0.0, 5), (0, 5 / BATCH, 5), (7, 5 / BATCH, 2))
    )
    assert_same(late, {step: whole[step] for step in range(7, 10)})
    shares = [
        steps(0, 10, outliers=5 / BATCH, augment=augment, replicas=replicas, local_replicas=local)
        for local in np.split(np.arange(replicas), workers)
    ]
    for step in range(10):
        images, labels = (
            np.concatenate(part) for part in zip(*(share[step] for share in shares), strict=True)
        )
        order = np.argsort(labels == 10, kind="stable")
        assert_same({step: [images[order], labels[order]]}, {step: whole[step]})
        assert_same({step: [part[:BATCH] for part in whole[step]]}, {step: plain[step]})
        np.testing.assert_array_equal(whole[step][1][BATCH:], [10] * 5)


def test_every_epoch_shows_each_example_once_though_batches_reach_over_its_end() -> None:
    epochs = 6
    batches = steps(0, EXAMPLES * epochs // BATCH)
    sequence = np.concatenate([numbers(batch) for batch in batches.values()])
    orders = sequence.reshape(epochs, EXAMPLES)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(EXAMPLES))
    assert len({tuple(order) for order in orders}) == epochs


@augments
def test_every_image_keeps_its_label_and_augmentation_changes_nothing_else(augment: str) -> None:
    plain, augmented = steps(0, 30), steps(0, 30, augment=augment)
    for step, (images, labels) in augmented.items():
        np.testing.assert_array_equal(numbers(plain[step]), numbers([images]))
        np.testing.assert_array_equal(numbers([images]) % 10, labels)
        assert np.array_equal(images, plain[step][0]) == (augment == "none")


@pytest.mark.parametrize(("augment", "seed"), [("shift", 0), ("elastic", 2**31 - 1)])
def test_each_step_of_each_seed_has_random_offsets_of_its_own(augment: str, seed: int) -> None:
    plain, found = (steps(0, 5, augment=each, seed=seed) for each in ("none", augment))
    [distort], count = augmentation.DISTORTIONS[augment]
    shape = BATCH, count
    offsets = augmentation.random_offsets(tf.range(5, dtype=tf.int64), seed, shape).numpy()
    for step in range(5):
        padded = np.pad(plain[step][0], ((0, 0), (1, 1), (1, 1)))
        expected = distort(tf.constant(padded), tf.constant(offsets[step]))
        # XLA, which the pipeline compiles distortions with, may round otherwise.
        assert np.abs(expected.numpy().astype(int) - found[step][0]).max() <= 1
    later = augmentation.random_offsets(tf.constant([7], tf.int64), seed + 1, shape).numpy()
    rows = np.concatenate([*offsets, *later])
    assert len(np.unique(rows, axis=0)) == 6 * BATCH
    assert -1 <= rows.min() < -0.9
    assert 0.9 < rows.max() <= 1


def order(epoch: int, *, seed: int = 1, examples: int = 60_000) -> np.ndarray:
    positions = tf.range(epoch * examples, (epoch + 1) * examples, dtype=tf.int64)
    return pipeline.example_order(positions, examples=examples, seed=seed).numpy()


def test_the_orders_of_epochs_and_seeds_have_nothing_in_common() -> None:
    """As many chance agreements as permutations have (1 on average), and no correlation."""
    orders = [order(0), order(1), order(2), order(999), order(0, seed=2), order(1, seed=2)]
    for i, one in enumerate(orders):
        np.testing.assert_array_equal(np.sort(one), np.arange(60_000))
        # 5 sigma of the correlation of independent permutations, 1 / sqrt(60000).
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.02
        for other in orders[:i]:
            assert np.sum(one == other) < 10
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


@pytest.mark.parametrize("examples", [1, 2, 3, 7])
def test_tiny_sets_and_late_epochs_are_shuffled_as_well(examples: int) -> None:
    for epoch in (*range(5), 2**31 - 1):
        assert sorted(order(epoch, examples=examples)) == list(range(examples))


def test_elements_have_the_shapes_that_the_loop_is_compiled_for() -> None:
    options = {"augment": "shift", "steps_per_loop": 3, "replicas": 2, "local_replicas": [0, 1]}
    for dataset in datasets(0, 1, **options):
        assert dataset.element_spec == (
            tf.TensorSpec((3, 6, 28, 28), tf.uint8),
            tf.TensorSpec((3, 6), tf.int32),
        )
        assert dataset.options().autotune.enabled is False  # else the process may not end
