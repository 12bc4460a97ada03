"""Ink: what stands out from the ground beside it, as strokes do."""

import cv2
import numpy as np

from trainer.picture.find import Part

WINDOW = 75  # pixels: wider than strokes; what is wider is ground
MIN_CONTRAST = 0.06  # of ink, in nats: a grey level of 188 on 200; fainter than pencil
RELATIVE = (
    0.38  # of the strongest ink nearby: weaker is a ruled line, a fold, the other side's print
)
DRAWN = 0.35  # of it: a line is no ruling
DARK = 32  # grey levels added before the logarithm: a camera's noise in the dark is no contrast

_LOG = np.log(np.arange(256, dtype=np.float32) + DARK)


def separate(gray: np.ndarray, light: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ink and the ground: float32 [h, w], nats; ink is 0 where there is none.

    `gray` is uint8 [h, w]. Ink is dark, or `light` as chalk is. The ground is a closing (an
    opening): it follows the light, shadows and the sheet's end, but no strokes. The logarithm
    makes ink in a shadow as strong as beside it.
    """
    gray = cv2.GaussianBlur(gray, (0, 0), 0.7)
    # Beyond the picture it goes on as it ends: a strip of desk is no stroke.
    padded = cv2.copyMakeBorder(cv2.medianBlur(gray, 5), *[WINDOW] * 4, cv2.BORDER_REPLICATE)
    way = cv2.MORPH_OPEN if light else cv2.MORPH_CLOSE
    ground = cv2.morphologyEx(padded, way, np.ones((WINDOW, WINDOW), np.uint8))
    level = _LOG[ground[WINDOW:-WINDOW, WINDOW:-WINDOW]]
    return np.maximum((_LOG[gray] - level) * (1 if light else -1), 0), level


def strokes(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels of strokes and those of lines drawn by hand, uint8 [h, w], 0 or 1.

    These are straight and long, and as strong as the strokes; ruled ones are in neither.
    """
    calm = float(np.median(ink))
    noise = 1.4826 * float(np.median(np.abs(ink - calm)))
    faint = (ink > max(MIN_CONTRAST, calm + 5 * noise)).astype(np.uint8)
    lines = _lines(faint)
    lines |= _lines(np.ascontiguousarray((faint & ~lines).T)).T
    faint &= ~lines
    # The peak nearby needs no more than a quarter of the resolution.
    size = [max(1, side // 4) for side in reversed(ink.shape)]
    coarse = cv2.resize(ink * faint, size, interpolation=cv2.INTER_AREA)
    reach = WINDOW // 4
    peak = cv2.blur(cv2.dilate(coarse, np.ones([2 * reach + 1] * 2, np.uint8)), [reach, reach])
    peak = cv2.resize(peak, ink.shape[::-1], interpolation=cv2.INTER_LINEAR)
    peak = np.maximum(peak, 0.7 * coarse.max())
    drawn = cv2.dilate(lines & (ink > DRAWN * peak), np.ones((9, 9), np.uint8))
    return faint & (ink > RELATIVE * peak), lines & drawn


def _lines(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels of long, thin, nearly level lines, uint8 [h, w], 0 or 1.

    They are thinner, for their length, than the straight strokes of a digit.
    """
    length, thick = 0.4 * max(mask.shape), max(mask.shape) // 80 + 1
    thin = mask & ~cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((thick + 1, 1), np.uint8))
    level = cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ones((1, 7), np.uint8))
    found = cv2.HoughLinesP(level, 1, np.pi / 720, int(length / 3), None, length, length / 8)
    lines = np.zeros_like(mask)
    for x1, y1, x2, y2 in found.reshape(-1, 4) if found is not None else ():
        if abs(y2 - y1) < 0.36 * abs(x2 - x1):  # 20 degrees
            cv2.line(lines, (x1, y1), (x2, y2), 1, thick)
    return lines & thin


def goes_on(ink: np.ndarray, ground: np.ndarray, own: np.ndarray, height: float) -> bool:
    """Says whether the ground under the pixels `own`, bool [h, w], goes on above or below them.

    Else they are no ink: what is light between dark strokes has their level as its ground. `height`
    is that of a digit.
    """
    rows, columns = np.nonzero(own)
    limit = 0.5 * np.median(ink[own])
    beyond = rows.min() - height / 2, rows.max() + height / 2
    steps = [
        np.abs(ground[own] - ground[int(np.clip(row, 0, len(own) - 1)), columns]) for row in beyond
    ]
    return float(np.mean(np.minimum(*steps) < limit)) > 0.5


def is_corner(ink: np.ndarray, ground: np.ndarray, labels: np.ndarray, part: Part) -> bool:
    """Says whether a part is the corner of a shadow: solid, and the ground beside it as dark."""
    if part.stroke < 0.22 * max(part.width, part.height):
        return False
    left, top, right, bottom = part.box
    place = slice(max(0, top - 5), bottom + 5), slice(max(0, left - 5), right + 5)
    own = labels[place] == part.label
    beside = (cv2.dilate(own.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0) & ~own
    steps = np.abs(ground[place] - np.median(ground[place][own]))[beside]
    return float(np.mean(steps > 0.7 * np.median(ink[place][own]))) > 0.1
