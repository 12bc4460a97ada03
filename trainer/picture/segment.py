"""Cuts words by lines that cross little ink; what is between two of them may be a digit.

Heterogeneous over-segmentation: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
to document recognition", 1998, section V.
"""

import dataclasses

import cv2
import numpy as np

from trainer.picture.find import Part
from trainer.picture.normalize import to_mnist

ROWS = 0.08  # distance of the rows in which cuts are sought, in heights of a digit
LATERAL = 0.1  # cost of a cut's step to the side, in pixels of ink
MAX_INK = 2.6  # that a cut may cross, in widths of the stroke
SAME = 0.2  # cuts with less ink between them are one: the length of a stroke, in heights
WIDEST = 1.5  # candidate, in heights of a digit, or its own: rules cut strokes into low ones
LOWEST = 0.35  # candidate, in heights of a digit


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """What is between two cuts of a word and may be a digit."""

    first: int  # the cut at its left
    end: int
    box: tuple[int, int, int, int]  # left, top, right, bottom
    ink: int  # pixels
    joined: int  # pixels: the height of its second highest connected stroke
    field: np.ndarray  # uint8 [28, 28]


@dataclasses.dataclass(frozen=True, eq=False)
class Word:
    """What may be a number, with n cuts from left to right; the first and last are its ends."""

    light: bool  # its ink, on a darker ground
    scale: float  # pixels of the whole picture for each of its own
    contrast: float  # of its ink, in nats
    height: float  # pixels of a digit
    stroke: float  # pixels: the width of its strokes
    crossed: np.ndarray  # int [n]: strokes that each cut crosses
    ink: np.ndarray  # int [n]: pixels to the left of each cut
    before: np.ndarray  # bool [n, n]: whether a cut is nowhere to the right of another
    candidates: list[Candidate]


def segment(
    ink: np.ndarray, labels: np.ndarray, parts: list[Part], height: float, light: bool, scale: float
) -> Word:
    """Cuts a word where less ink is crossed than on both sides of it.

    `ink` is float32 [h, w], `labels` int32 [h, w], of the parts; the others are as in `Word`.
    """
    boxes = np.array([part.box for part in parts])
    (left, top), (right, bottom) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    ink, labels = ink[top:bottom, left:right], labels[top:bottom, left:right]
    mask = np.isin(labels, [part.label for part in parts])
    stroke = sum(part.area * part.stroke for part in parts) / sum(part.area for part in parts)
    columns = _cuts(mask, stroke, height)
    rows = np.arange(len(mask))
    inked = np.pad(mask, ((0, 0), (0, 1)))[rows, columns].astype(int)
    crossed = (np.diff(inked, prepend=0) > 0).sum(1)
    amount = _ink_before(mask, columns).sum(1)
    before = (columns[:, None] <= columns).all(2)
    found = []
    for first, end in np.argwhere(np.triu(before, 1)).tolist():
        if columns[end].min() - columns[first].max() > WIDEST * max(height, len(mask)):
            continue
        start, stop = columns[first].min(), columns[end].max()
        at = np.arange(start, stop)
        own = (at >= columns[first, :, None]) & (at < columns[end, :, None]) & mask[:, start:stop]
        stats = cv2.connectedComponentsWithStats(own.astype(np.uint8), connectivity=8)[2][1:]
        if not len(stats):
            continue
        x, y = stats[:, :2].min(0).tolist()
        x_end, y_end = (stats[:, :2] + stats[:, 2:4]).max(0).tolist()
        if y_end - y >= LOWEST * height and x_end - x <= WIDEST * max(height, y_end - y):
            place = slice(y, y_end), slice(start + x, start + x_end)
            own = own[y:y_end, x:x_end]
            soft = cv2.dilate(own.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # edges
            field = to_mnist(np.where(own | (soft & (labels[place] == 0)), ink[place], 0), stroke)
            box = (left + int(start) + x, top + y, left + int(start) + x_end, top + y_end)
            joined = sorted([0, *stats[:, cv2.CC_STAT_HEIGHT].tolist()])[-2]
            area = int(amount[end] - amount[first])
            found.append(Candidate(first, end, box, area, joined, field))
    contrast = float(np.median(ink[mask]))
    return Word(light, scale, contrast, height, stroke, crossed, amount, before, found)


def _cuts(mask: np.ndarray, stroke: float, height: float) -> np.ndarray:
    """Returns the first column right of each cut in each row of `mask`, bool [h, w]: int [n, h]."""
    cost, rows = mask.astype(np.float32), np.arange(len(mask))
    above, from_above = _least(cost)
    below, from_below = (array[::-1] for array in _least(cost[::-1]))
    total = above + below - cost
    found = [np.stack([0 * rows, 0 * rows + mask.shape[1]])]
    for row in rows[:: max(1, int(ROWS * height))]:
        along = np.pad(total[row], 1, constant_values=np.inf)
        least = (along[1:-1] < along[:-2]) & (along[1:-1] <= along[2:])
        columns = np.flatnonzero(least & (total[row] <= MAX_INK * stroke))
        up, down = _trace(from_above[row::-1], columns), _trace(from_below[row:], columns)
        found.append(np.concatenate([up[:, :0:-1], down], 1))
    cuts = np.concatenate(found)
    ink, kept = _ink_before(mask, cuts), []
    crossed = np.pad(mask, ((0, 0), (0, 1)))[rows, cuts].sum(1)
    costs = crossed + LATERAL * np.abs(np.diff(cuts)).sum(1)
    for i in np.argsort(costs, kind="stable"):  # the ends come first
        if (np.abs(ink[kept] - ink[i]).sum(1) > SAME * height * stroke).all():
            kept.append(i)
    return cuts[sorted(kept, key=lambda i: (ink[i].sum(), cuts[i].sum()))]


def _ink_before(mask: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Returns the pixels left of each cut in each row, int [n, h]."""
    return np.pad(np.cumsum(mask, 1), ((0, 0), (1, 0)))[np.arange(len(mask)), cuts]


def _least(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least costs of ways from the first row to each pixel, and their last steps to the side."""
    total, back = cost.copy(), np.zeros(cost.shape, int)
    for y in range(1, len(cost)):
        padded = np.pad(total[y - 1], 1, constant_values=np.inf)
        ways = np.stack([padded[:-2] + LATERAL, padded[1:-1], padded[2:] + LATERAL])
        back[y] = ways.argmin(0) - 1
        total[y] += ways.min(0)
    return total, back


def _trace(steps: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Follows steps to the side, int [rows, w], from columns in the first row: int [n, rows]."""
    path = [columns]
    for to_side in steps[:-1]:
        path.append(path[-1] + to_side[path[-1]])
    return np.stack(path, 1)
