"""Digits of one's own: pictures in folders named 0 to 9."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

import trainer.data
from trainer import plan
from trainer.config import Config
from trainer.data import synthetic
from trainer.errors import DataError

FIELDS, LABELS = synthetic.generate(120, 1)[:2]


def save(directory: pathlib.Path, places: Sequence[int]) -> None:
    """Saves synthetic digits as pictures of ink on paper, PNG and JPEG, in the folder of each."""
    for place in places:
        folder = directory / str(LABELS[place])
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(245 - FIELDS[place] // 5 * 4).resize((224, 224), Image.BICUBIC)
        picture.save(folder / f"{place:03}.{'png' if place % 2 else 'jpg'}")


def load(directory: pathlib.Path, name: str = "auto") -> trainer.data.Dataset:
    return trainer.data.load(name, str(directory), notify=lambda _: None)


def test_folders_of_pictures_are_a_data_set_of_their_own(tmp_path: pathlib.Path) -> None:
    save(tmp_path, range(120))
    (tmp_path / "3" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    found = load(tmp_path)
    assert found.name == "own"
    assert found.sha256 == load(tmp_path, "own").sha256
    assert 3 <= len(found.test_labels) <= 24  # a tenth of 120, as their digests have it
    counts = np.bincount(np.concatenate([found.train_labels, found.test_labels]))
    np.testing.assert_array_equal(counts, np.bincount(LABELS))
    # The fields of pictures are those that the pictures were made of, but for their drawing.
    every = np.concatenate([found.train_images, found.test_images]).reshape(120, -1)
    labels = np.concatenate([found.train_labels, found.test_labels])
    near = ((every[:, None].astype(float) - FIELDS.reshape(1, 120, -1)) ** 2).mean(2).argmin(1)
    assert (LABELS[near] == labels).mean() > 0.95
    # What is held out by default, the last tenth of the training digits, is of all kinds.
    held_out = plan.validation_examples(Config(), len(found.train_labels))
    assert held_out == len(found.train_labels) // 10
    assert len(np.unique(found.train_labels[-held_out:])) > 5


def test_a_test_digit_stays_one_when_pictures_are_added(tmp_path: pathlib.Path) -> None:
    save(tmp_path, range(60))
    before = {each.tobytes() for each in load(tmp_path).test_images}
    save(tmp_path, range(60, 120))
    after = load(tmp_path)
    assert before <= {each.tobytes() for each in after.test_images}
    assert len(before) < len(after.test_images)


def test_a_folder_of_test_pictures_is_not_split(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "train", range(30))
    save(tmp_path / "test", range(30, 45))
    found = load(tmp_path)
    assert (len(found.train_labels), len(found.test_labels)) == (30, 15)
    np.testing.assert_array_equal(np.bincount(found.test_labels), np.bincount(LABELS[30:45]))


def test_pictures_that_cannot_be_used_are_named_and_too_few_refused(tmp_path: pathlib.Path) -> None:
    save(tmp_path, range(40))
    (tmp_path / "7" / "text.png").write_text("seven")
    Image.new("L", (200, 200), 255).save(tmp_path / "1" / "blank.png")
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    message = str(raised.value)
    assert "2 of 42" in message
    assert "7/text.png" in message
    assert "1/blank.png" in message
    assert "\n" not in message
    for path in tmp_path.rglob("*.*g"):
        path.unlink()
    with pytest.raises(DataError, match="0 pictures to train on and 0 to test"):
        load(tmp_path)
