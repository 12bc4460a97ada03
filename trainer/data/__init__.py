"""A data set as four checked arrays: read, downloaded or drawn.

Flags are checked against this package, so it imports nothing slow at module level.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trainer.data.catalog import DATASETS, PUBLISHED, Published
from trainer.errors import DataError, NetworkError, UsageError

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory; its arrays may be read-only.

    Attributes:
      name: `mnist`, `fashion_mnist` or `synthetic`; never `auto`.
      train_images: uint8 [n, 28, 28].
      train_labels: uint8 [n], 0 to 9.
      test_images: uint8 [m, 28, 28].
      test_labels: uint8 [m].
      source: where it was read, or how it was made, for people.
      sha256: of each array's bytes in C order, in hex, by field name.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str
    sha256: dict[str, str]


def print_to_stderr(text: str) -> None:
    """Prints a line, or several, on standard error."""
    print(text, file=sys.stderr, flush=True)


def load(
    name: str,
    data_dir: str | None = None,
    *,
    notify: Callable[[str], None] = print_to_stderr,
    environ: Mapping[str, str] = os.environ,
    published: Mapping[str, Published] = PUBLISHED,
) -> Dataset:
    """Returns the data set `name` from the first place that has it. Thread-safe.

    The places: `data_dir`; `$MNIST_DATA_DIR` (`$FASHION_MNIST_DATA_DIR`); Keras's cache; this
    project's cache; the download into it. Each of the first two counts alone: a fault there is an
    error, for `auto` too.

    Args:
      name: one of `DATASETS`. `auto` is `mnist`, or `synthetic` with a warning if MNIST cannot be
        had.
      data_dir: a directory with the four IDX files (plain or .gz) or `<name>.npz`; `~` is expanded.
      notify: gets warnings and the start of a download, one line or several at a time.
      environ: the environment variables.
      published: what is on the web, by name.

    Raises:
      DataError: the data is missing, corrupt or not what was asked for.
      NetworkError: only the network could give it, and is down.
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
        from trainer.data import synthetic

        return _dataset(name, synthetic.generate(), "drawn by trainer.data.synthetic")
    from trainer.data import sources

    wanted = "mnist" if name == "auto" else name
    found = sources.find(wanted, data_dir, environ, notify)
    if found is None:
        try:
            found = sources.download(wanted, published[wanted], environ, notify)
        except (DataError, NetworkError) as error:
            if name != "auto":
                raise
            notify(_warning_box("TRAINING ON SYNTHETIC DIGITS, NOT ON MNIST", str(error)))
            return load("synthetic")
    return _dataset(wanted, *found)


def _dataset(name: str, arrays: tuple[np.ndarray, ...], source: str) -> Dataset:
    import hashlib

    fields = ("train_images", "train_labels", "test_images", "test_labels")
    sha256 = {
        field: hashlib.sha256(memoryview(array)).hexdigest()
        for field, array in zip(fields, arrays, strict=True)
    }
    return Dataset(name, *arrays, source=source, sha256=sha256)


def _warning_box(title: str, text: str, width: int = 100) -> str:
    import textwrap

    lines = [f"WARNING: {title}", "", *textwrap.wrap(text, width - 4, break_on_hyphens=False)]
    rule = "+" + "-" * (width - 2) + "+"
    return "\n".join([rule, *(f"| {line:<{width - 4}} |" for line in lines), rule])
