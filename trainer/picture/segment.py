"""Cuts words into pieces and joins pieces to candidates for digits.

Heterogeneous over-segmentation: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
to document recognition", 1998, section V.
"""

import dataclasses

import cv2
import numpy as np

from trainer.picture.find import Part
from trainer.picture.normalize import to_mnist

MAX_JOINED = 7  # pieces
LATERAL, LIMIT, APART = 0.4, 2.6, 0.07


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """Pieces of a word that may be a digit together."""

    first: int  # of its pieces
    end: int
    box: tuple[int, int, int, int]
    field: np.ndarray  # uint8 [28, 28]
    joined: float  # height of the second tallest of the connected strokes in it, in text heights
    seam: float  # of its last piece


def cut(labels: np.ndarray, word: list[Part], height: float) -> list[Part]:
    """Returns the pieces of a word from left to right; `labels` gets those of the new ones."""
    pieces = []
    label = int(labels.max())
    for part in word:
        view = labels[part.top : part.bottom, part.left : part.right]
        mask = view == part.label
        if part.width < 0.35 * height or part.height < 0.3 * height:
            paths = []
        else:
            paths = _seams(mask, LIMIT * part.stroke, APART * height)
        if not paths:
            pieces.append(part)
            continue
        columns = np.arange(part.width)
        number = sum((columns >= path[:, None]).astype(int) for path, _ in paths)
        for i in range(len(paths) + 1):
            own = mask & (number == i)
            if own.any():
                seam = paths[i][1] / part.stroke if i < len(paths) else 0.0
                x, y, w, h = cv2.boundingRect(own.astype(np.uint8))
                label += 1
                view[own] = label
                x, y = x + part.left, y + part.top
                pieces.append(
                    Part(label, x, y, x + w, y + h, int(own.sum()), part.stroke, part.label, seam)
                )
    return sorted(pieces, key=lambda piece: piece.left + piece.right)


def _seams(mask: np.ndarray, limit: float, apart: float) -> list[tuple[np.ndarray, float]]:
    """Returns paths from top to bottom that cross little ink: columns, int [h] each."""
    middle, reach = len(mask) // 2, max(1, int(apart))
    cost = mask.astype(np.float32)
    above, from_above = _least(cost[: middle + 1])
    below, from_below = _least(cost[middle:][::-1])
    total = above + below - cost[middle]
    found: list[int] = []
    for x in range(reach, len(total) - reach):
        least = total[x] == total[x - reach : x + reach + 1].min()
        if total[x] <= limit and least and (not found or x - found[-1] > reach):
            found.append(x)
    return [
        (np.concatenate([_trace(from_above, x)[::-1], _trace(from_below, x)[1:]]), float(total[x]))
        for x in found
    ]


def _least(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least costs from the first row to the last's pixels, and steps back to the row before."""
    total, back = cost[0], np.zeros(cost.shape, np.int8)
    for y in range(1, len(cost)):
        padded = np.pad(total, 1, constant_values=np.inf)
        ways = np.stack([padded[:-2] + LATERAL, padded[1:-1], padded[2:] + LATERAL])
        back[y] = ways.argmin(0) - 1
        total = ways.min(0) + cost[y]
    return total, back


def _trace(back: np.ndarray, x: int) -> np.ndarray:
    path = [x]
    for row in back[:0:-1]:
        x += int(row[x])
        path.append(x)
    return np.array(path)


def candidates(
    ink: np.ndarray, labels: np.ndarray, pieces: list[Part], height: float
) -> list[Candidate]:
    """Returns the runs of pieces that may be a digit by their shape."""
    found = []
    for first in range(len(pieces)):
        for end in range(first + 1, min(len(pieces), first + MAX_JOINED) + 1):
            run = pieces[first:end]
            box = (
                min(p.left for p in run),
                min(p.top for p in run),
                max(p.right for p in run),
                max(p.bottom for p in run),
            )
            wide, tall = box[2] - box[0], box[3] - box[1]
            if end - first > 1 and wide > 1.5 * height:
                break
            if tall < 0.35 * height or (end - first > 1 and _gap(run) > 0.3 * height):
                continue
            field = _field(ink, labels, run, box)
            found.append(Candidate(first, end, box, field, _joined(run) / height, run[-1].seam))
    return found


def _gap(run: list[Part]) -> int:
    """The widest gap between parts from left to right."""
    right, widest = run[0].right, 0
    for part in sorted(run, key=lambda part: part.left):
        widest = max(widest, part.left - right)
        right = max(right, part.right)
    return widest


def _joined(run: list[Part]) -> int:
    rows: dict[int, tuple[int, int]] = {}
    for part in run:
        top, bottom = rows.get(part.origin, (part.top, part.bottom))
        rows[part.origin] = min(top, part.top), max(bottom, part.bottom)
    return sorted([0, *(bottom - top for top, bottom in rows.values())])[-2]


def _field(
    ink: np.ndarray, labels: np.ndarray, run: list[Part], box: tuple[int, int, int, int]
) -> np.ndarray:
    left, top, right, bottom = box
    near = labels[top:bottom, left:right]
    own = np.isin(near, [part.label for part in run])
    soft = cv2.dilate(own.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return to_mnist(np.where(own | (soft & (near == 0)), ink[top:bottom, left:right], 0))
