"""From a picture to the numbers in it."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from trainer.picture.decode import Picture, decode
from trainer.errors import DataError
from trainer.picture.find import parts, stands_out, text_height, words
from trainer.picture.ink import separate, strokes
from trainer.picture.path import best_path
from trainer.picture.segment import candidates, cut

__all__ = ["Box", "Classify", "Digit", "Number", "Picture", "decode", "read_numbers"]

# uint8 [n, 28, 28], white on black -> classes int64 [n], calibrated probabilities float32 [n, 10].
Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Box = tuple[int, int, int, int]  # left, top, right, bottom: pixels of the whole upright picture


@dataclasses.dataclass(frozen=True, eq=False)
class Digit:
    """A digit of a number."""

    digit: int
    confidence: float  # its probability
    box: Box
    probabilities: np.ndarray  # float32 [10], of 0 to 9
    field: np.ndarray  # uint8 [28, 28], white on black: what the model saw


@dataclasses.dataclass(frozen=True, eq=False)
class Number:
    """A number as it is written, from left to right."""

    number: str  # leading zeros kept
    confidence: float  # the probability that all its digits are right
    unsure: bool  # it may be misread, or no number
    box: Box
    digits: tuple[Digit, ...]


LEVELS = (500, 1600)  # pixels: longer sides of the picture at which writing is looked for


def read_numbers(picture: Picture, classify: Classify) -> list[Number]:
    """Returns the numbers in a picture in reading order: lines, then from left to right.

    Raises `DataError`, one line without the file's name, if there is nothing to read.
    """
    texts = _texts(picture)
    if not texts:
        raise DataError(NOTHING)
    answers = classify(np.stack([c.field for text in texts for c in text.candidates]))[1]
    ends = np.cumsum([len(text.candidates) for text in texts])[:-1]
    read = [_read(text, own) for text, own in zip(texts, np.split(answers, ends), strict=True)]
    found = _choose([reading for reading in read if reading is not None])
    if not found:
        raise DataError(NOTHING)
    return in_reading_order(found)


POWER = 1
NOTHING = "no digit found: photograph the number closer, filling a third of the picture"
LEVELS = (500, 1600)  # pixels: longer sides of the picture at which writing is looked for


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    light: bool
    scale: float
    height: float
    contrast: float
    pieces: list
    candidates: list


def _texts(picture):
    gray = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY)
    texts = []
    for level in LEVELS:
        small = shrink(gray, level)
        for light in (False, True):
            texts += find_texts(small, light, max(gray.shape) / max(small.shape) * picture.scale)
        if max(gray.shape) <= level:
            break
    return texts


def shrink(gray, longer):
    factor = longer / max(gray.shape)
    if factor >= 1:
        return gray
    size = [max(1, round(side * factor)) for side in reversed(gray.shape)]
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def find_texts(gray, light, scale):
    inked, ground = separate(gray, light)
    labels, found = parts(strokes(inked))
    texts = []
    done = set()
    for broken in (0, 0.15):
        for word in words(found, broken):
            key = frozenset(p.label for p in word)
            if key in done:
                continue
            done.add(key)
            height = text_height(word)
            if not stands_out(inked, ground, labels, word, height):
                continue
            own = labels.copy() if broken else labels
            own = labels.copy()
            pieces = cut(own, word, height)
            cs = candidates(inked, own, pieces, height)
            contrast = float(np.median(inked[np.isin(labels, [p.label for p in word])]))
            if cs:
                texts.append(Text(light, scale, height, contrast, pieces, cs))
    return texts


def _read(text, p):
    _, path = best_path(text.pieces, text.candidates, p, text.height)
    if not path:
        return None
    digits = []
    for i in path:
        box = tuple(int(round(v * text.scale)) for v in text.candidates[i].box)
        d = int(p[i].argmax())
        digits.append(Digit(d, float(p[i, d]), box, p[i], text.candidates[i].field))
    boxes = np.array([d.box for d in digits])
    box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    conf = float(np.prod([d.confidence for d in digits]))
    areas = [sum(q.area for q in text.pieces[text.candidates[i].first : text.candidates[i].end]) for i in path]
    score = text.scale ** POWER * sum((d.confidence - 0.6) * a ** (POWER / 2) for d, a in zip(digits, areas))
    if score <= 0:
        return None
    return score, text, Number("".join(str(d.digit) for d in digits), conf, conf < 0.5, box, tuple(digits))


def _choose(read):
    best, result = 0, []
    for light in (False, True):
        kept = []
        for reading in sorted(read, key=lambda r: -r[0]):
            if reading[1].light == light and not any(_overlap(reading[2].box, k[2].box) for k in kept):
                kept.append(reading)
        total = sum(k[0] for k in kept)
        if total > best:
            best, result = total, kept
    if not result:
        return []
    main = result[0]
    result = [r for r in result if r[1].contrast > 0.45 * main[1].contrast]
    size = main[1].height * main[1].scale
    result = [r for r in result if r[2].number != "1" or r is main or 0.6 * size < r[2].box[3] - r[2].box[1] < 1.6 * size]
    return [r[2] for r in result]


def _overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def in_reading_order(numbers):
    numbers = sorted(numbers, key=lambda n: (n.box[1] + n.box[3]) / 2)
    lines = []
    for n in numbers:
        middle = (n.box[1] + n.box[3]) / 2
        if lines and middle < lines[-1][-1].box[3] - 0.2 * (lines[-1][-1].box[3] - lines[-1][-1].box[1]):
            lines[-1].append(n)
        else:
            lines.append([n])
    return [n for line in lines for n in sorted(line, key=lambda n: n.box[0])]
