"""Batch n is a function of (seed, n): whatever the loop's length, the start, or who shares it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import pipeline

EXAMPLES, BATCH = 50, 12


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images that say which example they are, and labels that follow from it."""
    numbers = np.arange(EXAMPLES, dtype=np.uint8)
    images = np.zeros((EXAMPLES, 28, 28), np.uint8)
    images[:, 8:21, 8:21] = numbers[:, None, None]
    return images, numbers % 10


def steps(first: int, last: int, **options: object) -> dict[int, list[np.ndarray]]:
    """The parts of the batches `first` to `last` - 1, by step; with replicas side by side."""
    settings = {"steps_per_loop": 5, "seed": 1, "augment": "none", "local_replicas": (0,)} | options
    loop, replicas = settings["steps_per_loop"], settings["local_replicas"]
    images, labels = data()
    batches = pipeline.training_batches(
        images, labels, global_batch_size=BATCH, first_step=first, last_step=last, **settings
    )
    found, base = {}, first // loop * loop
    elements = list(batches)
    for k in range(0, len(elements), len(replicas)):
        parts = [
            np.concatenate(
                [replica[part].numpy() for replica in elements[k : k + len(replicas)]], 1
            )
            for part in range(len(elements[k]))
        ]
        for i in range(loop):
            found[base + i] = [part[i] for part in parts]
        base += loop
    return {step: found[step] for step in range(first, last)}


def assert_same(one: dict[int, list[np.ndarray]], other: dict[int, list[np.ndarray]]) -> None:
    assert one.keys() == other.keys()
    for step in one:
        for part, same in zip(one[step], other[step], strict=True):
            np.testing.assert_array_equal(part, same, err_msg=f"step {step}")


def numbers(batch: list[np.ndarray]) -> np.ndarray:
    """Which examples an undistorted batch holds."""
    return batch[0][:, 14, 14]


def drawn(seed: int, step: int, count: int = 2) -> np.ndarray:
    """The random numbers of a step, float32 [batch, count]."""
    steps = tf.constant([step], tf.int64)
    return pipeline.uniform_draws(steps, BATCH, 0, BATCH, count, seed)[0].numpy()


@pytest.mark.parametrize("augment", ["none", "shift", "affine", "elastic"])
def test_a_batch_does_not_depend_on_the_length_of_the_loop_or_the_start(augment: str) -> None:
    whole = steps(0, 23, augment=augment)
    for loop in (1, 4, 23, 100):
        assert_same(steps(0, 23, augment=augment, steps_per_loop=loop), whole)
    late = steps(13, 23, augment=augment, steps_per_loop=4)
    assert_same(late, {step: whole[step] for step in range(13, 23)})


@pytest.mark.parametrize("augment", ["none", "shift", "affine", "elastic"])
@pytest.mark.parametrize(("replicas", "workers"), [(2, 1), (4, 1), (4, 2), (3, 3)])
def test_replicas_and_workers_share_the_very_same_batch(
    replicas: int, workers: int, augment: str
) -> None:
    whole = steps(0, 10, augment=augment)
    local = replicas // workers
    shares = [
        steps(
            0,
            10,
            augment=augment,
            replicas=replicas,
            local_replicas=range(worker * local, (worker + 1) * local),
        )
        for worker in range(workers)
    ]
    together = {
        step: [np.concatenate(parts) for parts in zip(*(s[step] for s in shares), strict=True)]
        for step in range(10)
    }
    assert_same(together, whole)


def test_every_epoch_shows_each_example_once_though_batches_reach_over_its_end() -> None:
    epochs = 6
    batches = steps(0, EXAMPLES * epochs // BATCH)
    sequence = np.concatenate([numbers(batch) for batch in batches.values()])
    orders = sequence.reshape(epochs, EXAMPLES)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(EXAMPLES))
    assert len({tuple(order) for order in orders}) == epochs


def test_every_image_keeps_its_label() -> None:
    for augment in ("none", *pipeline.DISTORTIONS):
        for batch in steps(0, 30, augment=augment).values():
            np.testing.assert_array_equal(numbers(batch) % 10, batch[1])


def test_order_and_distortion_change_with_the_seed_and_the_step() -> None:
    one, other = steps(0, 5, augment="shift"), steps(0, 5, augment="shift", seed=2)
    assert not np.array_equal(numbers(one[0]), numbers(other[0]))
    draws = [drawn(seed, step) for seed in (1, 2) for step in range(5)]
    assert len(np.unique(draws)) == np.size(draws)


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_the_outermost_seeds_work(seed: int) -> None:
    assert steps(0, 2, seed=seed, augment="affine")


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
def test_tiny_sets_are_shuffled_as_well(examples: int) -> None:
    for epoch in range(5):
        assert sorted(order(epoch, examples=examples)) == list(range(examples))


def test_positions_far_out_do_not_overflow() -> None:
    positions = tf.constant([10**11], tf.int64)
    assert 0 <= int(pipeline.example_order(positions, examples=60_000, seed=1)[0]) < 60_000


