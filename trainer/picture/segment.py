"""Cuts words into pieces, and joins pieces to candidates for digits (heterogeneous over-segmentation)."""

import cv2
import numpy as np

from trainer.picture.find import Part
from trainer.picture.normalize import to_mnist

MAX_JOINED = 6


def seams(mask: np.ndarray, limit: float, apart: float) -> list[np.ndarray]:
    """Returns paths from top to bottom that cross little ink: column of each row, from left to right."""
    h, w = mask.shape
    cost = mask.astype(np.float32)
    middle = h // 2
    up, from_up = _paths(cost[: middle + 1])
    down, from_down = _paths(cost[middle:][::-1])
    total = up + down - cost[middle]
    reach = max(1, int(apart))
    found = []
    for x in range(reach, w - reach):
        around = total[x - reach : x + reach + 1]
        if total[x] <= limit and total[x] == around.min() and (not found or x - found[-1] > reach):
            found.append(x)
    return [np.concatenate([_trace(from_up, x)[::-1], _trace(from_down, x)[1:]]) for x in found]


def _paths(cost):
    """Least costs from the first row to each pixel of the last, and where they come from."""
    total, back = cost[0].copy(), np.zeros(cost.shape, np.int8)
    for y in range(1, len(cost)):
        padded = np.pad(total + 0.0, 1, constant_values=1e9)
        ways = np.stack([padded[1:-1], padded[:-2] + 0.25, padded[2:] + 0.25])
        best = ways.argmin(0)
        back[y] = np.array([0, -1, 1])[best]
        total = ways[best, np.arange(len(total))] + cost[y]
    return total, back


def _trace(back, x):
    path = [x]
    for y in range(len(back) - 1, 0, -1):
        x += int(back[y, x])
        path.append(x)
    return np.array(path)


def cut(labels: np.ndarray, word: list[Part], height: float, stroke: float) -> list[Part]:
    """Cuts wide parts; gives the pieces labels of their own. Returns them from left to right."""
    pieces = []
    for part in word:
        if part.width < 0.4 * height or part.height < 0.3 * height:
            pieces.append(part)
            continue
        view = labels[part.top : part.bottom, part.left : part.right]
        mask = view == part.label
        paths = seams(mask, 2.6 * stroke, 0.1 * height)
        if not paths:
            pieces.append(part)
            continue
        columns = np.arange(part.width)
        number = sum((columns >= path[:, None]).astype(int) for path in paths)
        for i in range(len(paths) + 1):
            own = mask & (number == i)
            if not own.any():
                continue
            x, y, w, h = cv2.boundingRect(own.astype(np.uint8))
            label = int(labels.max()) + 1
            view[own] = label
            pieces.append(
                Part(
                    label,
                    part.left + x,
                    part.top + y,
                    part.left + x + w,
                    part.top + y + h,
                    int(own.sum()),
                    part.stroke,
                    part.label,
                )
            )
    return sorted(pieces, key=lambda p: p.middle)


def candidates(ink: np.ndarray, labels: np.ndarray, pieces: list[Part], height: float):
    """Yields (first, end, box, field)."""
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
            if end - first > 1 and wide > 1.4 * height:
                break
            if max(wide, tall) < 0.4 * height or tall < 0.35 * height:
                continue
            if end - first > 1 and _gap(run) > 0.3 * height:
                continue
            yield first, end, box, field(ink, labels, run, box), joined(run, height)


def _gap(run):
    """The widest gap between parts from left to right."""
    right, widest = run[0].right, 0
    for p in sorted(run, key=lambda p: p.left)[1:]:
        widest = max(widest, p.left - right)
        right = max(right, p.right)
    return widest


def joined(run, height):
    """The height of the second tallest of the parts that a candidate joins, relative."""
    tall = {}
    for p in run:
        tall.setdefault(p.origin, []).append(p)
    heights = sorted(max(p.bottom for p in g) - min(p.top for p in g) for g in tall.values())
    return heights[-2] / height if len(heights) > 1 else 0.0


def field(ink, labels, run, box):
    left, top, right, bottom = box
    part = labels[top:bottom, left:right]
    own = np.isin(part, [p.label for p in run])
    soft = cv2.dilate(own.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & (
        (part == 0) | own
    )
    return to_mnist(np.where(soft, ink[top:bottom, left:right], 0).astype(np.float32))
