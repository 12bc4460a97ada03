"""`python -m trainer.data --data_dir DIR`: downloads a data set and checks it, without training."""

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from trainer.data import Dataset, load, sources
from trainer.data.catalog import PUBLISHED, Published
from trainer.data.download import fetch
from trainer.errors import DataError, NetworkError, UsageError
from trainer.process import command_line

USAGE = "python -m trainer.data --data_dir DIR [--dataset fashion_mnist]"


def complete(data_dir: str, name: str, published: Mapping[str, Published] = PUBLISHED) -> Dataset:
    """Downloads what a directory lacks of a data set, and reads all of it as training does.

    A file that is there is never replaced: it may be somebody's own digits.
    """
    directory = pathlib.Path(os.path.expanduser(data_dir))
    if missing := sources.locate(directory, name)[1]:
        try:
            fetch(directory, missing, published[name], print)
        except OSError as error:
            raise UsageError(f"cannot write --data_dir={data_dir}: {error.strerror}") from error
        except (DataError, NetworkError) as error:
            lacking = f"--data_dir={data_dir} lacks {', '.join(missing)}"
            raise type(error)(f"{lacking}: {error}; try again, or put them there") from error
    return load(name, data_dir)


def run(argv: Sequence[str]) -> int:
    """Runs the command line `argv`, the program's name first; returns the exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("data_dir", None, "directory to fill and to check", flag_values=values)
    flags.DEFINE_enum("dataset", "mnist", list(PUBLISHED), "what to fetch", flag_values=values)
    words = command_line.parse(argv, values, usage=USAGE)
    if words or not values.data_dir:
        raise UsageError("name the directory to fill and to check: --data_dir DIR")
    dataset = complete(values.data_dir, values.dataset)
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    print(f"{values.data_dir}: {dataset.name}, {train:,} training and {test:,} test images")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(run))
