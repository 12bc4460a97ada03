"""From a picture to the numbers in it."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from trainer.picture.decode import Picture, decode
from trainer.errors import DataError
from trainer.picture.find import parts, stands_out, words
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
    gray = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY)
    texts = []
    for level in LEVELS:
        small = shrink(gray, level)
        for light in (False, True):
            texts += find_texts(small, light, max(gray.shape) / max(small.shape) * picture.scale)
        if max(gray.shape) <= level:
            break
    fields = [c[3] for text in texts for c in text.candidates]
    if not fields:
        raise DataError(NOTHING)
    _, probabilities = classify(np.stack(fields))
    found = []
    start = 0
    for text in texts:
        n = len(text.candidates)
        p = probabilities[start : start + n]
        start += n
        cost, path = best_path(
            len(text.pieces), text.candidates, p, text.height, [q.area for q in text.pieces]
        )
        if path:
            found.append(number_of(text, path, p))
    found = without_overlap(found)
    if not found:
        raise DataError(NOTHING)
    return in_reading_order([n for _, n in found])


NOTHING = "no digit found: photograph the number closer, filling a third of the picture"


@dataclasses.dataclass
class Text:
    scale: float
    height: float
    pieces: list
    candidates: list


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
    for word in words(found):
        height = float(
            np.percentile(
                [p.height for p in word if p.height >= 0.5 * max(q.height for q in word)], 75
            )
        )
        if not stands_out(inked, ground, labels, word, height):
            continue
        stroke = max(word, key=lambda p: p.area).stroke
        pieces = cut(labels, word, height, stroke)
        cs = list(candidates(inked, labels, pieces, height))
        if cs:
            texts.append(Text(scale, height, pieces, cs))
    return texts


def number_of(text, path, p):
    digits = []
    for i in path:
        box = tuple(int(round(v * text.scale)) for v in text.candidates[i][2])
        d = int(p[i].argmax())
        digits.append(Digit(d, float(p[i, d]), box, p[i], text.candidates[i][3]))
    boxes = np.array([d.box for d in digits])
    box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    conf = float(np.prod([d.confidence for d in digits]))
    score = sum(d.confidence - 0.6 for d in digits)
    return score, Number(
        "".join(str(d.digit) for d in digits), conf, conf < 0.5, box, tuple(digits)
    )


def without_overlap(found):
    kept = []
    for score, number in sorted(found, key=lambda f: -f[0]):
        if score <= 0:
            continue
        a = number.box
        if not any(
            min(a[2], b[2]) - max(a[0], b[0]) > 0 and min(a[3], b[3]) - max(a[1], b[1]) > 0
            for b in (k[1].box for k in kept)
        ):
            kept.append((score, number))
    return kept


def in_reading_order(numbers):
    numbers = sorted(numbers, key=lambda n: (n.box[1] + n.box[3]) / 2)
    lines = []
    for n in numbers:
        middle = (n.box[1] + n.box[3]) / 2
        if lines and middle < lines[-1][-1].box[3] - 0.2 * (
            lines[-1][-1].box[3] - lines[-1][-1].box[1]
        ):
            lines[-1].append(n)
        else:
            lines.append([n])
    return [n for line in lines for n in sorted(line, key=lambda n: n.box[0])]
