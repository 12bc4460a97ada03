"""A picture in, a digit as MNIST has them out: the step between the world and the model.

Apart from `predict.py` because whatever else shows pictures to a model (a drawing page) must
prepare them alike, and from TensorFlow because looking at one needs only NumPy and Pillow.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image

from trainer.errors import DataError

MAX_PIXELS = 64_000_000  # a phone's largest photo is about 50 million; decoded, this is 256 MB
FIELD, DIGIT = 28, 20  # MNIST's field and the longer side of the digit in it, in pixels
WORK = 512  # longer side, in pixels, of the picture in which the digit is looked for
MIN_CONTRAST = 12.0  # of 255: fainter than pencil, stronger than paper grain
# By `_stroke_width`, a tenth of MNIST's digits are thinner than 1.9 pixels and half than 2.6.
MIN_STROKE, STROKE = 1.9, 2.4  # below the first, strokes are thickened to the second

# Exif's values of the tag Orientation (0x0112) and what sets such a picture upright (Exif 2.3,
# section 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_digit(path: str) -> np.ndarray:
    """Returns the digit in the PNG or JPEG file at `path` as MNIST would hold it: uint8 [28, 28],
    white on black.

    Raises `DataError`, its message one line without the file's name, if it cannot be read or shows
    no digit.
    """
    try:
        # Before it is opened: a named pipe would block, a device never end.
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise DataError("is a directory; name the image files in it")
        if not stat.S_ISREG(mode):
            raise DataError("is not a regular file; save the image to one")
        with open(path, "rb") as file:
            gray = read_gray(file)
    except FileNotFoundError as error:
        raise DataError("there is no such file; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or "not a path"
        raise DataError(
            f"cannot be opened ({reason}); check the path and its permissions"
        ) from error
    return find_digit(gray)


def read_gray(file: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the PNG or JPEG image in `file`, upright and on white where it is transparent.

    The result is [height, width], 0 black to 255 white; uint8, or float32 where the file has 16
    bits a pixel. Raises
    `DataError` for anything that is not a whole PNG or JPEG image of at most `max_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow's remarks on odd files: what matters becomes an error below
        try:
            image = Image.open(file, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            raise DataError(f"has more than {max_pixels:,} pixels; scale it down") from error
        except Exception as error:  # damaged headers surface as almost any type
            empty = file.seek(0, os.SEEK_END) == 0
            reason = "is empty" if empty else "is not a PNG or JPEG image"
            raise DataError(f"{reason}; save it as one of these") from error
        if image.width * image.height > max_pixels:  # known from the header: nothing is decoded yet
            raise DataError(
                f"has more than {max_pixels:,} pixels ({image.width} x {image.height});"
                " scale it down"
            )
        try:
            image.draft(
                "L", (2 * WORK, 2 * WORK)
            )  # lets a JPEG decoder skip detail that is not looked at
            image.load()
            return _upright_gray(image)
        except Exception as error:  # so do damaged bodies
            raise DataError(
                f"is damaged or cut short ({type(error).__name__}); save it anew"
            ) from error


def _upright_gray(image: Image.Image) -> np.ndarray:
    turn = None
    with contextlib.suppress(Exception):  # a damaged Exif block is no reason to refuse the picture
        turn = _UPRIGHT.get(image.getexif().get(0x0112))
    if image.mode.startswith(("I", "F")):
        gray = Image.fromarray(np.asarray(image, np.float32) / 257)
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        gray = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("L")
    else:
        gray = image.convert("L")
    return np.asarray(gray.transpose(turn) if turn is not None else gray)


def find_digit(gray: np.ndarray) -> np.ndarray:
    """Returns the digit in a picture as MNIST would hold it: uint8 [28, 28], white on black.

    Args:
      gray: [height, width] of any size, 0 to 255, one digit on a plain ground: dark
        on light or light on dark, evenly lit or not.

    The digit is scaled so that its longer side is 20 pixels, antialiased, and placed with its
    centre of mass in the middle of the field (LeCun, Cortes, Burges, "The MNIST database
    of handwritten digits", http://yann.lecun.com/exdb/mnist/). Raises `DataError` if there is no
    digit to be seen.
    """
    small = _resized(gray.astype(np.float32, copy=False) if gray.size <= WORK**2 else gray, WORK)
    ink = _ink(small)
    strokes = _strokes(ink)
    top, bottom, left, right = _box(strokes)
    longer, zoom = max(bottom - top, right - left), max(gray.shape) / max(small.shape)
    if zoom > 1 and longer < WORK / 4:  # small on a large sheet: look again, closer
        margin = longer / 2
        rows = slice(max(0, int((top - margin) * zoom)), int((bottom + margin) * zoom) + 1)
        columns = slice(max(0, int((left - margin) * zoom)), int((right + margin) * zoom) + 1)
        return find_digit(gray[rows, columns])
    strokes = _grown(strokes, max(1, longer // 64))[top:bottom, left:right]
    digit = ink[top:bottom, left:right]
    if not strokes.all():
        digit = np.clip(digit - np.median(digit[~strokes]), 0, None)
    return _placed(_scaled(_thickened(np.where(strokes, digit, 0))))


def _resized(array: np.ndarray, longer: int, *, enlarge: bool = False) -> np.ndarray:
    """`array` as float32, its longer side at most `longer` or, with `enlarge`, exactly that."""
    factor = longer / max(array.shape)
    if factor == 1 or (factor > 1 and not enlarge):
        return array.astype(np.float32)
    size = [max(1, round(side * factor)) for side in reversed(array.shape)]
    resample = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(array)).resize(size, resample), np.float32
    )


def _ink(gray: np.ndarray) -> np.ndarray:
    """How far each pixel stands out from the ground, in grey levels; uneven light is removed."""
    rows, columns = np.linspace(-1, 1, gray.shape[0])[:, None], np.linspace(-1, 1, gray.shape[1])
    above, along = np.nonzero(np.maximum(abs(rows), abs(columns)) > 0.9)
    ground, seen = (
        np.stack([np.ones(len(above)), rows[above, 0], columns[along]]),
        gray[above, along],
    )
    used = np.ones(len(seen), bool)
    for _ in range(3):  # the digit may touch the edge: drop what lies far off and fit again
        plane, levels = ground[:, used], seen[used]
        # Three unknowns that hardly depend on each other: the normal equations will do.
        light = np.linalg.lstsq(plane @ plane.T, plane @ levels, rcond=None)[0]
        off = abs(seen - light @ ground)
        used = off <= 2.5 * np.median(off) + 1
    level = light[0] + light[1] * rows + light[2] * columns
    standing_out = (gray - level).astype(np.float32)
    # Strokes are few and far from the ground, so the third moment has their sign.
    cubes = standing_out.astype(np.float64)
    cubes *= cubes * cubes
    standing_out *= np.sign(np.sum(cubes))
    ink = standing_out - _ground(standing_out)
    return ink - np.percentile(ink, 25)


def _ground(ink: np.ndarray) -> np.ndarray:
    """What is wider than a stroke: an opening by half of the picture's side, on a coarse copy."""
    coarse = _resized(ink, 48)
    window = max(coarse.shape) // 4
    for extreme in (np.min, np.max):
        for axis in (0, 1):
            padded = np.pad(
                coarse, [(window, window) if a == axis else (0, 0) for a in (0, 1)], "edge"
            )
            coarse = extreme(
                np.lib.stride_tricks.sliding_window_view(padded, 2 * window + 1, axis), -1
            )
    size = ink.shape[::-1]
    return np.asarray(
        Image.fromarray(coarse.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    )


def _strokes(ink: np.ndarray) -> np.ndarray:
    """The pixels of the digit, bool [height, width]; specks and what lies far from it left out."""
    soft = _blurred(ink, max(ink.shape) // 100)
    # Two estimates of the ground's noise: uneven light misleads the first, ink that fills the
    # picture the second.
    low, quarter, middle = np.percentile(soft, [5, 25, 50])
    noise = sorted([(quarter - low) / 0.97, (middle - quarter) / 0.67])
    peak = soft.max()
    if peak < max(MIN_CONTRAST, 6 * noise[0]):
        raise DataError("shows no digit; draw or photograph one with more contrast")
    labels, count = _components(soft > np.clip(4 * noise[1], 0.1 * peak, 0.3 * peak))
    everywhere = labels.ravel()
    mass = np.bincount(everywhere, np.clip(soft, 0, None).ravel(), count + 1)
    strong = np.bincount(everywhere, (soft > 0.4 * peak).ravel(), count + 1) > 0
    mass[0] = 0
    mass *= strong
    # A shadow or the sheet's end touches the edge; a digit does only where nothing else is there.
    at_edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    weight = mass.copy()
    weight[at_edge] /= 4
    main = np.argmax(weight)
    digit = labels == main
    parts = set(np.flatnonzero(mass >= 0.02 * mass[main])) - {main}
    boxes = {part: _box(labels == part) for part in parts}
    # The bar of a 5, the halves of a broken stroke: what lies close belongs to the digit.
    while boxes:
        box = _box(digit)
        reach = 0.25 * max(box[1] - box[0], box[3] - box[2])
        near = [part for part, other in boxes.items() if _gap(box, other) <= reach]
        if not near:
            break
        digit |= np.isin(labels, near)
        for part in near:
            del boxes[part]
    return digit


def _gap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> int:
    """Pixels between two boxes on the axis that parts them more; negative where they overlap."""
    return max(max(one[i], other[i]) - min(one[i + 1], other[i + 1]) for i in (0, 2))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is set; bottom and right are one past it."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels the 8-connected parts of `mask` 1 to n, 0 elsewhere; returns int [height, width], n.

    Works on horizontal runs: those that touch one of the next row share the least label, until
    nothing changes.
    """
    # Two unset pixels after each row keep runs of different rows apart in the flat order.
    stride = mask.shape[1] + 3
    change = np.diff(np.pad(mask, ((0, 0), (1, 2))).astype(np.int8).ravel(), prepend=0)
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    if not len(starts):
        return np.zeros(mask.shape, int), 0
    first = np.searchsorted(ends, starts + stride, "left")
    last = np.searchsorted(starts, ends + stride, "right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(starts)), counts)
    lower = (
        np.arange(counts.sum())
        - np.repeat(np.cumsum(counts) - counts, counts)
        + np.repeat(first, counts)
    )
    label = np.arange(len(starts))
    while True:
        before = label.copy()
        least = np.minimum(label[upper], label[lower])
        np.minimum.at(label, label[upper], least)
        np.minimum.at(label, label[lower], least)
        np.minimum.at(label, upper, least)
        np.minimum.at(label, lower, least)
        label = label[label]
        if np.array_equal(label, before):
            break
    _, names = np.unique(label, return_inverse=True)
    labels = np.zeros(mask.shape, int)
    labels[mask] = np.repeat(names + 1, ends - starts)
    return labels, int(names.max()) + 1


def _blurred(array: np.ndarray, radius: int) -> np.ndarray:
    """Means over squares of 2 `radius` + 1 pixels."""
    for axis in (0, 1):
        padded = np.pad(array, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], "edge")
        array = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis).mean(-1)
    return array


def _grown(array: np.ndarray, radius: int) -> np.ndarray:
    """Each pixel the largest within about `radius`: crosses and squares in turn, an octagon."""
    for step in range(radius):
        padded = np.pad(array, 1)
        cross = [
            padded[1:-1, 1:-1],
            padded[:-2, 1:-1],
            padded[2:, 1:-1],
            padded[1:-1, :-2],
            padded[1:-1, 2:],
        ]
        corners = [padded[:-2, :-2], padded[:-2, 2:], padded[2:, :-2], padded[2:, 2:]]
        array = np.maximum.reduce(cross + corners * (step % 2))
    return array


def _stroke_width(digit: np.ndarray) -> float:
    """Mean width of the strokes in pixels: twice the area by the length of the outline (Crofton: pi
    / 4 of its steps).
    """
    solid = np.pad(digit > 0.5 * _level(digit), 1)
    steps = sum(np.count_nonzero(np.diff(solid, axis=axis)) for axis in (0, 1))
    return 2 * np.count_nonzero(solid) / (np.pi / 4 * steps)


def _level(digit: np.ndarray) -> float:
    """The grey level of full ink: the mean of the strongest tenth of the stroke."""
    ink = np.sort(digit[digit > 0.3 * digit.max()])
    return float(ink[-max(1, len(ink) // 10) :].mean())


def _thickened(digit: np.ndarray) -> np.ndarray:
    """`digit` with a fine pen's strokes as wide as MNIST's thin ones: a hairline would vanish in 20
    pixels.
    """
    digit = _resized(digit, 8 * DIGIT)
    width = _stroke_width(digit) * DIGIT / max(digit.shape)
    if width >= MIN_STROKE or max(digit.shape) <= DIGIT:
        return digit
    digit = _resized(digit, 8 * DIGIT, enlarge=True)
    radius = round((STROKE - width) / 2 * 8)
    return _grown(np.pad(digit, radius), radius)


def _scaled(digit: np.ndarray) -> np.ndarray:
    """`digit` with its longer side 20 pixels and MNIST's levels, float32 [h, w] in 0 to 255."""
    if (
        not DIGIT - 1 <= max(digit.shape) <= DIGIT
    ):  # so near, resampling would cost more than it brings
        digit = _resized(digit, DIGIT, enlarge=True)
    return np.clip(digit / _level(digit), 0, 1) * 255


def _placed(digit: np.ndarray) -> np.ndarray:
    """`digit` in the field, its centre of mass as near the middle as whole pixels allow."""
    field = np.zeros((FIELD, FIELD), np.uint8)
    weights = digit / digit.sum()
    corner = []
    for axis, side in enumerate(digit.shape):
        centre = np.sum(
            weights.sum(1 - axis) * np.arange(side)
        )  # MNIST's is at pixel 14 of 0 to 27, not at 13.5
        corner.append(int(np.clip(round(FIELD / 2 - centre), 0, FIELD - side)))
    field[corner[0] : corner[0] + digit.shape[0], corner[1] : corner[1] + digit.shape[1]] = np.rint(
        digit
    )
    return field
