"""`python -m trainer.data --data_dir DIR`: fetches a data set and checks it, without training.

For a container build or an init step: afterwards `trainer.task --data_dir DIR` needs no network.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from trainer.data import to_stderr
from trainer.data.catalog import PUBLISHED, Published
from trainer.errors import DataError, TrainerError, UsageError
from trainer.process.command_line import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0: all is there and sound. 2: a flag is wrong, or the directory cannot be made or written.
    3: the data cannot be had or is defective. 130: Ctrl-C; what has come so far is kept.
    """
    parser = _Parser(
        prog="python -m trainer.data",
        description="Downloads what a directory lacks of a data set, and checks all of it.",
        allow_abbrev=False,
    )
    parser.add_argument("--data_dir", required=True, help="directory to fill and to check")
    parser.add_argument(
        "--dataset", default="mnist", choices=tuple(PUBLISHED), help="default: %(default)s"
    )
    try:
        flags = parser.parse_args(argv)
        print("\n".join(fetch_and_check(flags.data_dir, flags.dataset)))
    except TrainerError as error:
        to_stderr(f"error: {printable(str(error))}")
        return error.exit_code
    except KeyboardInterrupt:
        to_stderr("stopped; the same command continues where this one was")
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Answers a wrong flag as every other error is answered, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; python -m trainer.data --help shows the flags")


def fetch_and_check(
    data_dir: str, name: str, published: Mapping[str, Published] = PUBLISHED
) -> list[str]:
    """Downloads what a directory lacks of a data set, and reads all of it as training does.

    Files that are there are never replaced, they may be somebody's own digits. So the report says
    which are the published ones; only gzip files can be told, since those are what is published.

    Returns:
      The report: a line for each file and a closing line.

    Raises:
      UsageError: the directory cannot be made or written.
      DataError: what is there is defective, or what is missing cannot be downloaded.
    """
    from trainer.data import download, sources

    if not data_dir:
        raise UsageError("--data_dir is empty; name the directory to fill and to check")
    about = published[name]
    directory = os.path.expanduser(data_dir)
    called = f"--data_dir={data_dir}"
    try:
        missing = sources.locate(directory, name)[1]
    except OSError:
        missing = [file.name.removesuffix(".gz") for file in about.files]
    wanted = [file for file in about.files if file.name.removesuffix(".gz") in missing]
    if wanted:
        try:
            download.fetch(directory, wanted, about.mirrors, notify=to_stderr)
        except download.UnwritableError as error:
            raise UsageError(f"{called}: {error}") from error
        except DataError as error:
            raise DataError(
                f"{called} lacks {', '.join(missing)}: {error}; try again, or put the files there"
            ) from error
    arrays, _ = sources.read_directory(directory, name, called)
    paths, _ = sources.locate(directory, name)
    known = {file.name: file for file in about.files}
    report = []
    for path in paths:
        if path.name not in known:
            verdict = "sound"
        elif known[path.name].matches(path):
            verdict = "as published (SHA-256)"
        else:
            verdict = "sound, but not the published file"
        report.append(f"{path}: {verdict}")
    train, test = len(arrays[0]), len(arrays[2])
    return [*report, f"{about.title}: {train:,} training and {test:,} test images in {directory}"]


if __name__ == "__main__":
    sys.exit(main())
