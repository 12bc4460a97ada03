"""The distortions against their formulas, pixel by pixel in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import augmentation


def sampled(image: np.ndarray, y: float, x: float) -> float:
    """An image's value between its pixels, linearly interpolated, black around it."""
    top, left = math.floor(y), math.floor(x)
    value = 0.0
    for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < 28 and 0 <= column < 28:
                value += share_y * share_x * float(image[row, column])
    return value


def undistorted_place(offsets: np.ndarray, y: int, x: int) -> np.ndarray:
    """Where (down, right) in the image the affine part of a distortion takes a pixel from."""
    down, right, turn, tall, wide, slant = map(float, offsets[:6])
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


def b_spline(at: float, degree: int = 3) -> float:
    """The basis function on (-2, 2) for degree 3, by the recursion of Cox and de Boor."""
    half = (degree + 1) / 2
    if degree == 0:
        return float(-0.5 <= at < 0.5)
    rising = (at + half) * b_spline(at + 0.5, degree - 1)
    falling = (half - at) * b_spline(at - 0.5, degree - 1)
    return (rising + falling) / degree


def places(augment: str, offsets: np.ndarray) -> np.ndarray:
    """Where (down, right) in the image each pixel of the result comes from, [28, 28, 2]."""
    grid = [(y, x) for y in range(28) for x in range(28)]
    if augment == "shift":
        return (np.array(grid) - offsets / 2).reshape(28, 28, 2)
    stretch = 1.6 if augment == "elastic" else 1
    affine = np.array([undistorted_place(stretch * offsets, *pixel) for pixel in grid])
    affine = affine.reshape(28, 28, 2)
    if augment == "affine":
        return affine
    spline = np.array([[b_spline((p + 0.5) / 7 - 0.5 - c) for c in range(4)] for p in range(28)])
    spline /= spline.sum(1, keepdims=True)
    moves = 1.6 * offsets[6:].reshape(2, 4, 4)
    return affine + np.einsum("yi,aij,xj->yxa", spline, moves, spline)[..., ::-1]


@pytest.mark.parametrize("augment", ["shift", "affine", "elastic"])
def test_a_distortion_takes_each_pixel_from_its_place(augment: str) -> None:
    [distort], count = augmentation.DISTORTIONS[augment]
    images = np.random.default_rng(3).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    offsets = np.random.default_rng(5).uniform(-1, 1, (6, count)).astype(np.float32)
    offsets[0] = 0
    offsets[1], offsets[2] = -1, 1
    offsets[3, :6] = 0
    offsets[4, 6:] = 0
    padded = tf.pad(images, ((0, 0), (1, 1), (1, 1)))
    plain = distort(padded, tf.constant(offsets)).numpy().astype(int)
    compiled = tf.function(distort, jit_compile=True)(padded, offsets).numpy().astype(int)
    np.testing.assert_array_equal(plain[0], images[0])
    for image, values, result in zip(images, offsets, plain, strict=True):
        expected = [[sampled(image, *place) for place in row] for row in places(augment, values)]
        assert np.abs(np.array(expected) - result).max() < 0.6  # rounded, from float32 coordinates
    assert np.abs(compiled - plain).max() <= 1


def test_the_pen_changes_width_blur_and_paleness_and_leaves_gaps() -> None:
    images = np.random.default_rng(3).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    offsets = np.random.default_rng(5).uniform(-1, 1, (6, 12)).astype(np.float32)
    offsets[0, 6:], offsets[1, 6:] = (0, -1, -1, 0.1, 0.2, -1), 1
    offsets[2, 6:], offsets[3, 9:] = (-1, 0, 0, -1, -1, -1), (-0.35, 0.15, 0.8)
    _, pen = augmentation.DISTORTIONS["photo"][0]
    results = pen(tf.constant(images), tf.constant(offsets)).numpy().astype(int)
    np.testing.assert_array_equal(results[0], images[0])
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for image, values, result in zip(images, offsets[:, 6:], results, strict=True):
        width, blur, paleness, right, down, gap = map(float, values)
        y, x = np.indices((28, 28)) - 13.5
        image = image * np.clip(np.hypot(y - 10 * down, x - 10 * right) - 2 * gap, 0, 1)
        ink = np.pad(image / 255, 1)
        blurred = (np.lib.stride_tricks.sliding_window_view(ink, (3, 3)) * weights).sum((2, 3))
        strength = max(abs(width) ** 3, blur, 0)
        ink = (1 - strength) * image / 255 + strength * blurred
        level = 0.5 - 0.3 * width**3  # becomes 0.5; black paper and white ink stay so
        ink = np.clip(0.5 + (ink - level) * 0.5 / min(level, 1 - level), 0, 1)
        assert np.abs(255 * ink * (1 - 0.35 * max(paleness, 0)) - result).max() < 0.6
