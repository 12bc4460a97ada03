"""`sample.png`: a number made of test digits, which the command at the end of a run reads."""

import io

import cv2
import numpy as np
from PIL import Image

from trainer.results import sample


def test_the_sample_is_a_function_of_the_seed_and_shows_the_number_in_its_text() -> None:
    ring = cv2.ellipse(np.zeros((28, 28), np.uint8), (14, 14), (7, 9), 0, 0, 360, 255, 2)
    images, labels = np.stack([ring] * 64), np.arange(64) % 2 + 3
    pictures = [sample.draw(images, labels, seed) for seed in range(8)]
    assert pictures[3] == sample.draw(images, labels, 3)
    numbers = [Image.open(io.BytesIO(picture)).text["number"] for picture in pictures]
    assert len({*numbers}) == 8
    for number, picture in zip(numbers, pictures, strict=True):
        red = np.asarray(Image.open(io.BytesIO(picture)))[..., 0]
        assert 4 <= len(number) <= 6
        assert {*number} <= {"3", "4"}
        assert cv2.connectedComponents((red < 128).astype(np.uint8))[0] - 1 == len(number)
