"""Finds the ink of a digit in a picture: the ground is removed, stray marks are left out."""

import cv2
import numpy as np

from trainer.errors import DataError

WORK = 512  # pixels: the longer side of the picture in which ink is looked for
COARSE = 48  # pixels: the longer side of the picture in which the ground is estimated
MIN_CONTRAST = 12.0  # grey levels: fainter than pencil, stronger than the grain of paper


def find_digit(gray: np.ndarray) -> np.ndarray:
    """Returns the ink of the digit in a picture: float32 [h, w], cropped to it, 0 beside strokes.

    `gray`, uint8 [height, width], shows one digit on a plain ground, dark on light or light on
    dark, evenly lit or not. The unit is grey levels that the ink stands out from the ground.
    Raises `DataError` if no digit is found.
    """
    small = resize(gray, min(WORK, max(gray.shape)))
    ink = _remove_ground(small)
    strokes = _strokes(ink)
    left, top, width, height = cv2.boundingRect(strokes)
    longer, zoom = max(width, height), max(gray.shape) / max(small.shape)
    if zoom > 1 and longer < WORK / 4:  # small on a large sheet: look again, closer
        rows, columns = (
            slice(max(0, int((start - longer / 2) * zoom)), int((end + longer / 2) * zoom) + 1)
            for start, end in ((top, top + height), (left, left + width))
        )
        return find_digit(gray[rows, columns])
    box = (slice(top, top + height), slice(left, left + width))
    soft_edge = max(1, longer // 64)  # of strokes: below the threshold
    inside = cv2.distanceTransform(1 - strokes, cv2.DIST_L2, 3)[box] <= soft_edge
    return np.where(inside, np.maximum(ink[box], 0), 0).astype(np.float32)


def resize(array: np.ndarray, longer: int) -> np.ndarray:
    """Returns `array` as float32 with its longer side `longer` pixels, antialiased."""
    factor = longer / max(array.shape)
    size = [max(1, round(side * factor)) for side in reversed(array.shape)]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(array, size, interpolation=way).astype(np.float32)


def _remove_ground(gray: np.ndarray) -> np.ndarray:
    """Returns how far pixels stand out as ink, dark or light; uneven light is removed."""
    coarse = resize(gray, min(COARSE, max(gray.shape)))
    # The light's slope: the median of differences, which ink and the sheet's end hardly move.
    slopes = [
        np.median(np.diff(coarse, axis=axis, prepend=coarse.take([0], axis))) for axis in (0, 1)
    ]
    light = np.tensordot(slopes, np.indices(coarse.shape), 1)
    # Ink covers little and is far from the ground, so the third moment has its sign.
    flat = coarse - light
    sign = np.sign(np.sum((flat - np.median(flat)) ** 3))
    # An opening by a window wider than strokes keeps what is wider: the ground and its shadows.
    window = np.ones([max(coarse.shape) // 6 * 2 + 1] * 2)
    ground = light + sign * cv2.morphologyEx(sign * flat, cv2.MORPH_OPEN, window)
    ink = sign * (gray - cv2.resize(ground, gray.shape[::-1], interpolation=cv2.INTER_LINEAR))
    return ink - np.percentile(ink, 25)


def _strokes(ink: np.ndarray) -> np.ndarray:
    """Returns the pixels of the digit, uint8 [height, width], 0 or 1."""
    soft = cv2.blur(ink, [max(ink.shape) // 100 * 2 + 1] * 2)
    # Two estimates of the ground's noise (standard deviation, from quantiles of a normal
    # distribution): uneven light misleads the first, ink that fills the picture the second.
    low, quarter, middle = np.percentile(soft, [5, 25, 50])
    noise = sorted([(quarter - low) / 0.97, (middle - quarter) / 0.67])
    peak = soft.max()
    if peak < max(MIN_CONTRAST, 6 * noise[0]):
        raise DataError("shows no digit; draw or photograph one with more contrast")
    mask = soft > np.clip(4 * noise[1], 0.1 * peak, 0.3 * peak)
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    mass = np.bincount(labels.ravel(), (mask * soft).ravel(), count)
    mass *= np.isin(np.arange(count), labels[soft > 0.4 * peak])
    # A shadow or the sheet's end lies along the edge; a digit touches it with its strokes at most.
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    share = np.bincount(edges, minlength=count) / edges.size
    main = int(np.argmax(mass / (1 + (30 * share) ** 2)))
    candidates = (mass >= 0.02 * mass[main]) & (share <= max(0.1, share[main]))
    return _with_neighbours(labels, main, np.flatnonzero(candidates))


def _with_neighbours(labels: np.ndarray, main: int, candidates: np.ndarray) -> np.ndarray:
    """Joins the parts near `main`: the bar of a 5, the halves of a broken stroke."""
    digit = (labels == main).astype(np.uint8)
    while True:
        distance = cv2.distanceTransform(1 - digit, cv2.DIST_L2, 3)
        near = labels[distance <= 0.25 * max(cv2.boundingRect(digit)[2:])]
        joined = np.isin(labels, np.intersect1d(near, candidates)).astype(np.uint8)
        if np.array_equal(joined, digit):
            return digit
        digit = joined
