"""scripts/scenes.py: pictures of numbers, whose truth is known."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import runs

sys.path.append(str(runs.ROOT / "scripts"))
import scenes


@pytest.fixture(scope="module")
def rings() -> tuple[np.ndarray, np.ndarray]:
    """Digits in one piece each: images uint8 [10, 28, 28] of one ring, and the labels 0 to 9."""
    ring = cv2.ellipse(np.zeros((28, 28), np.uint8), (14, 14), (7, 9), 0, 0, 360, 255, 2)
    return np.stack([ring] * 10), np.arange(10)


def pieces(scene: scenes.Scene) -> int:
    """How many separate pieces of dark ink a picture has."""
    picture = cv2.imdecode(np.frombuffer(scene.content, np.uint8), cv2.IMREAD_COLOR)
    ink = (picture.min(2) < 0.6 * np.median(picture.min(2))).astype(np.uint8)
    *_, stats, _ = cv2.connectedComponentsWithStats(ink)
    return int((stats[1:, cv2.CC_STAT_AREA] > 20).sum())


@pytest.mark.parametrize("kind", [*scenes.KINDS, *scenes.EMPTY_KINDS])
def test_a_picture_is_a_function_of_its_kind_and_index(kind: str, rings) -> None:
    scene = scenes.draw(kind, 3, *rings)
    height, width = cv2.imdecode(np.frombuffer(scene.content, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert bool(scene.numbers) == (kind in scenes.KINDS)
    for number, (left, top, right, bottom) in zip(scene.numbers, scene.boxes, strict=True):
        assert number.isdecimal()
        assert 1 <= len(number) <= 8
        assert -1 <= left < right <= width + 1
        assert -1 <= top < bottom <= height + 1
    if width < 4000:  # the others take seconds
        assert scenes.draw(kind, 3, *rings) == scene
        other = scenes.draw(kind, 4, *rings, length=1)
        assert other.content != scene.content
        assert all(len(number) == 1 for number in other.numbers)


@pytest.mark.parametrize("kind", ["plain", "close", "touching", "page"])
def test_what_a_picture_is_said_to_show_is_in_it(kind: str, rings) -> None:
    for index in range(2 if kind == "page" else 5):
        scene = scenes.draw(kind, index, *rings)
        count = len("".join(scene.numbers))
        if kind == "touching":
            assert pieces(scene) < count
        else:
            assert pieces(scene) == count
        if kind == "page":
            assert count == 48


def test_numbers_are_those_of_the_labels(rings) -> None:
    images, labels = rings
    for length in (None, 1, 8):
        numbers = scenes.draw("plain", 0, images, np.full_like(labels, 7), length=length).numbers
        assert numbers == ["7" * len(numbers[0])]
        assert len(numbers[0]) == (length or len(numbers[0]))
