"""Finds the parts of writing among strokes, and the words they belong to."""

import dataclasses

import cv2
import numpy as np

MAX_PARTS = 400  # the largest are kept: a texture has thousands
MIN_HEIGHT = 9  # pixels of a digit


@dataclasses.dataclass
class Part:
    """A connected stroke, or a piece cut from one."""

    label: int  # of its pixels
    left: int
    top: int
    right: int
    bottom: int
    area: int
    stroke: float = 1.0
    origin: int = 0

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def parts(mask: np.ndarray) -> tuple[np.ndarray, list[Part]]:
    """Returns labels int32 [h, w] and the parts of strokes, uint8 [h, w]."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    widths = 4 * (np.bincount(labels.ravel(), distance.ravel(), count) / stats[:, 4] - 0.5)
    found = [
        Part(i, x, y, x + w, y + h, a, max(1.0, widths[i]), i)
        for i, (x, y, w, h, a) in enumerate(stats.tolist())
        if i and a >= 4
    ]
    found.sort(key=lambda part: -part.area)
    found = [part for part in found if not _is_frame(part, mask.shape)]
    found = [p for p in found if not _encloses(p, found)]
    return labels, found[:MAX_PARTS]


def _is_frame(part, shape):
    edge = (part.left == 0) + (part.top == 0) + (part.right == shape[1]) + (part.bottom == shape[0])
    return (
        edge >= 2
        or max(part.width / part.height, part.height / part.width) > 12
        or (edge and max(part.width / shape[1], part.height / shape[0]) > 0.5)
    )


def _encloses(part, others):
    """A ring around other parts."""
    if part.area > 0.35 * part.width * part.height:
        return False
    inside = [
        o
        for o in others
        if o.left > part.left
        and o.right < part.right
        and o.top > part.top
        and o.bottom < part.bottom
        and o.height > 0.3 * part.height
    ]
    return bool(inside)


def words(found: list[Part]) -> list[list[Part]]:
    """Groups parts that stand side by side as the digits of a number do."""
    main = [
        p for p in found if p.height >= MIN_HEIGHT and p.stroke <= 0.42 * max(p.width, p.height)
    ]
    group = list(range(len(main)))

    def root(i):
        while group[i] != i:
            i = group[i]
        return i

    for i, a in enumerate(main):
        for j, b in enumerate(main[:i]):
            low, high = sorted([a.height, b.height])
            overlap = min(a.bottom, b.bottom) - max(a.top, b.top)
            gap = max(a.left, b.left) - min(a.right, b.right)
            if overlap > 0.35 * low and low > 0.4 * high and gap < 0.9 * high:
                group[root(i)] = root(j)
    result = {}
    for i, part in enumerate(main):
        result.setdefault(root(i), []).append(part)
    lines = list(result.values())
    rest = [p for p in found if all(p is not m for m in main)]
    for p in rest:
        best, where = 0.3, None
        for line in lines:
            h = max(m.height for m in line)
            for m in line:
                gap = max(max(m.left, p.left) - min(m.right, p.right), 0) + max(
                    max(m.top, p.top) - min(m.bottom, p.bottom), 0
                )
                if (
                    gap < best * h
                    and p.area < 3 * h * h
                    and p.area > 0.004 * h * h
                    and p.height < 1.5 * h
                ):
                    best, where = gap / h, line
        if where is not None:
            where.append(p)
    # a small group beside a large one is part of it
    return [sorted(line, key=lambda p: p.middle) for line in lines]


def stands_out(
    ink: np.ndarray, ground: np.ndarray, labels: np.ndarray, word: list[Part], height: float
) -> bool:
    """Says whether the ground is the same under a word and around it: else it is a gap."""
    reach = max(2, int(0.5 * height))
    left, top = min(p.left for p in word), min(p.top for p in word)
    right, bottom = max(p.right for p in word), max(p.bottom for p in word)
    area = (slice(max(0, top - reach), bottom + reach), slice(max(0, left - reach), right + reach))
    own = np.isin(labels[area], [p.label for p in word])
    ring = np.ones(own.shape, bool)
    y, x = min(top, reach), min(left, reach)
    ring[y : y + bottom - top, x : x + right - left] = False
    if not ring.any():
        return True
    under, around = np.median(ground[area][own]), np.median(ground[area][ring])
    return abs(under - around) < 0.5 * np.median(ink[area][own])
