"""A data set of one's own: pictures of one digit each, in folders named 0 to 9."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trainer.data.sources import Found
from trainer.errors import DataError

_TEST_SHARE = 10  # one in so many pictures is a test digit where there is no folder `test`
_Picture = tuple[pathlib.Path, int, int]  # path, digit, place in the folder by name


def present(directory: str) -> bool:
    """Whether `directory`, or `train` in it, has a folder that is named as a digit."""
    parts = directory, os.path.join(directory, "train")
    return any(os.path.isdir(os.path.join(part, str(n))) for part in parts for n in range(10))


def read(directory: str, notify: Callable[[str], None]) -> Found:
    """Reads `train/0` to `train/9` and `test/0` to `test/9`; or `0` to `9`, of which it tests some.

    In each of these folders they are the first picture and every tenth after it, by name. The order
    of the training digits has no meaning, so that the last of them can be held out to validate on.

    Raises:
      DataError: pictures cannot be read or do not show a digit, or there are too few.
    """
    root = pathlib.Path(directory)
    if (root / "train").is_dir():
        train, test = _pictures(root / "train"), _pictures(root / "test")
    else:
        every = _pictures(root)
        test = [each for each in every if each[2] % _TEST_SHARE == 0]
        train = [each for each in every if each[2] % _TEST_SHARE]
    if not train or not test:
        raise DataError(
            f"--data_dir={directory} has {len(train)} pictures to train on and {len(test)} to test;"
            " put more into its folders 0 to 9, or into those of `train` and of `test`"
        )
    notify(f"reading {len(train) + len(test):,} pictures in {directory}")
    train = [train[place] for place in np.random.default_rng(0).permutation(len(train))]
    images, labels = _read([*train, *test], root)
    start = len(train)
    return (images[:start], labels[:start], images[start:], labels[start:]), directory


def _pictures(root: pathlib.Path) -> list[_Picture]:
    found = []
    for digit in range(10):
        paths = sorted((root / str(digit)).glob("[!.]*"))
        found += [(path, digit, place) for place, path in enumerate(paths)]
    return found


def _read(pictures: list[_Picture], root: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    from trainer import picture  # imports OpenCV; other data sets need none

    problems = []

    def field(path: pathlib.Path) -> np.ndarray | None:
        try:
            return picture.read_digit(str(path))
        except DataError as error:
            problems.append(f"{path.relative_to(root)} {error}")

    with ThreadPoolExecutor() as pool:
        fields = list(pool.map(field, [path for path, *_ in pictures]))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(pictures)} pictures in {root} cannot be used, mend or remove"
            f" them: {' | '.join(sorted(problems)[:5])}{' | ...' if problems[5:] else ''}"
        )
    return np.stack(fields), np.array([digit for _, digit, _ in pictures], np.uint8)
