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
LETTERS_DRAWN, SCRIBBLES, CUTS = 3000, 800, 9000  # how many of each are made
SCRIBBLING = 5.0  # times as unsteady as the pen that writes digits
# Digits whose left, and whose right part may be read as a digit.
DIGIT_LIKE = [1, 6, 7, 9], [1, 3, 4, 7, 8, 9]
MIN_STROKE, STROKE = 1.9, 2.4  # pixels: as in `picture.normalize`
_PAPER = 32  # grey levels: pixels up to this one do not count for a digit's size
_UNDER = 6  # pixels at most that one digit reaches below the other
_HEIGHT, _WIDTH, _MIDDLE = 30, 64, 32  # pixels of a canvas for two digits, left and right


def make(images: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns images that are no digits, uint8 [12800, 28, 28], a function of the arguments.

    3,800 are drawn: letters and other marks, and scribbles. The others are cut from the training
    digits `images`, uint8 [m, 28, 28], with `labels` [m], as a reader that parts a number into
    digits may cut them: two digits, a digit with a part of its neighbour, a part of a digit. All
    are in MNIST's form: 20 pixels the longer side, the centre of mass in the middle.
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
    digits, others, turned = images[first], images[second], rng.random(CUTS) < 0.5
    for some in (digits, others):  # cut from the other side
        some[turned] = some[turned, :, ::-1]
    start, end = _extent((digits > _PAPER).any(1))
    other_start, other_end = _extent((others > _PAPER).any(1))
    inked = (digits > _PAPER).any(2) & (others > _PAPER).any(2)
    room = _extent(others > _PAPER, 2)[0] - _extent(digits > _PAPER, 2)[1]  # in each row
    room = np.where(inked, room + (end - other_start)[:, None], _UNDER).min(1)
    gap = rng.integers(-3, 4, CUTS) - np.minimum(room, _UNDER)
    one = _placed(rng, digits, _MIDDLE - end)
    other = _placed(rng, others, _MIDDLE + gap - other_start)
    both, alone = np.maximum(one, other), np.arange(CUTS) % 3 == 0
    shown, cut = np.where(alone[:, None, None], [one, one], [both, other])
    share, width = 0.1 + 0.5 * rng.random(CUTS), end - start
    right = np.where(alone, (share - 0.85) * width, gap + share * (other_end - other_start))
    left = np.where(alone & (rng.random(CUTS) < 0.3), 0.2 * width - width, -_MIDDLE)
    columns = np.arange(_WIDTH) - _MIDDLE
    kept = (columns <= _cut(shown, right)[:, :, None]) & (columns >= left[:, None, None])
    share = (cut * kept).mean((1, 2)) / np.maximum(cut.mean((1, 2)), 1e-9)
    whole = (share < np.where(alone, 0.2, 0.12)) | (share > 0.75)
    for side, digit_like in enumerate(DIGIT_LIKE):
        whole |= alone & (turned == side) & np.isin(labels[first], digit_like)
    canvas = np.where(whole[:, None, None], both, shown * kept)
    canvas[turned] = canvas[turned, :, ::-1]
    return _to_mnist(canvas)


def _cut(canvas: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The lines across least ink near places, float [n]: columns from the middle, int [n, h]."""
    slants, aside = np.meshgrid(np.linspace(-0.25, 0.25, 5), [-1.5, 0.0, 1.5])
    lines = slants.reshape(-1, 1) * (np.arange(_HEIGHT) - _HEIGHT / 2) + aside.reshape(-1, 1)
    columns = np.clip(np.rint(near[:, None, None] + lines).astype(int), -_MIDDLE, _MIDDLE - 1)
    n, row = np.ogrid[: len(canvas), :_HEIGHT]
    ink = canvas[n[:, :, None], row[:, None], columns + _MIDDLE].sum(2, dtype=int)
    return columns[np.arange(len(canvas)), ink.argmin(1)]


def _extent(inked: np.ndarray, axis: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The first place with ink and the one after the last along an axis, of bool."""
    return inked.argmax(axis), inked.shape[axis] - np.flip(inked, axis).argmax(axis)


def _placed(rng: np.random.Generator, images: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Images on canvases, uint8 [n, _HEIGHT, _WIDTH]: pixels from the left, int [n], a bit down."""
    n, row, column = np.ogrid[: len(images), :28, :28]
    canvas = np.zeros((len(images), _HEIGHT, _WIDTH), np.uint8)
    down = rng.integers(0, _HEIGHT - 27, len(images))
    canvas[n, row + down[:, None, None], column + right[:, None, None]] = images
    return canvas


def _to_mnist(canvas: np.ndarray) -> np.ndarray:
    """Brings ink to MNIST's size, place and, where strokes would get too thin, width."""
    extents = [_extent((canvas > _PAPER).any(axis)) for axis in (2, 1)]
    scale = np.maximum(*(end - start for start, end in extents)) / 20
    # A stroke's ink is its width by half of its edges, in the mean 1.27 times as long by the axes.
    edges = sum(np.abs(np.diff(canvas.astype(np.int16), axis=x)).sum((1, 2)) for x in (1, 2))
    width = 2 * 1.27 * canvas.sum((1, 2), dtype=float) / np.maximum(edges, 1)
    wider = (width < MIN_STROKE * scale) * np.clip((STROKE * scale - width) / 2, 0, 1)
    near = np.pad(canvas, ((0, 0), (1, 1), (1, 1)))
    near = np.max([near[:, :-2, 1:-1], near[:, 2:, 1:-1], near[:, 1:-1, :-2], near[:, 1:-1, 2:]], 0)
    images = np.maximum(canvas, wider[:, None, None].astype(np.float32) * near)
    reach = np.maximum(scale, 1)[:, None, None]
    for start, end in extents:  # down, then across: linear, antialiased where it shrinks
        source = ((start + end - 1) / 2)[:, None] + (np.arange(28) - 13.5) * scale[:, None]
        distances = np.abs(source[:, :, None] - np.arange(images.shape[1])) / reach
        weights = np.maximum(1 - distances, 0) / reach
        images = (weights.astype(np.float32) @ images).transpose(0, 2, 1)
    images *= 255 / np.maximum(images.max((1, 2), keepdims=True), 1)
    return synthetic.centre(np.rint(images).astype(np.uint8))
