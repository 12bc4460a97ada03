"""`python -m trainer.data --data_dir DIR`: downloads a data set and checks it, without training."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from trainer.data import print_to_stderr
from trainer.data.catalog import PUBLISHED, Published
from trainer.errors import DataError, NetworkError, UsageError
from trainer.process import command_line

USAGE = "python -m trainer.data --data_dir DIR [--dataset fashion_mnist]"


def fetch_and_check(
    data_dir: str, name: str, published: Mapping[str, Published] = PUBLISHED
) -> list[str]:
    """Downloads what a directory lacks of a data set, and reads all of it as training does.

    A file that is there is never replaced: it may be somebody's own digits. Returns a report: a
    line for each file and a closing line.

    Raises:
      UsageError: the directory cannot be made or written.
      DataError: what is there is defective, or the mirrors have other files.
      NetworkError: the network does not bring what is missing.
    """
    from trainer.data import sources

    about, directory = published[name], pathlib.Path(data_dir).expanduser()
    known, label = {file.name: file for file in about.files}, f"--data_dir={data_dir}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        missing = sources.locate(directory, name)[1]
        if missing:
            from trainer.data.download import fetch

            files = [known[f"{plain}.gz"] for plain in missing]
            fetch(directory, files, about.mirrors, print_to_stderr)
    except OSError as error:
        raise UsageError(
            f"{label} cannot be written ({error.strerror}); name another directory"
        ) from error
    except (DataError, NetworkError) as error:
        raise type(error)(
            f"{label} lacks {', '.join(missing)}: {error}; try again, or put the files there"
        ) from error
    arrays, _ = sources.read_directory(directory, name, label)
    report = []
    for path in sources.locate(directory, name)[0]:
        is_published = path.name in known and known[path.name].matches(path)
        report.append(f"{path}: {'as published (SHA-256)' if is_published else 'sound'}")
    train, test = len(arrays[0]), len(arrays[2])
    return [*report, f"{about.title}: {train:,} training and {test:,} test images in {directory}"]


def run(argv: Sequence[str]) -> int:
    """Runs the command line `argv` (the program's name first); returns the exit code 0."""
    values = command_line.flag_values()
    flags.DEFINE_string("data_dir", None, "directory to fill and to check", flag_values=values)
    flags.DEFINE_enum("dataset", "mnist", list(PUBLISHED), "what to fetch", flag_values=values)
    summary = "Downloads a data set and checks it."
    words = command_line.parse(argv, values, summary=summary, usage=USAGE)
    if words is None:
        return 0
    if words or not values.data_dir:
        raise UsageError(f"--data_dir takes the directory to fill and to check; usage: {USAGE}")
    print("\n".join(fetch_and_check(values.data_dir, values.dataset)))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(run))
