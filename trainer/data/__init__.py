"""A data set as four checked arrays: read, downloaded or drawn.

Imported before the flags are checked, so it imports nothing slow at module level.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trainer.data.catalog import PUBLISHED, Published
from trainer.errors import DataError, NetworkError

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory; its arrays may be read-only."""

    name: str  # one of `config.DATASETS`; never `auto`
    train_images: np.ndarray  # uint8 [n, 28, 28]
    train_labels: np.ndarray  # uint8 [n], 0 to 9
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str  # where it was read, or how it was made, for people
    sha256: dict[str, str]  # of each array's bytes in C order, in hex, by field name


def load(
    name: str,
    data_dir: str | None = None,
    *,
    notify: Callable[[str], None] = print,
    published: Mapping[str, Published] = PUBLISHED,
    synthetic_examples: tuple[int, int] = (60_000, 10_000),
) -> Dataset:
    """Returns the data set `name`, of `config.DATASETS`, from the first place that has it.

    The places: `data_dir`; `$MNIST_DATA_DIR` (`$FASHION_MNIST_DATA_DIR`); Keras's cache; this
    project's cache; the download of what is `published` into it. A fault in the first two is an
    error, for `auto` too, which is `own` if `data_dir` has such pictures, else `mnist`, or
    `synthetic` with a warning if MNIST cannot be had. `notify` gets warnings and the start of a
    download.

    Raises `DataError`, or `NetworkError` if only the network could give it, and is down.
    """
    if name == "synthetic":
        from trainer.data import synthetic

        drawn = synthetic.generate(*synthetic_examples)
        return _dataset(name, drawn, "drawn by trainer.data.synthetic")
    from trainer.data import own, sources

    if name == "own" or (name == "auto" and data_dir and own.present(data_dir)):
        return _dataset("own", *own.read(data_dir, notify))
    wanted = "mnist" if name == "auto" else name
    found = sources.find(wanted, data_dir, notify)
    if found is None:
        try:
            found = sources.download(wanted, published[wanted], notify)
        except (DataError, NetworkError) as error:
            if name != "auto":
                raise
            rule = "*" * 80
            title = "WARNING: TRAINING ON SYNTHETIC DIGITS, NOT ON MNIST"
            notify(f"{rule}\n{title}\n{error}\n{rule}")
            return load("synthetic", synthetic_examples=synthetic_examples)
    return _dataset(wanted, *found)


def _dataset(name: str, arrays: tuple[np.ndarray, ...], source: str) -> Dataset:
    fields = ("train_images", "train_labels", "test_images", "test_labels")
    sha256 = {
        field: hashlib.sha256(memoryview(array)).hexdigest()
        for field, array in zip(fields, arrays, strict=True)
    }
    return Dataset(name, *arrays, source=source, sha256=sha256)
