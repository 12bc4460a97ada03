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
SURE = 0.8  # the confidence from which a digit speaks for a reading of the picture
LEAST = 0.7  # the least confidence of the digits of a number that is sure
EXPLAINED = 0.6  # the least share of the ink that the numbers explain if they are sure
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

    def ink(self, first: int = 0, end: int | None = None) -> float:
        """Pixels of ink, of the whole picture, in some pieces or all."""
        return self.scale**2 * sum(piece.area for piece in self.pieces[first:end])


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    """A word, read."""

    word: _Word
    number: Number
    ink: float  # pixels that are explained by digits
    score: float  # how much it tells of the picture: sure digits, by their height


def read_numbers(picture: Picture, classify: Classify) -> list[Number]:
    """Returns the numbers in a picture in reading order: lines, then from left to right.

    The picture is looked at in two sizes, for dark ink and for light ink; what reads best is kept.
    Raises `DataError`, one line without the file's name, if there is nothing to read.
    """
    gray, words = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY), []
    for level in LEVELS[: 1 + (max(gray.shape) > LEVELS[0])]:
        level = min(level, max(LEVELS[0], *gray.shape))
        small = np.clip(resize(gray, level), 0, 255).astype(np.uint8)
        scale = picture.scale * max(gray.shape) / level
        words += [word for light in (False, True) for word in _words(small, light, scale)]
    readings = []
    if words:
        answers = classify(np.stack([each.field for word in words for each in word.candidates]))[1]
        ends = np.cumsum([len(word.candidates) for word in words])[:-1]
        pairs = zip(words, np.split(answers, ends), strict=True)
        readings = [_read(word, probabilities) for word, probabilities in pairs]
    numbers = _best([reading for reading in readings if reading.number.digits], words)
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


def _read(word: _Word, probabilities: np.ndarray) -> _Reading:
    """Reads a word; without digits if most of it are none."""
    digits, ink, score = [], 0.0, 0.0
    for i in best_path(word.pieces, word.candidates, probabilities, word.height):
        candidate, digit = word.candidates[i], int(probabilities[i].argmax())
        box = tuple(round(word.scale * side) for side in candidate.box)
        confidence = float(probabilities[i, digit])
        digits.append(Digit(digit, confidence, box, probabilities[i], candidate.field))
        ink += (confidence > 0.5) * word.ink(candidate.first, candidate.end)
        score += (confidence - SURE) * (box[3] - box[1])
    if sum(digit.confidence > 0.5 for digit in digits) <= len(digits) / 2:
        digits = []
    boxes = np.array([digit.box for digit in digits] or [(0, 0, 0, 0)])
    box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    text = "".join(str(digit.digit) for digit in digits)
    least = min((digit.confidence for digit in digits), default=0)
    confidence = float(np.prod([digit.confidence for digit in digits]))
    unsure = least < LEAST or set(text) == {"1"}
    return _Reading(word, Number(text, confidence, unsure, box, tuple(digits)), ink, score)


def _best(readings: list[_Reading], words: list[_Word]) -> list[Number]:
    """Returns the readings that tell most: of ink of one kind, and of each place only one."""
    best, most = [], 0.0
    for light in (False, True):
        kept: list[_Reading] = []
        for reading in sorted(readings, key=lambda reading: -reading.score):
            here = any(_overlap(reading.number, other.number) for other in kept)
            if reading.word.light == light and not here:
                kept.append(reading)
        # A 1 is a stroke as the edge of anything.
        weights = [0.2 if set(reading.number.number) == {"1"} else 1 for reading in kept]
        total = sum(
            weight * max(reading.score, 0.01) for weight, reading in zip(weights, kept, strict=True)
        )
        if total > most:
            best, most = kept, total
    if not best:
        return []
    main = best[0].word
    size = main.height * main.scale
    kept = [
        r
        for r in best
        if r.word.contrast > FAINT * main.contrast
        and (
            r.number.number != "1"
            or r is best[0]
            or 0.6 < r.word.height * r.word.scale / size < 1.6
        )
    ]
    total = sum(
        word.ink()
        for word in words
        if (word.light, word.scale) == (main.light, main.scale)
        and word.contrast > FAINT * main.contrast
    )
    share = sum(reading.ink for reading in kept) / total
    DEBUG.append(share)
    return [
        dataclasses.replace(reading.number, unsure=reading.number.unsure or share < EXPLAINED)
        for reading in kept
    ]


DEBUG = []


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
