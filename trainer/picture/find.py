"""Finds the parts of writing among strokes, and groups them to words."""

import dataclasses

import cv2
import numpy as np

MAX_PARTS = 300  # the largest are kept: a texture has thousands
MIN_HEIGHT = 9  # pixels of a digit
GAP = 0.87  # between the digits of a number, at most, in heights of the line
BAR, BROKEN = 0.25, 0.1  # parts that are nearer to a larger one, in its sizes, or to one alike
SOLID = 0.3  # a stroke is narrower, in sizes of its part


@dataclasses.dataclass(frozen=True)
class Part:
    """A connected stroke."""

    label: int  # of its pixels
    box: tuple[int, int, int, int]  # left, top, right, bottom
    width: int
    height: int
    area: int
    stroke: float  # its width, in pixels


def parts(mask: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, list[Part]]:
    """Returns labels int32 [h, w] and the parts of strokes; frames and what is cut are left out.

    `mask` has the strokes and `lines` what is straight and long: uint8 [h, w], 0 or 1.
    """
    labels, found = _components(mask | lines)  # a box is of lines
    frames = [part.label for part, frame in zip(found, _frames(found), strict=True) if frame]
    labels, found = _components(mask & ~np.isin(labels, frames))
    height, width = mask.shape
    whole = [p for p in found if min(p.box[:2]) > 0 and p.box[2] < width and p.box[3] < height]
    tallest = [max((part.height for part in some), default=0) for some in (whole, found)]
    if tallest[0] >= 0.3 * tallest[1]:  # else the digit fills the picture
        found = whole
    return labels, [part for part in found if not _is_rule(part, tallest[1])]


def _components(mask: np.ndarray) -> tuple[np.ndarray, list[Part]]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    # The mean distance to the edge is a quarter of the width, and half a pixel between centres.
    widths = 4 * (np.bincount(labels.ravel(), distance.ravel(), count) / stats[:, 4] - 0.5)
    order = 1 + np.argsort(-stats[1:, 4], kind="stable")[:MAX_PARTS]
    return labels, [
        Part(label, (x, y, x + w, y + h), w, h, area, max(1.0, float(widths[label])))
        for label, (x, y, w, h, area) in zip(order.tolist(), stats[order].tolist(), strict=True)
        if area >= 4
    ]


def _frames(found: list[Part]) -> np.ndarray:
    """Says which parts are rings or boxes around others: bool [n]."""
    left, top, right, bottom = np.array([part.box for part in found]).reshape(-1, 4).T
    tall, area = bottom - top, np.array([part.area for part in found])
    inside = np.less.outer(left, left) & np.greater.outer(right, right)
    inside &= np.less.outer(top, top) & np.greater.outer(bottom, bottom)
    share = np.where(inside, np.divide.outer(tall, tall).T, 0)
    hollow = area < 0.35 * tall * (right - left)
    return hollow & (((share > 0.3).sum(1) > 0) | ((share > 0.1).sum(1) > 1))


def _is_rule(part: Part, tallest: int) -> bool:
    """Says whether a part is a level line or two: digits that touch have more ink than these."""
    flat = part.width > max(4 * part.height, 0.8 * tallest)
    return flat and part.area < 2.6 * part.stroke * part.width


def words(found: list[Part]) -> list[list[Part]]:
    """Groups parts that stand side by side as the digits of a number do, or near each other."""
    left, top, right, bottom = np.array([part.box for part in found]).reshape(-1, 4).T
    wide, tall = right - left, bottom - top
    strokes = np.array([part.stroke for part in found])
    digits = (tall >= MIN_HEIGHT) & (strokes <= SOLID * np.maximum(wide, tall))
    # Pixels of common columns and rows of each pair; below 0 those of the gap.
    columns = np.minimum.outer(right, right) - np.maximum.outer(left, left)
    rows = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    low, high = np.minimum.outer(tall, tall), np.maximum.outer(tall, tall)
    beside = (rows > 0.35 * low) & (low > 0.4 * high) & np.logical_and.outer(digits, digits)
    # A line is as high as the highest that stands near in it.
    line = np.where(beside & (columns > -3 * high), tall, tall[:, None]).max(1, initial=0)
    beside &= columns > -GAP * np.maximum.outer(line, line)
    size = np.maximum(wide, tall)
    smaller, larger = np.minimum.outer(size, size), np.maximum.outer(size, size)
    reach = np.where(smaller < 0.6 * larger, BAR, BROKEN) * larger
    near = np.minimum(columns, rows) > -reach
    group, last = np.arange(len(found)), None
    while not np.array_equal(group, last):
        last, group = group, np.where(beside | near, group, len(found)).min(1, initial=len(found))
    grouped = []
    for number in np.unique(group[digits]):
        members = [found[i] for i in np.flatnonzero(group == number)]
        stroke = max(members, key=lambda part: part.area).stroke
        grouped.append([part for part in members if part.area > 0.3 * stroke**2])  # no specks
    return grouped
