"""Digits drawn by the project itself, for machines that cannot get MNIST: strokes as control
points, bent at random, inked and normalised the way MNIST's digits are.

Apart from the other sources because nothing is read: the glyph table below is all the data.
"""

from __future__ import annotations

import concurrent.futures
import itertools

import numpy as np

from trainer.process.cpus import available_cpus

# One line a way of writing the digit: (how common it is, its strokes). A stroke is a list of "x,y"
# that the pen passes, in per cent of the digit's height, y downwards; "!" marks a sharp corner, all
# else is a smooth curve; ";" lifts the pen.
GLYPHS: dict[int, tuple[tuple[float, str], ...]] = {
    0: (
        (3, "50,0 20,12 5,50 20,90 48,100 78,90 93,50 80,12 52,0"),
        (2, "60,6 34,1 10,25 5,62 26,96 60,96 90,64 88,26 66,6 44,14"),
        (1, "80,6 40,2 9,35 11,80 45,100 84,76 90,32 66,10 32,20"),
        (1, "62,2 30,20 12,60 22,95 48,98 72,70 80,30 68,4 50,6"),
        (1, "34,6 12,30 6,70 30,100 68,96 92,66 88,24 62,0 40,14"),
        (0.5, "30,8 8,40 12,84 48,100 86,84 92,36 72,6"),
    ),
    1: (
        (8, "50,0 50,50 50,100"),
        (2, "44,0 52,30 52,70 44,100"),
        (1, "26,24 40,16 54,0! 54,50 54,100"),
        (1, "20,24 36,16 52,0! 52,50 52,100; 16,100 50,98 88,100"),
        (0.5, "34,14 54,0! 50,50 46,100! 64,92"),
        (0.7, "14,36 30,20 50,0! 46,50 42,100"),
    ),
    2: (
        (3, "10,22 35,2 70,6 76,34 46,66 8,97! 50,96 95,95"),
        (3, "10,25 40,2 74,14 70,50 40,86 14,96 10,80 30,76 60,92 98,90"),
        (2, "12,30 20,6 60,0 80,25 56,62 12,94! 30,84 64,98 96,84"),
        (1, "6,10 40,8 82,6! 50,48 8,94! 50,94 94,92"),
        (1, "16,26 44,0 72,18 62,60 30,96 8,88 22,66 50,84 80,100 100,86"),
        (1, "20,12 50,0 62,22 56,60 34,98! 50,94 74,98"),
        (1, "8,16 36,4 78,10 84,28 52,58 10,88! 46,92 110,98"),
        (0.7, "30,30 22,8 56,0 72,26 64,62 36,96 16,84 34,68 58,82 76,96"),
        (1.2, "14,16 48,0 82,14 84,50 60,86 30,100 8,90 20,72 50,72 92,88"),
        (1, "18,22 44,2 76,18 72,56 44,92 16,98 6,84 24,70 50,82 80,98"),
        (1, "36,30 14,22 30,2 64,8 62,44 36,84 8,92! 36,84 60,96 90,86"),
    ),
    3: (
        (3, "12,10 45,0 78,16 66,40 36,48! 74,56 84,78 54,100 8,90"),
        (1, "12,4 46,4 82,4! 64,22 42,40! 80,56 78,90 38,100 6,86"),
        (2, "10,16 50,0 80,20 60,42 38,50 42,43 62,46 88,66 70,96 32,100 6,86"),
        (1, "16,8 50,0 72,18 54,44 62,52 76,72 56,98 14,98"),
        (1, "10,14 44,2 76,14 58,38 26,46! 64,50 92,70 70,94 20,100"),
        (1, "8,20 30,2 68,6 66,34 30,52! 62,50 74,72 46,96 12,100 0,90"),
        (0.7, "14,6 48,2 80,8 60,30 40,50 68,60 80,80 50,100 12,92"),
        (0.7, "20,10 60,2 64,28 34,44! 56,50 66,76 40,98 8,92 14,80 40,94"),
        (0.7, "12,10 48,2 66,20 42,40! 60,54 58,78 44,100"),
        (0.7, "22,22 28,2 60,2 66,24 36,46! 70,54 66,84 36,100 10,90"),
    ),
    4: (
        (3, "22,4 14,28 10,52! 48,52 88,48; 76,0 70,50 62,100"),
        (2, "16,4 8,34 22,56 52,54 76,44; 84,0 78,46 72,100"),
        (1.5, "62,0 34,30 6,64! 50,64 96,64; 64,0 62,50 60,100"),
        (1, "14,4 8,40 30,60 62,54 84,4! 78,48 66,100"),
        (1.5, "46,2 26,34 6,62! 48,60 92,50; 84,14 68,52 48,100"),
        (0.7, "70,6 36,30 10,60! 40,62 66,40 74,4! 66,50 58,100"),
        (0.7, "14,6 18,34 24,48! 50,48 78,44; 78,0 76,50 76,100"),
        (0.7, "52,0 40,28 14,60 14,68 50,62 90,58; 62,34 58,68 54,100"),
        (0.7, "12,10 10,44 36,54 66,44 82,16! 82,50 84,100"),
    ),
    5: (
        (3, "28,6 24,26 20,46! 54,38 84,60 72,94 34,100 4,88; 28,6 58,6 90,2"),
        (2, "88,4 58,6 30,6! 26,24 20,44! 58,38 82,64 62,96 8,94"),
        (1.5, "84,8 44,2 20,24 44,46 76,66 64,96 10,96"),
        (1, "36,10 32,28 28,44! 54,42 66,62 52,92 8,94; 36,10 70,8 112,2"),
        (1, "74,4 36,8! 32,28 30,44! 58,52 66,76 50,100 24,96"),
        (1, "16,8 14,28 12,48! 50,34 88,52 86,86 46,100 6,92; 14,8 46,6 80,6"),
        (0.7, "98,2 66,14 44,8 34,28 40,46 62,60 60,90 26,100 0,82 12,76"),
        (0.7, "70,2 28,6 18,36! 40,50 58,62 56,90 30,100 10,92"),
        (0.7, "34,6 28,28 24,46! 60,40 82,66 62,96 26,96 14,78; 34,6 58,6 88,4"),
    ),
    6: (
        (3, "64,0 26,30 8,70 30,100 74,90 76,62 46,52 12,72"),
        (2, "46,0 18,46 18,88 50,100 76,80 66,56 40,58 20,80"),
        (1.5, "84,8 58,0 22,34 10,74 38,100 76,84 70,56 36,56 12,76"),
        (1.5, "52,0 20,44 10,84 40,100 82,86 84,64 58,60 34,76 40,94"),
        (1, "30,0 14,44 16,88 48,100 80,78 70,52 40,56 22,78"),
        (1, "80,0 40,32 12,70 18,98 54,94 84,68 62,56 34,72 22,92"),
        (0.7, "72,4 36,24 14,66 40,100 70,86 66,66 46,64 20,82"),
        (1, "22,4 4,44 12,88 50,98 88,84 90,50 62,44 44,66 48,92"),
        (1, "56,0 26,40 14,80 24,96 52,94 68,78 52,70 32,84"),
    ),
    7: (
        (3, "8,10 46,8 86,4! 62,46 42,100"),
        (1, "8,10 46,8 86,4! 60,48 40,100; 26,54 52,52 84,46"),
        (2, "6,28 12,8! 48,8 84,4! 58,48 40,100"),
        (2, "5,18 38,6 78,8 74,42 52,100"),
        (0.7, "6,28 10,10! 48,8 86,4! 58,50 42,100; 28,56 52,52 82,50"),
        (1, "10,22 24,4 50,14 84,2! 56,44 34,100"),
        (1, "16,4 48,4 74,4! 70,50 66,100"),
        (1, "4,14 40,6 80,14 88,34 60,64 20,100"),
        (0.6, "8,36 14,6! 46,2 76,4! 74,50 72,100"),
    ),
    8: (
        (3, "80,14 46,0 16,20 44,48 80,76 50,100 16,80 44,52 76,26 78,12"),
        (
            1.5,
            "50,0 22,12 24,38 50,48 76,36 78,12 52,0; 50,48 18,62 16,88 50,100 84,88 82,62 52,48",
        ),
        (2, "86,6 50,6 20,22 46,46 70,74 46,100 18,80 46,50 98,2"),
        (1.5, "56,0 30,16 38,42 60,66 56,96 26,98 18,74 48,48 72,18 58,0"),
        (1, "74,22 52,2 22,10 18,34 52,50 72,76 48,100 22,84 36,58 70,40 76,16"),
        (1, "50,46 20,26 44,0 78,16 56,44 22,72 34,100 68,92 70,66 48,46"),
        (0.7, "40,48 14,30 34,4 74,4 76,32 40,48 18,76 42,100 64,80 46,50"),
        (1, "76,12 46,2 20,22 46,46 58,74 44,98 30,78 52,46 78,18"),
        (1, "36,94 48,60 78,22 50,0 22,20 50,52 80,90 50,98"),
        (0.7, "14,6 50,48 76,78 46,100 22,80 48,50 84,4"),
        (0.7, "70,8 36,0 14,26 50,46 84,20 64,4; 48,44 30,70 44,100 62,74 50,46"),
    ),
    9: (
        (3, "76,14 46,0 12,20 24,48 60,42 78,12! 76,52 70,100"),
        (1.5, "78,14 46,0 12,22 28,50 66,40 80,10! 84,56 66,94 24,98"),
        (2, "74,20 50,0 14,24 26,50 62,34 76,8! 60,56 36,100"),
        (1.5, "66,30 76,10 48,0 16,24 26,48 58,40 74,20 68,60 50,100"),
        (1, "84,6 48,4 12,26 22,46 58,36 78,14! 72,56 66,100"),
        (1, "44,2 14,16 16,44 50,50 74,30 64,4 40,4; 74,16 76,56 74,100"),
        (0.7, "70,10 40,4 20,28 40,44 68,26! 70,60 54,94 24,92 40,70"),
        (0.7, "64,6 30,6 10,34 34,50 72,40; 72,8 76,50 84,100"),
        (1, "64,10 44,0 26,14 38,28 60,22 68,8! 60,50 46,100"),
        (1, "78,26 62,2 26,6 10,40 34,62 68,48 80,16! 82,60 84,100"),
        (0.7, "70,4 30,10 14,32 40,44 78,18! 70,56 60,100"),
    ),
}

