"""Synthetic digits: glyphs bent at random, inked and normalised the way MNIST's digits are."""

import concurrent.futures
import itertools
from typing import NamedTuple

import numpy as np
from numpy.random import PCG64, Generator

from trainer.data.glyphs import GLYPHS
from trainer.process.startup import available_cpus

FIELD = 28  # pixels, the side of an image
DIGIT = 19.2  # pixels from edge to edge of the longest side: 20 with the soft edges, as in MNIST
BLOCK = 1000  # examples from one random stream, whatever the number of threads
POINTS = 72  # places of a digit that get ink: about a pixel apart, or strokes turn to pearls


class Glyph(NamedTuple):
    """A way of writing a digit: each place on its path is a weighted sum of four control points."""

    control: np.ndarray  # float [controls, 2], in units of the digit's height, around 0
    stroke: np.ndarray  # int [controls], the stroke a control point belongs to
    end: np.ndarray  # float [controls], 1 where a stroke starts or ends, else 0
    taps: np.ndarray  # int [POINTS, 4], the four control points of a place
    weights: np.ndarray  # float [POINTS, 4]


def generate(
    train_examples: int, test_examples: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws training and test digits: images uint8 [n, 28, 28], labels uint8 [n], twice.

    The images depend on `seed` alone, on any machine: all is made of uniform random numbers,
    + - * / and square roots, which IEEE 754 rounds the same everywhere. Of every 1000 examples each
    class has 100, in random order.
    """
    with concurrent.futures.ThreadPoolExecutor(available_cpus()) as pool:
        sets = []
        for split, examples in enumerate((train_examples, test_examples)):
            blocks = range(-(-examples // BLOCK))
            drawn = pool.map(_draw_block, itertools.repeat((seed, split)), blocks)
            sets += [np.concatenate(arrays)[:examples] for arrays in zip(*drawn, strict=True)]
    return tuple(sets)


def _draw_block(stream: tuple[int, int], block: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [BLOCK, 28, 28] and labels uint8 [BLOCK] of a random stream's block."""
    rng = Generator(PCG64([*stream, block]))
    labels = (rng.random(BLOCK).argsort(kind="stable") % 10).astype(np.uint8)
    glyphs = np.searchsorted(_CUMULATIVE, labels + rng.random(BLOCK), side="right")
    return draw(rng, _TABLE, glyphs), labels


def draw(rng: Generator, table: Glyph, glyphs: np.ndarray, *, unsteady: float = 1.0) -> np.ndarray:
    """Draws the glyphs with these indices, int [n], in a table of `compiled`: uint8 [n, 28, 28].

    The pen is `unsteady` times as unsteady as for digits: at 10 it scribbles.
    """
    points = _hand(rng, _pen_path(rng, table, glyphs, unsteady))
    radii = _pen_radii(rng, len(glyphs))
    return centre(_ink(rng, _place(points, radii), radii))


def _bell(rng: Generator, *shape: int) -> np.ndarray:
    """Sums of three uniform numbers: mean 0, deviation 1, the same on every processor."""
    uniform = rng.random((3, *shape))
    return 2 * (uniform[0] + uniform[1] + uniform[2]) - 3


def _compile(strokes: str) -> Glyph:
    control, stroke, end, taps, weights, fine_stroke = [], [], [], [], [], []
    # Catmull and Rom's spline passes its control points; its four weights at u of the way from the
    # second to the third: https://en.wikipedia.org/wiki/Cubic_Hermite_spline#Catmull-Rom_spline
    u = np.linspace(0, 1, 17)
    v = 1 - u
    middle = 2 - 5 * u * u + 3 * u * u * u, 2 - 5 * v * v + 3 * v * v * v
    basis = np.stack([-u * v * v, *middle, -u * u * v], axis=1)
    for number, text in enumerate(strokes.split(";")):
        words = text.split()
        first, last = len(control), len(control) + len(words) - 1
        control += [[float(value) / 100 for value in word.rstrip("!").split(",")] for word in words]
        stroke += [number] * len(words)
        end += [1.0] + [0.0] * (len(words) - 2) + [1.0]
        corners = [first + i for i, word in enumerate(words) if word.endswith("!")]
        for low, high in itertools.pairwise([first, *corners, last]):  # a corner parts two curves
            for i in range(low, high):
                taps += [[max(i - 1, low), i, i + 1, min(i + 2, high)]] * len(u)
                weights += list(basis / 2)
                fine_stroke += [number] * len(u)
    points, taps, weights = np.array(control), np.array(taps), np.array(weights)
    points -= (points.max(0) + points.min(0)) / 2
    fine = (points[taps] * weights[..., None]).sum(1)
    steps = np.sqrt(((fine[1:] - fine[:-1]) ** 2).sum(1))
    steps[np.diff(fine_stroke) != 0] = 0  # the pen is lifted
    length = np.concatenate([[0], np.cumsum(steps)])
    # 1e-9 less, so that rounding does not push the last place beyond the end.
    places = np.searchsorted(length, np.linspace(0, length[-1], POINTS) - 1e-9)
    return Glyph(points, np.array(stroke), np.array(end), taps[places], weights[places])


def _stacked(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """One array of all, the shorter ones filled up with zeros."""
    longest, axes = max(map(len, arrays)), arrays[0].ndim - 1
    return np.stack([np.pad(each, ((0, longest - len(each)), *[(0, 0)] * axes)) for each in arrays])


def compiled(text: str) -> tuple[np.ndarray, np.ndarray, Glyph]:
    """Returns the first two columns of a text like `GLYPHS`, str [n] each, and its table."""
    rows = [line.split(maxsplit=2) for line in text.splitlines()]
    marks, shares, strokes = map(np.array, zip(*rows, strict=True))
    return marks, shares, Glyph(*map(_stacked, zip(*map(_compile, strokes), strict=True)))


_DIGITS, _SHARES, _TABLE = compiled(GLYPHS)
# Running sums of the shares of each digit's glyphs; those of digit d end at d + 1.
_SUMS = [np.cumsum(_SHARES[np.equal(_DIGITS, str(digit))].astype(float)) for digit in range(10)]
_CUMULATIVE = np.concatenate([digit + sums / sums[-1] for digit, sums in enumerate(_SUMS)])


def _pen_path(rng: Generator, table: Glyph, glyphs: np.ndarray, unsteady: float) -> np.ndarray:
    """The places an unsteady pen passes: float [n, POINTS, 2], in units of the digit's height."""
    n, controls = len(glyphs), table.control.shape[1]
    shaken = (0.025 + 0.03 * rng.random((n, 1, 1))) * _bell(rng, n, controls, 2)
    shaken *= unsteady * (1 + 0.8 * table.end[glyphs][..., None])
    misplaced = 0.03 * _bell(rng, n, table.stroke.max() + 1, 2)
    rows = np.arange(n)[:, None]
    control = table.control[glyphs] + shaken + misplaced[rows, table.stroke[glyphs]]
    points = np.zeros((n, POINTS, 2))
    for tap in range(4):
        weights = table.weights[glyphs, :, tap]
        points += weights[..., None] * control[rows, table.taps[glyphs, :, tap]]
    return points


def _hand(rng: Generator, points: np.ndarray) -> np.ndarray:
    """A writer's hand: bends (a smooth random field), width, slant and rotation."""
    n = len(points)
    u, v = 2 * points[..., 0], 2 * points[..., 1]  # about -1 to 1
    bends = 0.05 * _bell(rng, 2, 5, n, 1)
    x, y = (
        points[..., axis] + a * u * u + b * u * v + c * v * v + d * u * u * v + e * u * v * v
        for axis, (a, b, c, d, e) in enumerate(bends)
    )
    x = x * (0.9 + 0.15 * _bell(rng, n, 1))
    x = x - (0.12 + 0.26 * _bell(rng, n, 1)) * y
    tangent = 0.1 * _bell(rng, n, 1)
    cosine = 1 / np.sqrt(1 + tangent * tangent)
    return np.stack([cosine * (x - tangent * y), cosine * (y + tangent * x)], axis=-1)


def _pen_radii(rng: Generator, n: int) -> np.ndarray:
    """Half the stroke's width in pixels, changing slowly along the path: float [n, POINTS]."""
    t = np.linspace(-1, 1, POINTS)
    level = 0.8 + 0.9 * rng.random((n, 1)) + 0.25 * _bell(rng, n, 1) ** 2 * rng.random((n, 1))
    slope, curve = 0.1 * _bell(rng, 2, n, 1)
    return level * (1 + slope * t + curve * (1.5 * t * t - 0.5))


def _place(points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Scales digits with their ink to `DIGIT` pixels; pixels 4 to 23 hold the longest side."""
    scale = (DIGIT - 2 * radii.max(1)) / (points.max(1) - points.min(1)).max(1)
    points = points * scale[:, None, None]
    margin = (FIELD - 1 - DIGIT) / 2
    return points - (points - radii[..., None]).min(1, keepdims=True) + margin


def _ink(rng: Generator, points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Discs of `radii` pixels around `points` with soft, uneven edges: uint8 [n, 28, 28]."""
    n = len(points)
    blackness = (0.6 + 0.45 * rng.random((n, 1, 1))).astype(np.float32)
    noise = rng.random((n, FIELD + 1, FIELD + 1), np.float32)
    noise = noise[:, 1:, 1:] + noise[:, 1:, :-1] + noise[:, :-1, 1:] + noise[:, :-1, :-1] - 2
    noise *= (0.25 * rng.random((n, 1, 1))).astype(np.float32)
    pixels = np.arange(FIELD)[:, None]
    images = np.empty((n, FIELD, FIELD), np.uint8)
    for start in range(0, n, 100):  # as many as the processor's cache holds
        part = slice(start, start + 100)
        # The squared distance to a disc's centre is a column's part plus a row's part; less the
        # squared radius it is 0 on the disc's edge, so the least of all discs is 0 on the ink's.
        # The examples come last to give numpy long rows.
        columns = (points[part, :, 0].T[:, None] - pixels) ** 2
        rows = (points[part, :, 1].T[:, None] - pixels) ** 2 - (radii[part].T ** 2)[:, None]
        columns, rows = columns.astype(np.float32), rows.astype(np.float32)
        least = np.full((FIELD, FIELD, columns.shape[-1]), np.inf, np.float32)
        for column, row in zip(columns, rows, strict=True):
            np.minimum(least, column[None] + row[:, None], out=least)
        radius = radii[part].mean(1).astype(np.float32)
        beyond = np.sqrt(np.maximum(least + radius * radius, 0)) - radius  # pixels from the edge
        grey = 0.5 + (noise[part] - beyond.transpose(2, 0, 1)) * blackness[part]
        images[part] = np.clip(grey, 0, 1) * np.float32(255) + np.float32(0.5)
    return images


def centre(images: np.ndarray) -> np.ndarray:
    """Moves images by whole pixels: the centre of mass rounds to pixel (14, 14), as in MNIST."""
    mass = np.maximum(images.sum((1, 2), dtype=np.int64), 1)
    place = np.arange(FIELD)
    shifts = []
    for axis in (2, 1):  # summing over columns leaves rows
        moment = (images.sum(axis, dtype=np.int64) * place).sum(1)
        shifts.append(FIELD // 2 - (2 * moment + mass) // (2 * mass))
    rows = place[:, None] - shifts[0][:, None, None]
    columns = place - shifts[1][:, None, None]
    inside = (rows >= 0) & (rows < FIELD) & (columns >= 0) & (columns < FIELD)
    return images[np.arange(len(images))[:, None, None], rows % FIELD, columns % FIELD] * inside
