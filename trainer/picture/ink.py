"""Ink: what stands out from the ground beside it, as strokes do."""

import cv2
import numpy as np

WINDOW = 75  # pixels: wider than strokes; what is wider is ground
MIN_CONTRAST = 0.06  # of ink, in nats: a grey level of 188 on 200; fainter than pencil
RELATIVE = (
    0.38  # of the strongest ink nearby: weaker is a ruled line, a fold, the other side's print
)
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
    """Returns the pixels of strokes, uint8 [h, w], 0 or 1."""
    noise = 1.4826 * float(np.median(np.abs(ink - np.median(ink))))
    coarse = (
        cv2.resize(ink, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        if min(ink.shape) > 64
        else ink
    )
    near = np.ones([WINDOW // 4 * 2 + 1] * 2, np.uint8)
    peak = cv2.blur(cv2.dilate(coarse, near), [WINDOW // 4] * 2)
    peak = cv2.resize(peak, ink.shape[::-1], interpolation=cv2.INTER_LINEAR)
    floor = max(MIN_CONTRAST, float(np.median(ink)) + 5 * noise)
    return (ink > np.maximum(RELATIVE * peak, floor)).astype(np.uint8)
