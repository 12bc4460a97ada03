"""From a picture to the numbers in it."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from trainer.errors import DataError
from trainer.picture import find, ink, segment
from trainer.picture.decode import Picture, decode
from trainer.picture.path import best_path

__all__ = ["Box", "Classify", "Digit", "Number", "Picture", "decode", "read_numbers"]

# uint8 [n, 28, 28], white on black -> classes int64 [n], calibrated probabilities float32 [n, 10].
Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Box = tuple[int, int, int, int]  # left, top, right, bottom: pixels of the whole upright picture

LEVELS = (500, 1600)  # pixels: longer sides of the picture at which writing is looked for
SURE = 0.8  # the confidence from which a digit speaks for a reading of the picture
FAINT = 0.45  # numbers with less contrast, relative to the best one's, are texture or show through


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
class _Word:
    """What may be a number."""

    light: bool  # its ink, on a darker ground
    scale: float  # pixels of the whole picture for each of its own
    height: float  # of a digit
    contrast: float
    pieces: list[find.Part]
    candidates: list[segment.Candidate]


def read_numbers(picture: Picture, classify: Classify) -> list[Number]:
    """Returns the numbers in a picture in reading order: lines, then from left to right.

    The picture is looked at in two sizes, for dark ink and for light ink; what reads best is kept.
    Raises `DataError`, one line without the file's name, if there is nothing to read.
    """
    gray, words = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY), []
    for level in LEVELS[: 1 + (max(gray.shape) > LEVELS[0])]:
        factor = min(1.0, level / max(gray.shape))
        small = (
            gray
            if factor == 1
            else cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        )
        words += [
            word for light in (False, True) for word in _words(small, light, picture.scale / factor)
        ]
    readings: list[tuple[_Word, Number]] = []
    if words:
        answers = classify(np.stack([each.field for word in words for each in word.candidates]))[1]
        ends = np.cumsum([len(word.candidates) for word in words])[:-1]
        for word, probabilities in zip(words, np.split(answers, ends), strict=True):
            path = best_path(word.pieces, word.candidates, probabilities, word.height)
            number = _number(word, path, probabilities)
            if sum(digit.confidence > 0.5 for digit in number.digits) > len(path) / 2:
                readings.append((word, number))
    numbers = _best(readings)
    if not numbers:
        raise DataError(
            "no digit found: photograph the number closer, filling a third of the picture"
        )
    return _in_reading_order(numbers)


def _words(gray: np.ndarray, light: bool, scale: float) -> list[_Word]:
    inked, ground = ink.separate(gray, light)
    labels, parts = find.parts(*ink.strokes(inked))
    found = []
    for word in find.words(parts):
        height, own = find.text_height(word), np.isin(labels, [part.label for part in word])
        if ink.goes_on(inked, ground, own, height):
            contrast, pieces = float(np.median(inked[own])), segment.cut(labels, word, height)
            if candidates := segment.candidates(inked, labels, pieces, height):
                found.append(_Word(light, scale, height, contrast, pieces, candidates))
    return found


def _number(word: _Word, path: tuple[int, ...], probabilities: np.ndarray) -> Number:
    digits = []
    for i in path:
        box = tuple(round(word.scale * side) for side in word.candidates[i].box)
        digit = int(probabilities[i].argmax())
        confidence = float(probabilities[i, digit])
        digits.append(Digit(digit, confidence, box, probabilities[i], word.candidates[i].field))
    boxes = np.array([digit.box for digit in digits]).reshape(-1, 4)
    box = (*boxes[:, :2].min(0, initial=1 << 30).tolist(), *boxes[:, 2:].max(0, initial=0).tolist())
    confidence = float(np.prod([digit.confidence for digit in digits]))
    text = "".join(str(digit.digit) for digit in digits)
    return Number(text, confidence, confidence < 0.5, box, tuple(digits))


def _score(number: Number) -> float:
    """How much a reading tells of the picture: sure digits, by their height."""
    return sum((digit.confidence - SURE) * (digit.box[3] - digit.box[1]) for digit in number.digits)


def _best(readings: list[tuple[_Word, Number]]) -> list[Number]:
    """Returns the readings that tell most: of ink of one kind, and of each place only one."""
    best, most = [], 0.0
    for light in (False, True):
        kept: list[tuple[_Word, Number]] = []
        for word, number in sorted(readings, key=lambda reading: -_score(reading[1])):
            if word.light == light and not any(_overlap(number, other) for _, other in kept):
                kept.append((word, number))
        # A 1 is a stroke as the edge of anything.
        total = sum(
            max(_score(number), 0.01) * (0.2 if set(number.number) == {"1"} else 1)
            for _, number in kept
        )
        if total > most:
            best, most = kept, total
    if not best:
        return []
    main = best[0][0]
    size = main.height * main.scale
    return [
        number
        for word, number in best
        if word.contrast > FAINT * main.contrast
        and (number.number != "1" or word is main or 0.6 < word.height * word.scale / size < 1.6)
    ]


def _overlap(one: Number, other: Number) -> bool:
    a, b = one.box, other.box
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _in_reading_order(numbers: list[Number]) -> list[Number]:
    lines: list[list[Number]] = []
    for number in sorted(numbers, key=lambda number: number.box[1] + number.box[3]):
        _, top, _, bottom = lines[-1][-1].box if lines else (0, 0, 0, 0)
        if top < (number.box[1] + number.box[3]) / 2 < bottom:
            lines[-1].append(number)
        else:
            lines.append([number])
    return [number for line in lines for number in sorted(line, key=lambda number: number.box[0])]
