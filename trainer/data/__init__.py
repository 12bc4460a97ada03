"""Getting the digits: `load` finds, fetches or draws a data set and hands it over as four checked
arrays.

Here is only what callers see. It imports nothing slow, because the flags are checked against
`trainer.data.names`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trainer.data.names import DATASETS
from trainer.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.catalog import Published

__all__ = ["DATASETS", "Dataset", "load"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
      name: `mnist`, `fashion_mnist` or `synthetic`; never `auto`.
      train_images: uint8 [n, 28, 28], may be read-only like the other three.
      train_labels: uint8 [n], 0 to 9.
      test_images: uint8 [m, 28, 28].
      test_labels: uint8 [m].
      source: for people: the directory it was read from, or how it was made.
      sha256: of each array's bytes in C order, in hex, by field name.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str
    sha256: dict[str, str]


def to_stderr(text: str) -> None:
    """Prints a line, or several, on standard error."""
    print(text, file=sys.stderr, flush=True)


def load(
    name: str,
    data_dir: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    published: Mapping[str, Published] | None = None,
    notify: Callable[[str], None] = to_stderr,
) -> Dataset:
    """Returns the data set `name`, from the first place that has it. May be called in any thread.

    The places, in this order: `data_dir`; `$MNIST_DATA_DIR` (`$FASHION_MNIST_DATA_DIR`); Keras's
    and torchvision's caches; this project's own cache; the download into that cache. What a person
    named (the first two) counts alone: no other place is looked at then, and a fault there is an
    error, also for `auto`.

    Args:
      name: one of `DATASETS`. `auto` is `mnist`, or `synthetic` with a warning if MNIST cannot be
        had.
      data_dir: a directory with the four IDX files (plain or .gz) or with `<name>.npz`; `~` is
        expanded.
      environ: the environment variables.
      published: what is on the web, by name; by default `trainer.data.catalog.PUBLISHED`.
      notify: gets what a person should know on the way (warnings, the start of a download), one
        line or several at a time. While TensorFlow is being imported standard error is held back,
        so a caller that loads meanwhile collects these and prints them afterwards.

    Raises:
      DataError: the data is missing, corrupt or not what was asked for.
      UsageError: `name` is unknown, or `data_dir` goes with `synthetic`.
    """
    if name not in DATASETS:
        raise UsageError(f"--dataset={name!r} is not one of {', '.join(DATASETS)}")
    if name == "synthetic":
        if data_dir is not None:
            raise UsageError(
                "--data_dir does not go with --dataset=synthetic, which is drawn and not read;"
                " leave one of them out"
            )
        return _synthetic()
    from trainer.data import sources

    wanted = "mnist" if name == "auto" else name
    try:
        arrays, source = sources.find(
            wanted, data_dir, environ=environ, published=published, notify=notify
        )
    except sources.NowhereError as error:
        if name != "auto":
            raise DataError(f"{error}; {error.remedy}, or use --dataset=synthetic") from error
        remedy = error.remedy[0].upper() + error.remedy[1:]
        notify(_box("TRAINING ON SYNTHETIC DIGITS, NOT ON MNIST", [f"{error}.", f"{remedy}."]))
        return _synthetic()
    return _dataset(wanted, arrays, source)


def _synthetic() -> Dataset:
    from trainer.data import synthetic

    return _dataset("synthetic", synthetic.generate(), "drawn by trainer.data.synthetic")


def _dataset(name: str, arrays: tuple[np.ndarray, ...], source: str) -> Dataset:
    import hashlib

    fields = ("train_images", "train_labels", "test_images", "test_labels")
    sha256 = {
        field: hashlib.sha256(memoryview(array)).hexdigest()
        for field, array in zip(fields, arrays, strict=True)
    }
    return Dataset(name, *arrays, source=source, sha256=sha256)


def _box(title: str, paragraphs: list[str], width: int = 100) -> str:
    """Text in a frame, for a warning that has to stand out among other lines."""
    import textwrap

    lines = [f"WARNING: {title}"]
    for paragraph in paragraphs:
        lines += ["", *textwrap.wrap(paragraph, width - 4, break_on_hyphens=False)]
    rule = "+" + "-" * (width - 2) + "+"
    return "\n".join([rule, *(f"| {line:<{width - 4}} |" for line in lines), rule])