def sampled(image: np.ndarray, y: float, x: float) -> float:
    """A picture's value between its pixels, linearly interpolated, black around it."""
    top, left = math.floor(y), math.floor(x)
    value = 0.0
    for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < 28 and 0 <= column < 28:
                value += share_y * share_x * float(image[row, column])
    return value


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def distorted(augment: str, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """What a distortion makes of images, as XLA compiles it and without it: the same."""
    distort, framed = pipeline.DISTORTIONS[augment], pipeline.with_margin(images)
    results = tf.function(distort, jit_compile=True)(framed, draws).numpy().astype(int)
    assert np.abs(results - distort(framed, tf.constant(draws)).numpy()).max() <= 1
    return results


def test_shift_moves_down_and_right_by_up_to_half_a_pixel() -> None:
    images = random_images(4)
    draws = np.array([[1, -0.5], [0, 0], [-1, 1], [0.2, 0.9]], np.float32)
    results = distorted("shift", images, draws)
    for image, (down, right), result in zip(images, draws / 2, results, strict=True):
        expected = [[sampled(image, y - down, x - right) for x in range(28)] for y in range(28)]
        assert np.abs(np.array(expected) - result).max() < 0.501  # rounded, from float32
    np.testing.assert_array_equal(results[1], images[1])


@pytest.mark.parametrize("augment", sorted(pipeline.DISTORTIONS))
@pytest.mark.parametrize("seed", [1, 2])
def test_each_step_of_each_seed_is_distorted_by_its_own_draws(augment: str, seed: int) -> None:
    plain, found = (steps(0, 5, augment=each, seed=seed) for each in ("none", augment))
    draws = [drawn(seed, step, pipeline.DRAWS[augment]) for step in range(5)]
    for step in range(5):
        expected = distorted(augment, plain[step][0], draws[step])
        assert np.abs(expected - found[step][0]).max() <= 1
    assert len(np.unique(np.concatenate(draws), axis=0)) == 5 * BATCH


def test_draws_stay_within_one_and_use_all_of_it() -> None:
    draws = np.concatenate([drawn(1, step) for step in range(40)])
    assert draws.shape == (40 * BATCH, 2)
    assert -1 <= draws.min() < -0.96
    assert 0.96 < draws.max() <= 1
    assert abs(draws.mean()) < 0.1


def undistorted_place(draw: np.ndarray, y: int, x: int) -> np.ndarray:
    """Where (down, right) in the image the affine part of a distortion takes a pixel from."""
    down, right, turn, tall, wide, slant = map(float, draw[:6])
    angle = turn * math.radians(10)
    height, width = 1 + 0.1 * tall, 1 + 0.1 * wide
    # From a pixel of the result, about the centre, back to the image.
    back = np.array(
        [
            [math.cos(angle) / width, math.sin(angle) / width + 0.1 * slant],
            [-math.sin(angle) / height, math.cos(angle) / height],
        ]
    )
    from_x, from_y = back @ (x - 13.5, y - 13.5)
    return np.array([from_y + 13.5 + 1.5 * down, from_x + 13.5 + 1.5 * right])


def test_affine_turns_scales_shears_and_shifts_about_the_centre() -> None:
    images = random_images(6)
    draws = np.random.default_rng(5).uniform(-1, 1, (6, 6)).astype(np.float32)
    draws[0] = 0
    results = distorted("affine", images, draws)
    np.testing.assert_array_equal(results[0], images[0])
    for image, draw, result in zip(images, draws, results, strict=True):
        expected = np.zeros((28, 28))
        for y in range(28):
            for x in range(28):
                expected[y, x] = sampled(image, *undistorted_place(draw, y, x))
        assert np.abs(expected - result).max() < 0.6  # rounded, from float32 coordinates


def b_spline(at: float, degree: int = 3) -> float:
    """The basis function on (-2, 2) for degree 3, by the recursion of Cox and de Boor."""
    half = (degree + 1) / 2
    if degree == 0:
        return float(-0.5 <= at < 0.5)
    rising = (at + half) * b_spline(at + 0.5, degree - 1)
    falling = (half - at) * b_spline(at - 0.5, degree - 1)
    return (rising + falling) / degree


def test_elastic_is_a_larger_affine_and_a_bend() -> None:
    images = random_images(4)
    draws = np.random.default_rng(6).uniform(-1, 1, (4, 38)).astype(np.float32)
    draws[0] = 0
    draws[1, :6] = 0
    draws[2, 6:] = 0
    results = distorted("elastic", images, draws)
    np.testing.assert_array_equal(results[0], images[0])
    spline = np.array([[b_spline((p + 0.5) / 7 - 0.5 - c) for c in range(4)] for p in range(28)])
    spline /= spline.sum(1, keepdims=True)
    for image, draw, result in zip(images, draws, results, strict=True):
        moves = 1.6 * draw[6:].reshape(2, 4, 4)
        bend = np.einsum("yi,aij,xj->yxa", spline, moves, spline)
        expected = np.zeros((28, 28))
        for y in range(28):
            for x in range(28):
                place = undistorted_place(1.6 * draw, y, x) + bend[y, x, ::-1]
                expected[y, x] = sampled(image, *place)
        assert np.abs(expected - result).max() < 0.6  # rounded, from float32 coordinates


@pytest.mark.parametrize("augment", sorted(pipeline.DISTORTIONS))
def test_distortion_keeps_what_a_batch_is_made_of(augment: str) -> None:
    plain, distorted = steps(0, 5), steps(0, 5, augment=augment)
    for step in plain:
        np.testing.assert_array_equal(plain[step][1], distorted[step][1])
        assert distorted[step][0].dtype == np.uint8
        assert not np.array_equal(plain[step][0], distorted[step][0])


def test_parts_have_the_types_that_the_loop_is_compiled_for() -> None:
    images, labels = data()
    batches = pipeline.training_batches(
        images,
        labels,
        global_batch_size=BATCH,
        seed=1,
        augment="shift",
        first_step=0,
        last_step=1,
        steps_per_loop=3,
        replicas=2,
        local_replicas=[0, 1],
    )
    assert batches.element_spec == (
        tf.TensorSpec((3, 6, 28, 28), tf.uint8),
        tf.TensorSpec((3, 6), tf.int32),
    )
