"""Cuts words into pieces and joins pieces to candidates for digits.

Heterogeneous over-segmentation: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
to document recognition", 1998, section V.
"""

import dataclasses

import cv2
import numpy as np

from trainer.picture.find import Part
from trainer.picture.normalize import to_mnist

MAX_JOINED = 9  # pieces
LATERAL = 0.4  # cost of a cut's step to the side, in pixels of ink
MAX_INK = 2.6  # that a cut may cross, in widths of the stroke
APART = 0.09  # the least distance of cuts, in heights of a digit


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """Pieces of a word that may be a digit together."""

    first: int  # of its pieces
    end: int
    box: tuple[int, int, int, int]
    field: np.ndarray  # uint8 [28, 28]
    joined: float  # height of the second tallest connected stroke in it, in heights of a digit
    seam: int  # of its last piece


def cut(labels: np.ndarray, word: list[Part], height: float) -> list[Part]:
    """Returns the pieces of a word from left to right; `labels` gets those of the new ones."""
    pieces, label = [], int(labels.max())
    for part in word:
        left, top, right, bottom = part.box
        view = labels[top:bottom, left:right]
        mask = view == part.label
        paths = []
        if part.width > 0.35 * height and part.height > 0.3 * height:
            paths = _seams(mask, MAX_INK * part.stroke, max(1, int(APART * height)))
        number = sum(
            [np.arange(part.width) >= path[:, None] for path in paths], np.zeros(mask.shape, int)
        )
        inked = [mask[np.arange(part.height), path].astype(int) for path in paths]
        crossed = [int((np.diff(along, prepend=0) > 0).sum()) for along in inked]
        for i in range(len(paths) + 1):
            own = mask & (number == i)
            if own.any():
                x, y, w, h = cv2.boundingRect(own.astype(np.uint8))
                box = (left + x, top + y, left + x + w, top + y + h)
                seam = crossed[i] if i < len(paths) else 0
                label += 1
                view[own] = label
                area = int(own.sum())
                pieces.append(Part(label, box, w, h, area, part.stroke, part.label, seam))
    return sorted(pieces, key=lambda piece: piece.box[0] + piece.box[2])


def _seams(mask: np.ndarray, limit: float, apart: int) -> list[np.ndarray]:
    """Returns paths from top to bottom that cross little ink: columns, int [h] each."""
    middle, cost = len(mask) // 2, mask.astype(np.float32)
    above, from_above = _least(cost[: middle + 1])
    below, from_below = _least(cost[middle:][::-1])
    total = above + below - cost[middle]
    found = [-apart]
    for x in range(apart, len(total) - apart):
        least = total[x] == total[x - apart : x + apart + 1].min()
        if least and total[x] <= limit and x - found[-1] > 1.3 * apart:
            found.append(x)
    return [
        np.concatenate([_trace(from_above, x)[::-1], _trace(from_below, x)[1:]]) for x in found[1:]
    ]


def _least(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least costs from the first row to the last's pixels, and steps back to the row before."""
    total, back = cost[0], np.zeros(cost.shape, int)
    for y in range(1, len(cost)):
        padded = np.pad(total, 1, constant_values=np.inf)
        ways = np.stack([padded[:-2] + LATERAL, padded[1:-1], padded[2:] + LATERAL])
        back[y] = ways.argmin(0) - 1
        total = ways.min(0) + cost[y]
    return total, back


def _trace(back: np.ndarray, x: int) -> np.ndarray:
    path = [x]
    for steps in back[:0:-1]:
        path.append(path[-1] + steps[path[-1]])
    return np.array(path)


def candidates(
    ink: np.ndarray, labels: np.ndarray, pieces: list[Part], height: float
) -> list[Candidate]:
    """Returns the runs of pieces that may be a digit by their shape."""
    found = []
    for first in range(len(pieces)):
        for end in range(first + 1, min(len(pieces), first + MAX_JOINED) + 1):
            run = pieces[first:end]
            boxes = np.array([part.box for part in run])
            left, top = boxes[:, :2].min(0).tolist()
            right, bottom = boxes[:, 2:].max(0).tolist()
            if end - first > 1 and right - left > 1.5 * height:
                break
            if bottom - top >= 0.35 * height:
                box = (left, top, right, bottom)
                field = _field(ink, labels, run, box)
                found.append(Candidate(first, end, box, field, _joined(run) / height, run[-1].seam))
    return found


def _joined(run: list[Part]) -> int:
    tall: dict[int, int] = {}
    for part in run:
        tall[part.origin] = max(tall.get(part.origin, 0), part.height)
    return sorted([0, *tall.values()])[-2]


def _field(ink: np.ndarray, labels: np.ndarray, run: list[Part], box: tuple) -> np.ndarray:
    """Returns pieces as MNIST holds a digit, with the soft edges of their strokes."""
    left, top, right, bottom = box
    near = labels[top:bottom, left:right]
    own = np.isin(near, [part.label for part in run])
    soft = cv2.dilate(own.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return to_mnist(np.where(own | (soft & (near == 0)), ink[top:bottom, left:right], 0))
