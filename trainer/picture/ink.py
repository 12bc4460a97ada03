"""Ink: what stands out from the ground beside it, as strokes do."""

import cv2
import numpy as np

WINDOW = 75  # pixels: wider than strokes; what is wider is ground
MIN_CONTRAST = 0.06  # of ink, in nats: a grey level of 188 on 200; fainter than pencil
RELATIVE = 0.38  # of the strongest ink nearby: weaker is a ruled line, a fold, the other side's print
DARK = 32  # grey levels added before the logarithm: a camera's noise in the dark is no contrast

_LOG = np.log(np.arange(256, dtype=np.float32) + DARK)


def separate(gray: np.ndarray, light: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ink and the ground: float32 [h, w], nats; ink is 0 where there is none.

    `gray` is uint8 [h, w]. Ink is dark, or `light` as chalk is. The ground is a closing (an
    opening): it follows the light, shadows and the sheet's end, but no strokes. The logarithm
    makes ink in a shadow as strong as beside it.
    """
    gray = cv2.GaussianBlur(255 - gray if light else gray, (0, 0), 0.7)
    calm = cv2.medianBlur(gray, 5) if min(gray.shape) >= 5 else gray
    # Beyond the picture it goes on as it ends: a strip of desk is no stroke.
    padded = cv2.copyMakeBorder(calm, *[WINDOW] * 4, cv2.BORDER_REPLICATE)
    window = np.ones((WINDOW, WINDOW), np.uint8)
    ground = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, window)[WINDOW:-WINDOW, WINDOW:-WINDOW]
    if light:
        gray, ground = 255 - gray, 255 - ground
    level = _LOG[ground]
    return np.maximum((_LOG[gray] - level) * (1 if light else -1), 0), level


def strokes(ink: np.ndarray) -> np.ndarray:
    """Returns the pixels of strokes, uint8 [h, w], 0 or 1; ruled lines are left out."""
    calm = float(np.median(ink))
    noise = 1.4826 * float(np.median(np.abs(ink - calm)))
    faint = (ink > max(MIN_CONTRAST, calm + 5 * noise)).astype(np.uint8)
    faint &= ~_lines(faint)
    faint &= ~_lines(np.ascontiguousarray(faint.T)).T
    # The peak nearby needs no more than a quarter of the resolution.
    size = [max(1, side // 4) for side in reversed(ink.shape)]
    coarse = cv2.resize(ink * faint, size, interpolation=cv2.INTER_AREA)
    reach = WINDOW // 4
    peak = cv2.blur(cv2.dilate(coarse, np.ones([2 * reach + 1] * 2, np.uint8)), [reach, reach])
    peak = cv2.resize(peak, ink.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return faint & (ink > RELATIVE * peak)


def _lines(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels of long, thin, nearly level lines, uint8 [h, w], 0 or 1."""
    length, thick = 0.3 * max(mask.shape), max(mask.shape) // 300 + 2
    thin = mask & ~cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((thick + 1, 1), np.uint8))
    level = cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ones((1, 7), np.uint8))
    found = cv2.HoughLinesP(level, 1, np.pi / 720, int(length / 3), None, length, length / 8)
    lines = np.zeros_like(mask)
    for x1, y1, x2, y2 in found.reshape(-1, 4) if found is not None else ():
        if abs(y2 - y1) < 0.36 * abs(x2 - x1):  # 20 degrees
            cv2.line(lines, (x1, y1), (x2, y2), 1, thick)
    return lines & thin
