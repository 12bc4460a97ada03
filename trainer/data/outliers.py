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
LETTERS_DRAWN, SCRIBBLES, CUTS = 1200, 300, 2500  # how many of each are made
SCRIBBLING = 5.0  # times as unsteady as the pen that writes digits
# Where digits are cut: what is kept begins between the first two and ends between the last two, in
# widths of the cut digit from where the first one ends.
PLACES = np.array(
    [
        [-9, -9, 0.1, 0.6],  # of two digits, the first and a part of the second
        [-0.6, -0.1, 9, 9],  # a part of the first and the second
        [-9, -9, -0.75, -0.25],  # of one digit, the left part
        [-0.75, -0.25, 9, 9],  # the right part
        [-0.85, -0.65, -0.35, -0.15],  # the middle
    ]
)
# Digits whose left, right and middle part may be read as a digit.
DIGIT_LIKE = [1, 6, 7, 9], [1, 3, 4, 7, 8, 9], [1, 4, 7, 9]
MIN_STROKE, STROKE = 1.9, 2.4  # pixels: as in `picture.normalize`
_PAPER = 32  # grey levels: pixels up to this one do not count for a digit's size
_UNDER = 6  # pixels at most that one digit reaches below the other
_HEIGHT, _WIDTH, _MIDDLE = 30, 56, 28  # pixels of a canvas for two digits, left and right


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
    digits, others = images[first], images[second]
    start, end = _extent((digits > _PAPER).any(1))
    other_start, other_end = _extent((others > _PAPER).any(1))
    inked = (digits > _PAPER).any(2) & (others > _PAPER).any(2)
    room = _extent(others > _PAPER, 2)[0] - _extent(digits > _PAPER, 2)[1]  # in each row
    room = np.where(inked, room + (end - other_start)[:, None], _UNDER).min(1)
    gap = rng.integers(-3, 4, CUTS) - np.minimum(room, _UNDER)
    down = rng.integers(0, _HEIGHT - 27, (2, CUTS))
    one = _moved(digits, down[0], _MIDDLE - end)
    other = _moved(others, down[1], _MIDDLE + gap - other_start)
    both = np.maximum(one, other)

    kind = np.arange(CUTS) % 7 % len(PLACES)  # more of two digits
    alone = (kind > 1)[:, None, None]
    cut = np.where((kind == 0)[:, None, None], other, one)
    width, begin = np.where(kind == 0, [other_end - other_start, gap], [end - start, 0 * gap])
    shown = np.where(alone, one, both)
    low, high = np.moveaxis(PLACES[kind].reshape(CUTS, 2, 2), 0, -1).swapaxes(0, 1)
    near = _MIDDLE + begin + width * (low + (high - low) * rng.random((2, CUTS)))
    first_column, last_column = (_cut(shown, place)[:, :, None] for place in near)
    kept = (np.arange(_WIDTH) >= first_column) & (np.arange(_WIDTH) <= last_column)
    share = (cut * kept).sum((1, 2), dtype=float) / cut.sum((1, 2), dtype=float)
    whole = (share < np.where(kind > 1, 0.2, 0.12)) | (share > 0.75)
    for part, like in enumerate(DIGIT_LIKE, 2):
        whole |= (kind == part) & np.isin(labels[first], like)
    return _to_mnist(np.where(whole[:, None, None], both, shown * kept))


def _cut(canvas: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Of the lines near columns, float [n], those across the least ink: columns, int [n, h]."""
    slants, aside = np.meshgrid(np.linspace(-0.25, 0.25, 5), [-1.5, 0.0, 1.5])
    lines = slants.reshape(-1, 1) * (np.arange(_HEIGHT) - _HEIGHT / 2) + aside.reshape(-1, 1)
    columns = np.clip(np.rint(near[:, None, None] + lines).astype(int), 0, _WIDTH - 1)
    n, row = np.ogrid[: len(canvas), :_HEIGHT]
    ink = canvas[n[:, :, None], row[:, None], columns].sum(2, dtype=int)
    return columns[np.arange(len(canvas)), ink.argmin(1)]


def _extent(inked: np.ndarray, axis: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The first place with ink and the one after the last along an axis, of bool."""
    return inked.argmax(axis), inked.shape[axis] - np.flip(inked, axis).argmax(axis)


def _moved(images: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Images on canvases, moved by pixels, int [n] each: uint8 [n, _HEIGHT, _WIDTH]."""
    rows = np.arange(_HEIGHT)[:, None] - down[:, None, None]
    columns = np.arange(_WIDTH) - right[:, None, None]
    inside = (rows >= 0) & (rows < 28) & (columns >= 0) & (columns < 28)
    return images[np.arange(len(images))[:, None, None], rows % 28, columns % 28] * inside


def _to_mnist(canvas: np.ndarray) -> np.ndarray:
    """Brings ink to MNIST's size, place and, where strokes would get too thin, width."""
    extents = [_extent((canvas > _PAPER).any(axis)) for axis in (2, 1)]
    scale = np.maximum(*(end - start for start, end in extents)) / 20
    # A stroke's ink is its width by its length, which is half of its edges' length; that is 1.27
    # times as long along the axes, in the mean over all slants.
    sides = (canvas[:, 1:], canvas[:, :-1]), (canvas[:, :, 1:], canvas[:, :, :-1])
    edges = sum((np.maximum(a, b) - np.minimum(a, b)).sum((1, 2), dtype=float) for a, b in sides)
    width = 2 * 1.27 * canvas.sum((1, 2), dtype=float) / np.maximum(edges, 1)
    thin = width < MIN_STROKE * scale
    near = np.pad(canvas[thin], ((0, 0), (1, 1), (1, 1)))
    places = (0, 1), (2, 1), (1, 0), (1, 2)
    near = np.max([near[:, y : y + _HEIGHT, x : x + _WIDTH] for y, x in places], 0)
    wider = np.clip((STROKE * scale - width)[thin] / 2, 0, 1).astype(np.float32)
    canvas[thin] = np.maximum(canvas[thin], wider[:, None, None] * near)
    images, reach = canvas.astype(np.float32), np.maximum(scale, 1)[:, None, None]
    for start, end in extents:  # down, then across: linear, antialiased where it shrinks
        source = ((start + end - 1) / 2)[:, None] + (np.arange(28) - 13.5) * scale[:, None]
        distances = np.abs(source[:, :, None] - np.arange(images.shape[1])) / reach
        weights = np.maximum(1 - distances, 0) / reach
        images = (weights.astype(np.float32) @ images).transpose(0, 2, 1)
    images *= 255 / np.maximum(images.max((1, 2), keepdims=True), 1)
    return synthetic.centre(np.rint(images).astype(np.uint8))
