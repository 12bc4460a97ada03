"""Images that are no digits, for a network to learn that it cannot read them.

Outlier exposure: Hendrycks, Mazeika and Dietterich, "Deep anomaly detection with outlier exposure",
https://arxiv.org/abs/1812.04606, section 3. The target of such an image is the uniform
distribution over the digits, so its highest probability is low.
"""

from __future__ import annotations

import numpy as np

from trainer.data import synthetic
from trainer.data.glyphs import LETTERS

LABEL = 10  # of an image that is no digit
LETTERS_DRAWN, SCRIBBLES, CUTS = 1600, 400, 2000  # how many of each are made
SCRIBBLING = 5.0  # times as unsteady as the pen that writes digits
# Digits whose left, and whose right part may be read as a digit.
DIGIT_LIKE = [1, 6, 7, 9], [1, 3, 4, 7, 8, 9]
_PAPER = 32  # grey levels: pixels up to this one do not count for a digit's size
_HEIGHT, _WIDTH, _MIDDLE = 34, 64, 32  # pixels of a canvas for two digits, left and right


def make(images: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns images that are no digits, uint8 [4000, 28, 28], a function of the arguments.

    Half are drawn: letters and other marks, and scribbles. Half are cut from the training digits
    `images`, uint8 [m, 28, 28], with `labels` [m], as a reader that parts a number into digits may
    cut them: two digits, a digit with a part of its neighbour, a part of a digit. All are in
    MNIST's form: 20 pixels the longer side, the centre of mass in the middle.
    """
    rng = np.random.Generator(np.random.PCG64([seed, LABEL]))
    _, shares, table = synthetic.compiled(LETTERS)
    sums = np.cumsum(shares.astype(float))
    glyphs = np.searchsorted(sums / sums[-1], rng.random(LETTERS_DRAWN + SCRIBBLES), side="right")
    letters = synthetic.draw(rng, table, glyphs[:LETTERS_DRAWN])
    scribbles = synthetic.draw(rng, table, glyphs[LETTERS_DRAWN:], unsteady=SCRIBBLING)
    return np.concatenate([letters, scribbles, _cuts(rng, images, labels)])


def _cuts(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Two digits side by side or touching, and what is left of them after a cut."""
    first, second = rng.integers(len(images), size=(2, CUTS))
    start, end = _extent((images[first] > _PAPER).any(1))
    second_start, second_end = _extent((images[second] > _PAPER).any(1))
    gap, down = rng.integers(-3, 5, CUTS), rng.integers(0, _HEIGHT - 27, (2, CUTS))
    # Both; both but a part of the second, of the first; the left part of the first; its right part.
    kind = np.arange(CUTS) % 5
    for part, digits in enumerate(DIGIT_LIKE, 3):
        kind[(kind == part) & np.isin(labels[first], digits)] = 0
    canvas = _moved(images[second], down[1], _MIDDLE + gap - second_start)
    canvas[kind > 2] = 0
    canvas = np.maximum(canvas, _moved(images[first], down[0], _MIDDLE - end))
    share = 0.3 + 0.3 * rng.random(CUTS)
    right_part, left_part = _MIDDLE - share * (end - start), _MIDDLE - (1 - share) * (end - start)
    begin = np.choose(kind, [0, 0, right_part, 0, right_part])
    both = _MIDDLE + gap + share * (second_end - second_start)
    finish = np.choose(kind, [_WIDTH + 9, both, _WIDTH + 9, left_part, _WIDTH + 9])
    slant = 0.6 * rng.random((CUTS, 1, 1)) - 0.3
    column = np.arange(_WIDTH) + slant * (np.arange(_HEIGHT)[:, None] - _HEIGHT / 2)
    canvas *= (column >= begin[:, None, None]) & (column < finish[:, None, None])
    return _to_mnist(canvas, thicken=rng.random(CUTS) < 0.7)


def _extent(inked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first place with ink and the one after the last, int [n] each, of bool [n, places]."""
    return inked.argmax(1), inked.shape[1] - inked[:, ::-1].argmax(1)


def _moved(images: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Images on canvases, moved by pixels, int [n] each: uint8 [n, _HEIGHT, _WIDTH]."""
    rows = np.arange(_HEIGHT)[:, None] - down[:, None, None]
    columns = np.arange(_WIDTH) - right[:, None, None]
    inside = (rows >= 0) & (rows < 28) & (columns >= 0) & (columns < 28)
    return images[np.arange(len(images))[:, None, None], rows % 28, columns % 28] * inside


def _to_mnist(canvas: np.ndarray, thicken: np.ndarray) -> np.ndarray:
    """Brings ink to MNIST's size and place; where `thicken`, strokes that would get too thin."""
    extents = [_extent((canvas > _PAPER).any(axis)) for axis in (2, 1)]
    scale = np.maximum(*(end - start for start, end in extents)) / 20
    thin = thicken & (scale > 1.2)
    near = np.pad(canvas[thin], ((0, 0), (1, 1), (1, 1)))
    places = (1, 1), (0, 1), (2, 1), (1, 0), (1, 2)
    canvas[thin] = np.max([near[:, y : y + _HEIGHT, x : x + _WIDTH] for y, x in places], 0)
    images, reach = canvas.astype(np.float32), np.maximum(scale, 1)[:, None, None]
    for start, end in extents:  # down, then across: linear, antialiased where it shrinks
        source = ((start + end - 1) / 2)[:, None] + (np.arange(28) - 13.5) * scale[:, None]
        distances = np.abs(source[:, :, None] - np.arange(images.shape[1])) / reach
        weights = np.maximum(1 - distances, 0) / reach
        images = (weights.astype(np.float32) @ images).transpose(0, 2, 1)
    images *= 255 / np.maximum(images.max((1, 2), keepdims=True), 1)
    return synthetic.centre(np.rint(images).astype(np.uint8))
