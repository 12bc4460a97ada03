"""From a picture to the numbers in it."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from trainer.picture.decode import Picture, decode
from trainer.picture.find import find_digit
from trainer.picture.normalize import to_mnist

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


def read_numbers(picture: Picture, classify: Classify) -> list[Number]:
    """Returns the numbers in a picture in reading order: lines, then from left to right.

    Raises `DataError`, one line without the file's name, if there is nothing to read.
    """
    field = to_mnist(find_digit(cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY)))
    classes, probabilities = classify(field[None])
    digit, box = int(classes[0]), (0, 0, picture.width, picture.height)
    confidence = float(probabilities[0, digit])
    found = Digit(digit, confidence, box, probabilities[0], field)
    return [Number(str(digit), confidence, confidence < 0.5, box, (found,))]


def read_digit(source):  # noqa: D103  goes when predict.py and draw.py read numbers
    return to_mnist(find_digit(cv2.cvtColor(decode(source).pixels, cv2.COLOR_RGB2GRAY)))
