"""From a picture to the digit in it, as MNIST holds digits."""

from typing import BinaryIO

import numpy as np

from trainer.picture.decode import decode
from trainer.picture.find import find_digit
from trainer.picture.normalize import to_mnist


def read_digit(source: str | BinaryIO) -> np.ndarray:
    """Returns the digit in a PNG or JPEG image as uint8 [28, 28], white on black.

    Raises `DataError`, one line without the file's name, if it cannot be read or shows no digit.
    """
    return to_mnist(find_digit(decode(source)))
