"""Finds the parts of writing among strokes, and groups them to words."""

import dataclasses

import cv2
import numpy as np

MAX_PARTS = 300  # the largest are kept: a texture has thousands
MIN_HEIGHT = 9  # pixels of a digit
GAP = 0.9  # between the digits of a number, at most, in heights of a digit


@dataclasses.dataclass(frozen=True)
class Part:
    """A connected stroke, or a piece cut from one."""

    label: int  # of its pixels
    left: int
    top: int
    right: int
    bottom: int
    area: int
    stroke: float  # its width, in pixels
    origin: int  # the label of the connected stroke
    seam: float = 0.0  # ink that the cut at its right side crosses, in widths of the stroke

    @property
    def width(self) -> int:
        """Pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels."""
        return self.bottom - self.top

    def overlap(self, other: "Part") -> tuple[int, int]:
        """Pixels of common columns and rows; below 0 those of the gap."""
        return (
            min(self.right, other.right) - max(self.left, other.left),
            min(self.bottom, other.bottom) - max(self.top, other.top),
        )


def parts(mask: np.ndarray) -> tuple[np.ndarray, list[Part]]:
    """Returns labels int32 [h, w] and the parts of strokes, uint8 [h, w]."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    # The mean distance to the edge is a quarter of the width, and half a pixel between centres.
    widths = 4 * (np.bincount(labels.ravel(), distance.ravel(), count) / stats[:, 4] - 0.5)
    order = 1 + np.argsort(-stats[1:, 4], kind="stable")[: 3 * MAX_PARTS]
    found = [
        Part(i, x, y, x + w, y + h, area, max(1.0, float(widths[i])), i)
        for i, (x, y, w, h, area) in zip(order.tolist(), stats[order].tolist(), strict=True)
        if area >= 4
    ]
    whole = [p for p in found if not _touches_edge(p, mask.shape)]
    if max((p.height for p in whole), default=0) >= 0.3 * max((min(p.height, p.width*3) for p in found), default=0):
        found = whole
    found = [part for part in found if not _encloses(part, found) and not _is_rule(part)]
    return labels, found[:MAX_PARTS]


def _touches_edge(part: Part, shape: tuple[int, int]) -> bool:
    return part.left == 0 or part.top == 0 or part.right == shape[1] or part.bottom == shape[0]


def _encloses(part: Part, others: list[Part]) -> bool:
    """Says whether a part is a ring or a box around others."""
    return part.area < 0.35 * part.width * part.height and any(
        part.left < other.left
        and other.right < part.right
        and part.top < other.top
        and other.bottom < part.bottom
        and other.height > 0.3 * part.height
        for other in others
    )


def _is_rule(part: Part) -> bool:
    """Says whether a part is a level line: digits that touch have more ink than one stroke."""
    return part.width > 4 * part.height and part.area < 1.8 * part.stroke * part.width


def words(found: list[Part], broken: float) -> list[list[Part]]:
    """Groups parts that stand side by side as the digits of a number do.

    With `broken`, parts nearer than this, in sizes of the larger, belong together wherever they are.
    """
    main = [
        p for p in found if p.height >= MIN_HEIGHT and p.stroke <= 0.42 * max(p.width, p.height)
    ]
    group = list(range(len(main)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, one in enumerate(main):
        for j, other in enumerate(main[:i]):
            low, high = sorted([one.height, other.height])
            columns, rows = one.overlap(other)
            beside = rows > 0.35 * low and low > 0.4 * high and columns > -GAP * high
            near = broken * max(one.width, other.width, high)
            if beside or min(columns, rows) > -near:
                group[root(i)] = root(j)
    grouped: dict[int, list[Part]] = {}
    for i, part in enumerate(main):
        grouped.setdefault(root(i), []).append(part)
    for part in found:
        if part not in main:
            _join(part, list(grouped.values()))
    return list(grouped.values())


def _join(part: Part, grouped: list[list[Part]]) -> None:
    """Adds a small part, as the bar of a 5, to the word that it is near."""
    nearest, where = 0.3, None
    for word in grouped:
        height = max(other.height for other in word)
        if not 0.004 * height**2 < part.area < 2 * height**2 or part.height > 1.5 * height:
            continue
        for other in word:
            gap = sum(max(0, -each) for each in part.overlap(other)) / height
            if gap < nearest:
                nearest, where = gap, word
    if where is not None:
        where.append(part)


def text_height(word: list[Part]) -> float:
    """Returns the height of the digits of a word, in pixels."""
    heights = np.array([part.height for part in word])
    return float(np.percentile(heights[heights >= 0.5 * heights.max()], 75))


def stands_out(
    ink: np.ndarray, ground: np.ndarray, labels: np.ndarray, word: list[Part], height: float
) -> bool:
    """Says whether the ground under a word goes on above or below it.

    Else it is no ink: what is light between dark strokes has their level as its ground.
    """
    top, bottom = min(p.top for p in word), max(p.bottom for p in word)
    left, right = min(p.left for p in word), max(p.right for p in word)
    own = np.isin(labels[top:bottom, left:right], [p.label for p in word])
    columns = np.nonzero(own)[1]
    level = ground[top:bottom, left:right][own]
    limit = 0.5 * np.median(ink[top:bottom, left:right][own])
    beyond = max(0, int(top - height / 2)), min(len(ground) - 1, int(bottom + height / 2))
    steps = [np.abs(level - ground[row, left + columns]) for row in beyond]
    return float(np.mean(np.minimum(*steps) < limit)) > 0.5
