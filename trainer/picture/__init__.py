"""From a picture to the numbers in it."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from trainer.errors import DataError
from trainer.picture import find, ink, segment
from trainer.picture.decode import Picture, decode
from trainer.picture.normalize import resize
from trainer.picture.path import best_path

__all__ = ["Box", "Classify", "Digit", "Number", "Picture", "decode", "read_numbers"]

# uint8 [n, 28, 28], white on black -> classes int64 [n], calibrated probabilities float32 [n, 10].
Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Box = tuple[int, int, int, int]  # left, top, right, bottom: pixels of the whole upright picture

LEVELS = (500, 1600)  # pixels: longer sides of the picture at which writing is looked for
FINE = 30  # pixels of a digit's height; lower ones read better in the larger picture
FAINT = 0.45  # numbers with less contrast, relative to the best one's, are texture or show through
# The least confidence of a sure number's digits, as a geometric mean; the least share of the ink
# that sure numbers explain. Chosen once, on scenes of MNIST's validation digits: 0.96 marks some
# 2 % of the real numbers, and 90 % of what is none.
LEAST, EXPLAINED = 0.96, 0.6


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


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    """A word, read."""

    word: segment.Word
    number: Number
    ink: int  # pixels of the word that its digits explain
    score: float  # how much it tells of the picture: the height of its digits, by their likelihood


def read_numbers(picture: Picture, classify: Classify) -> list[Number]:
    """Returns the numbers in a picture in reading order: lines, then from left to right.

    The picture is looked at in two sizes, for dark ink and for light ink; what reads best is kept.
    Raises `DataError`, one line without the file's name, if there is nothing to read.
    """
    gray, words = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY), []
    for level in LEVELS[: 1 + (max(gray.shape) > LEVELS[0])]:
        level = min(level, max(LEVELS[0], *gray.shape))
        small = np.clip(resize(gray, level), 0, 255).astype(np.uint8)
        for light in (False, True):
            words += _words(small, light, picture.scale * max(gray.shape) / level)
    readings = []
    if words:
        answers = classify(np.stack([each.field for word in words for each in word.candidates]))[1]
        ends = np.cumsum([len(word.candidates) for word in words])[:-1]
        readings = list(map(_read, words, np.split(answers, ends)))
    # One kind of ink, whichever tells more. A 1 is a stroke as the edge of anything.
    by_ink = [_apart([r for r in readings if r.word.light == light]) for light in (False, True)]
    weight = {True: 0.2, False: 1.0}
    tells = [
        max((r.score * weight[set(r.number.number) == {"1"}] for r in some), default=0)
        for some in by_ink
    ]
    best = by_ink[int(tells[1] > tells[0])]
    if not best:
        problem = "no digit found: photograph the number closer, filling a third of the picture"
        raise DataError(problem)
    return _in_reading_order(_judge(best, words))


def _words(gray: np.ndarray, light: bool, scale: float) -> list[segment.Word]:
    inked, ground = ink.separate(gray, light)
    labels, parts = find.parts(*ink.strokes(inked))
    parts = [part for part in parts if not ink.is_corner(inked, ground, labels, part)]
    found = []
    for word in find.words(parts):
        heights = np.array([part.height for part in word])
        height = float(np.percentile(heights[heights >= 0.5 * heights.max()], 75))
        own = np.isin(labels, [part.label for part in word])
        if ink.goes_on(inked, ground, own, height):
            found.append(segment.segment(inked, labels, word, height, light, scale))
    return [word for word in found if word.candidates]


def _read(word: segment.Word, probabilities: np.ndarray) -> _Reading:
    """Reads a word; without digits if most of it are none."""
    cost, path = best_path(word, probabilities)
    digits, explained = [], 0
    for i in path:
        candidate, digit = word.candidates[i], int(probabilities[i].argmax())
        left, top, right, bottom = (round(word.scale * side) for side in candidate.box)
        confidence, box = float(probabilities[i, digit]), (left, top, right, bottom)
        digits.append(Digit(digit, confidence, box, probabilities[i], candidate.field))
        explained += candidate.ink * (confidence > 0.5)
    shares = [digit.confidence for digit in digits]
    if sum(share > 0.5 for share in shares) <= len(shares) / 2:
        digits = []
    boxes = np.array([digit.box for digit in digits] or [(0, 0, 0, 0)])
    box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    text = "".join(str(digit.digit) for digit in digits)
    unsure = float(np.prod(shares)) < LEAST ** len(shares)
    number = Number(text, float(np.prod(shares)), unsure, box, tuple(digits))
    height = (boxes[:, 3] - boxes[:, 1]).sum() * min(1.0, word.height / FINE)
    return _Reading(word, number, explained, height * np.exp(-cost / max(1, len(digits))))


def _apart(readings: list[_Reading]) -> list[_Reading]:
    """Of readings that overlap keeps the one that tells most, the best first."""
    kept: list[_Reading] = []
    for reading in sorted(readings, key=lambda reading: -reading.score):
        left, top, right, bottom = reading.number.box
        others = [other.number.box for other in kept]
        free = all(
            right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top for box in others
        )
        if free and reading.number.digits:
            kept.append(reading)
    return kept


def _judge(best: list[_Reading], words: list[segment.Word]) -> list[Number]:
    """Leaves out faint readings and marks those that are unsure."""
    main, least = best[0].word, FAINT * best[0].word.contrast
    size = main.height * main.scale
    numbers = [
        r.number
        for r in best
        if r.word.contrast > least
        and (set(r.number.number) != {"1"} or 0.6 < r.word.height * r.word.scale / size < 1.6)
    ]
    ink = sum(reading.ink * reading.word.scale**2 for reading in best)
    seen = [word for word in words if word.light == main.light and word.scale == main.scale]
    areas = [int(word.ink[-1]) for word in seen if word.contrast > least]
    text = "".join(number.number for number in numbers)
    doubtful = ink < EXPLAINED * main.scale**2 * sum(areas)
    lonely = len(text.replace("1", "")) < 3  # a 1 is a stroke as the edge of anything
    return [
        dataclasses.replace(
            each, unsure=each.unsure or doubtful or (lonely and set(each.number) == {"1"})
        )
        for each in numbers
    ]


def _in_reading_order(numbers: list[Number]) -> list[Number]:
    lines: list[list[Number]] = []
    for number in sorted(numbers, key=lambda number: number.box[1] + number.box[3]):
        _, top, _, bottom = lines[-1][-1].box if lines else (0, 0, 0, 0)
        if top < (number.box[1] + number.box[3]) / 2 < bottom:
            lines[-1].append(number)
        else:
            lines.append([number])
    return [number for line in lines for number in sorted(line, key=lambda number: number.box[0])]
