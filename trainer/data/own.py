"""A data set of one's own: pictures of one digit each, in folders named 0 to 9."""

import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trainer.data.catalog import sha256
from trainer.data.sources import Found
from trainer.errors import DataError

_SIDE = 400  # pixels: the longer side of a picture in which ink is looked for
_TEST = "1a"  # digests below this, one in ten, make a picture a test digit


def present(directory: str) -> bool:
    """Whether `directory`, or `train` in it, has a folder that is named as a digit."""
    root = pathlib.Path(directory)
    return any(path.is_dir() for part in (root, root / "train") for path in part.glob("[0-9]"))


def read(directory: str, notify: Callable[[str], None]) -> Found:
    """Reads `train/0` to `train/9` and `test/0` to `test/9`, or `0` to `9` and splits them.

    A picture's content then decides whether it is a test digit, so that it stays one when others
    are added, and the order: the last training digits are as good as any to validate on.
    Raises `DataError` if pictures do not show a digit, or there are too few.
    """
    root = pathlib.Path(directory)
    train, test = _pictures(root / "train"), _pictures(root / "test")
    if not train:
        every = _pictures(root)
        test = [each for each in every if each[0] < _TEST]
        train = every[len(test) :]
    if not train or not test:
        raise DataError(
            f"--data_dir={directory} has {len(train)} pictures to train on and {len(test)} to test;"
            " put more into its folders 0 to 9, or into those of `train` and of `test`"
        )
    notify(f"reading {len(train) + len(test):,} pictures in {directory}")
    with ThreadPoolExecutor() as pool:
        fields = list(pool.map(_field, [path for _, path in [*train, *test]]))
    if faults := [field for field in fields if isinstance(field, str)]:
        named = " | ".join(faults[:5]) + (" | ..." if faults[5:] else "")
        raise DataError(f"mend or remove {len(faults)} of {len(fields)} pictures: {named}")
    labels = np.array([int(path.parent.name) for _, path in [*train, *test]], np.uint8)
    images, start = np.stack(fields), len(train)
    return (images[:start], labels[:start], images[start:], labels[start:]), directory


def _pictures(root: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    return sorted((sha256(path), path) for path in root.glob("[0-9]/[!.]*") if path.is_file())


def _field(path: pathlib.Path) -> np.ndarray | str:
    """Returns the digit in a picture, uint8 [28, 28] in white on black, or why there is none."""
    import cv2  # other data sets need none of these

    from trainer.picture import decode, ink, normalize

    try:
        pixels = cv2.cvtColor(decode(str(path)).pixels, cv2.COLOR_RGB2GRAY)
    except DataError as error:
        return f"{path} {error}"
    gray = normalize.resize(pixels, _SIDE).clip(0, 255).astype(np.uint8)
    # Ink covers less than the ground: it is light if the middle grey level is a dark one.
    strength, _ = ink.separate(gray, light=np.median(gray) < np.mean([gray.min(), gray.max()]))
    if strength.max() < ink.MIN_CONTRAST:
        return f"{path} shows no digit; draw or photograph one with more contrast"
    strokes = (strength > 0.4 * strength.max()).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(strokes)
    areas = stats[:, cv2.CC_STAT_AREA] * (np.arange(count) > 0)
    digit = np.isin(labels, np.flatnonzero(areas > 0.1 * areas.max())).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(digit)
    strength *= cv2.dilate(digit, np.ones((3, 3), np.uint8))  # with the strokes' soft edges
    stroke = normalize.stroke_width(digit)
    return normalize.to_mnist(strength[top : top + height, left : left + width], stroke)
