"""Brings the ink of a digit to MNIST's size, place, levels and stroke width."""

import cv2
import numpy as np

FIELD, DIGIT = 28, 20  # pixels: MNIST's field and the longer side of the digit in it
# A tenth of MNIST's digits have thinner strokes than the first and half than the second, in pixels.
MIN_STROKE, STROKE = 1.9, 2.4
FINE = 8  # strokes are thickened at so many times MNIST's size


def to_mnist(ink: np.ndarray, stroke: float) -> np.ndarray:
    """Returns a digit as MNIST holds it: uint8 [28, 28], white on black.

    `ink` is float32 [h, w], cropped to the digit, 0 beside its strokes, in any unit; `stroke` is
    their width in pixels. The longer side becomes 20 pixels, antialiased, and the centre of mass
    pixel (14, 14) as near as whole pixels allow (LeCun, Cortes, Burges, "The MNIST database of
    handwritten digits", http://yann.lecun.com/exdb/mnist/). Thinner strokes than MNIST's are
    thickened.
    """
    if max(ink.shape) > DIGIT:
        ink = _thicken(ink, stroke)
    if not DIGIT - 1 <= max(ink.shape) <= DIGIT:  # so near, resampling blurs more than it mends
        ink = resize(ink, DIGIT)
    ink = np.clip(ink / _full_ink(ink), 0, 1)
    centre = (np.indices(ink.shape) * ink).sum((1, 2)) / ink.sum()
    room = FIELD - np.array(ink.shape)
    offset = np.clip(np.rint(FIELD / 2 - centre), 0, room).astype(int)
    return np.pad(np.rint(255 * ink).astype(np.uint8), np.transpose([offset, room - offset]))


def resize(array: np.ndarray, longer: int) -> np.ndarray:
    """Returns `array` as float32 with its longer side `longer` pixels, antialiased."""
    factor = longer / max(array.shape)
    size = [max(1, round(side * factor)) for side in reversed(array.shape)]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(array, size, interpolation=way).astype(np.float32)


def _full_ink(ink: np.ndarray) -> float:
    """The level of full ink: the mean of the strongest tenth of the strokes."""
    strokes = np.sort(ink[ink > 0.3 * ink.max()])
    return float(strokes[-max(1, len(strokes) // 10) :].mean())


def _thicken(ink: np.ndarray, stroke: float) -> np.ndarray:
    """Widens thin strokes: a hairline vanishes in 20 pixels."""
    width = stroke * DIGIT / max(ink.shape)
    if width >= MIN_STROKE:
        return ink
    radius = round((STROKE - width) / 2 * FINE)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, [2 * radius + 1] * 2)
    return cv2.dilate(np.pad(resize(ink, FINE * DIGIT), radius), kernel)


def stroke_width(strokes: np.ndarray) -> float:
    """Returns the mean width of strokes, uint8 [h, w], 0 or 1, in pixels.

    The distance to the edge has a mean of a quarter of the width, and half a pixel more between
    centres of pixels.
    """
    distance = cv2.distanceTransform(np.pad(strokes, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return max(1.0, 4 * (float(distance[distance > 0].mean()) - 0.5))