FIELD = 28  # pixels, the side of an image
DIGIT = 19.2  # pixels from edge to edge of the longest side: 20 with the soft edges, as in MNIST
BLOCK = 1000  # examples from one random stream, whatever the number of threads
POINTS = 72  # places of a digit that get ink: about a pixel apart, or strokes turn to pearls


def generate(
    train_examples: int = 60_000, test_examples: int = 10_000, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws a training and a test set of digits like MNIST's.

    The images depend on `seed` alone: the first n of a longer set are the set of n, training and
    test set come from different random streams, and neither threads nor processors change a pixel,
    as all is made of uniform random numbers, + - * / and square roots, which IEEE 754 rounds the
    same everywhere. Of every 1000 examples each class has 100, in random order.

    Args:
      train_examples: how many to train on, at least 0.
      test_examples: how many to test on, at least 0.
      seed: at least 0.

    Returns:
      Training images uint8 [n, 28, 28] (0 is paper, 255 ink), training labels uint8 [n], test
      images, test labels.
    """
    with concurrent.futures.ThreadPoolExecutor(available_cpus()) as pool:
        sets = []
        for split, examples in enumerate((train_examples, test_examples)):
            starts = range(0, examples, BLOCK)
            blocks = pool.map(
                lambda start, split=split: _draw_block(seed, split, start // BLOCK), starts
            )
            images = np.empty((examples, FIELD, FIELD), np.uint8)
            labels = np.empty(examples, np.uint8)
            for start, (block_images, block_labels) in zip(starts, blocks, strict=True):
                images[start : start + BLOCK] = block_images[: examples - start]
                labels[start : start + BLOCK] = block_labels[: examples - start]
            sets += [images, labels]
    return tuple(sets)


def _draw_block(seed: int, split: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Block number `block` of a split: images uint8 [BLOCK, 28, 28], labels uint8 [BLOCK]."""
    rng = np.random.Generator(np.random.PCG64([seed, split, block]))
    labels = (rng.random(BLOCK).argsort(kind="stable") % 10).astype(np.uint8)
    glyphs = _choose_glyphs(rng, labels)
    points = _hand(rng, _pen_path(rng, glyphs))
    radii = _pen_radii(rng, BLOCK)
    points = _place(points, radii)
    return _centre(_ink(rng, points, radii)), labels


def _bell(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Bell-shaped random numbers, mean 0, deviation 1, never beyond 3: a sum of three uniform ones.

    Not `rng.normal`, whose algorithm and logarithm may differ between versions and processors.
    """
    uniform = rng.random((3, *shape))
    return 2 * (uniform[0] + uniform[1] + uniform[2]) - 3


class _GlyphTable:
    """`GLYPHS` as arrays: every place on a glyph's path is a weighted sum of four control points.

    Attributes:
      first: int [11], glyphs of class c are number first[c] to first[c + 1] - 1.
      share: float [glyphs], the running sum of the weights within a class, 1 at its last glyph.
      control: float [glyphs, most controls, 2], in units of the digit's height, around 0.
      stroke: int [glyphs, most controls], the stroke a control point belongs to.
      end: float [glyphs, most controls], 1 where a stroke starts or ends, else 0.
      taps: int [glyphs, POINTS, 4], the four control points.
      weights: float [glyphs, POINTS, 4], their weights.
    """

    def __init__(self, glyphs: dict[int, tuple[tuple[float, str], ...]]):
        self.first = np.cumsum([0] + [len(glyphs[c]) for c in range(10)])
        shares = [np.cumsum([weight for weight, _ in glyphs[c]]) for c in range(10)]
        self.share = np.concatenate([share / share[-1] for share in shares])
        compiled = [_compile(strokes) for c in range(10) for _, strokes in glyphs[c]]
        most = max(len(control) for control, *_ in compiled)
        self.control = np.zeros((len(compiled), most, 2))
        self.stroke = np.zeros((len(compiled), most), np.int64)
        self.end = np.zeros((len(compiled), most))
        for i, (control, stroke, end, _, _) in enumerate(compiled):
            self.control[i, : len(control)] = control
            self.stroke[i, : len(control)] = stroke
            self.end[i, : len(control)] = end
        self.taps = np.stack([taps for *_, taps, _ in compiled])
        self.weights = np.stack([weights for *_, weights in compiled])
        self.strokes = int(self.stroke.max()) + 1


def _compile(strokes: str) -> tuple[np.ndarray, ...]:
    """One glyph's control points, strokes and ends, and its places' taps and weights."""
    control, stroke, end, taps, weights, fine_stroke = [], [], [], [], [], []
    u = np.linspace(0, 1, 17)[:, None]
    # Catmull and Rom's spline passes its control points; its four weights at u of the way from the
    # second to the third: https://en.wikipedia.org/wiki/Cubic_Hermite_spline#Catmull-Rom_spline
    v = 1 - u
    basis = np.concatenate(
        [-u * v * v, 2 - 5 * u * u + 3 * u * u * u, 2 - 5 * v * v + 3 * v * v * v, -u * u * v],
        axis=1,
    )
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
    control, taps, weights = np.array(control), np.array(taps), np.array(weights)
    control -= (control.max(0) + control.min(0)) / 2
    fine = (control[taps] * weights[..., None]).sum(1)
    steps = np.sqrt(((fine[1:] - fine[:-1]) ** 2).sum(1))
    steps[np.diff(fine_stroke) != 0] = 0  # the pen is lifted
    length = np.concatenate([[0], np.cumsum(steps)])
    # 1e-9 less, so that rounding does not push the last place beyond the end.
    places = np.searchsorted(length, np.linspace(0, length[-1], POINTS) - 1e-9)
    return control, np.array(stroke), np.array(end), taps[places], weights[places]


_TABLE = _GlyphTable(GLYPHS)


def _choose_glyphs(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Numbers of glyphs of the classes `labels`, each as often as its weight says: int [n]."""
    # Shares of class c lie in (c, c + 1] of one increasing sequence.
    classes = np.repeat(np.arange(10), np.diff(_TABLE.first))
    return np.searchsorted(_TABLE.share + classes, labels + rng.random(len(labels)), side="right")


def _pen_path(rng: np.random.Generator, glyphs: np.ndarray) -> np.ndarray:
    """The places an unsteady pen passes: float [n, POINTS, 2], in units of the digit's height."""
    n, most = len(glyphs), _TABLE.control.shape[1]
    unsteady = (0.025 + 0.03 * rng.random((n, 1, 1))) * _bell(rng, n, most, 2)
    unsteady *= 1 + 0.8 * _TABLE.end[glyphs][..., None]
    misplaced = 0.03 * _bell(rng, n, _TABLE.strokes, 2)
    rows = np.arange(n)[:, None]
    control = _TABLE.control[glyphs] + unsteady + misplaced[rows, _TABLE.stroke[glyphs]]
    points = np.zeros((n, POINTS, 2))
    for tap in range(4):
        weights = _TABLE.weights[glyphs, :, tap]
        points += weights[..., None] * control[rows, _TABLE.taps[glyphs, :, tap]]
    return points


def _hand(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
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


def _pen_radii(rng: np.random.Generator, n: int) -> np.ndarray:
    """Half the stroke's width in pixels, changing slowly along the path: float [n, POINTS]."""
    t = np.linspace(-1, 1, POINTS)
    level = 0.8 + 0.9 * rng.random((n, 1)) + 0.25 * _bell(rng, n, 1) ** 2 * rng.random((n, 1))
    slope, curve = 0.1 * _bell(rng, 2, n, 1)
    return level * (1 + slope * t + curve * (1.5 * t * t - 0.5))


def _place(points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Scales the digits with their ink to `DIGIT` pixels and fits them to the pixels, as in MNIST.

    Pixels 4 to 23 hold the longest side; `_centre` moves it by whole pixels.
    """
    scale = (DIGIT - 2 * radii.max(1)) / (points.max(1) - points.min(1)).max(1)
    points = points * scale[:, None, None]
    margin = (FIELD - 1 - DIGIT) / 2
    return points - (points - radii[..., None]).min(1, keepdims=True) + margin


def _ink(rng: np.random.Generator, points: np.ndarray, radii: np.ndarray) -> np.ndarray:
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
        power = np.empty_like(least)
        for column, row in zip(columns, rows, strict=True):
            np.add(column[None], row[:, None], out=power)
            np.minimum(least, power, out=least)
        radius = radii[part].mean(1).astype(np.float32)
        beyond = np.sqrt(np.maximum(least + radius * radius, 0)) - radius  # pixels from the edge
        grey = 0.5 + (noise[part] - beyond.transpose(2, 0, 1)) * blackness[part]
        images[part] = np.clip(grey, 0, 1) * np.float32(255) + np.float32(0.5)
    return images


def _centre(images: np.ndarray) -> np.ndarray:
    """Moves images by whole pixels: the centre of mass rounds to pixel (14, 14), as in MNIST."""
    mass = images.sum((1, 2), dtype=np.int64)
    place = np.arange(FIELD)
    shifts = []
    for axis in (2, 1):  # summing over columns leaves rows
        moment = (images.sum(axis, dtype=np.int64) * place).sum(1)
        shifts.append(FIELD // 2 - (2 * moment + mass) // (2 * mass))
    rows = place[:, None] - shifts[0][:, None, None]
    columns = place - shifts[1][:, None, None]
    inside = (rows >= 0) & (rows < FIELD) & (columns >= 0) & (columns < FIELD)
    return images[np.arange(len(images))[:, None, None], rows % FIELD, columns % FIELD] * inside
