"""The second entry: classify image files with an exported model.

Apart from training because it needs nothing of it: an export and pictures are enough.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from trainer.errors import DataError, UsageError
from trainer.process import command_line, startup
from trainer.run import files

USAGE = "python -m trainer.predict --model_dir DIR image.png [more images] [--json]"
MODEL_DIR = "directory of a finished run (its newest export is used) or of a SavedModel"
CHUNK = 256  # images a model call: memory stays the same for any number of files
_SIGNATURE = "serving_default"


def find_export(model_dir: str) -> str:
    """Returns the SavedModel directory that `model_dir` stands for.

    Args:
      model_dir: a SavedModel directory, or a run directory with `saved_model/<global step>/` in
        it, of which the highest step is taken; any path that `tf.io.gfile` reads.

    Raises `UsageError` if there is none.
    """
    try:
        if _is_export(model_dir):
            return model_dir
        versions = files.join(model_dir, "saved_model")
        steps = [name for name in files.names_in(versions) if re.fullmatch("[0-9]+", name)]
        for step in sorted(steps, key=int, reverse=True):
            if _is_export(files.join(versions, step)):
                return files.join(versions, step)
        found = "holds no exported model" if files.exists(model_dir) else "does not exist"
    except (
        Exception
    ) as error:  # tf.io.gfile's have TensorFlow's types, not imported for a local path
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        found = f"cannot be read ({reason})"
    raise UsageError(
        f"--model_dir={model_dir!r} {found}; name the directory of a finished run"
        " (python -m trainer.task --model_dir DIR) or a SavedModel"
    )


def _is_export(directory: str) -> bool:
    return files.exists(files.join(directory, "saved_model.pb"))


def load_classifier(export: str) -> Callable[[Any], tuple[Any, Any]]:
    """Returns the function of the SavedModel `export` from uint8 [n, 28, 28] to int64 [n] and
    float32 [n, 10].

    These are the classes and their probabilities, as NumPy arrays. Raises `UsageError` if it is no
    such model.
    """
    tf = startup.import_tensorflow()
    failure = ""
    with startup.quiet_stderr():
        try:
            model = tf.saved_model.load(export)
            outputs = set(model.signatures[_SIGNATURE].structured_outputs)
            if not outputs >= {"classes", "probabilities"}:
                failure = f"its signature {_SIGNATURE} gives {sorted(outputs)}"
        except Exception as error:  # a damaged file surfaces as almost any type
            lines = str(error).splitlines() or [""]
            failure = f"{type(error).__name__}: {lines[0]}"
    if failure:
        raise UsageError(
            f"--model_dir: {export!r} is not a digit classifier that can be loaded ({failure});"
            " export it anew"
        )

    def classify(images: Any) -> tuple[Any, Any]:
        answer = model.signatures[_SIGNATURE](images=tf.constant(images))
        return answer["classes"].numpy(), answer["probabilities"].numpy()

    return classify


def predictions(
    files: Sequence[str], export: str, refuse: Callable[[str, DataError], None]
) -> Iterator[dict]:
    """Yields `file`, `digit`, `confidence` and `probabilities` (of 0 to 9) for each of `files` that
    shows a digit.

    Calls `refuse` with the name and the reason for each of the others. The model is loaded once
    there is a digit.
    """
    import numpy as np

    from trainer.picture.digits import read_digit

    classify = None
    for start in range(0, len(files), CHUNK):
        names, digits = [], []
        for file in files[start : start + CHUNK]:
            try:
                digits.append(read_digit(file))
                names.append(file)
            except DataError as error:
                refuse(file, error)
        if not names:
            continue
        classify = classify or load_classifier(export)
        for file, digit, probabilities in zip(names, *classify(np.stack(digits)), strict=True):
            shares = [round(float(share), 6) for share in probabilities]
            yield {
                "file": file,
                "digit": int(digit),
                "confidence": shares[digit],
                "probabilities": shares,
            }


def _row(prediction: dict, width: int) -> str:
    shares = prediction["probabilities"]
    second = max(
        (digit for digit in range(10) if digit != prediction["digit"]), key=shares.__getitem__
    )
    return (
        f"{command_line.printable(prediction['file']):<{width}}  {prediction['digit']:>5}"
        f"  {prediction['confidence']:>10.1%}"
        f"  {second:>6} {shares[second]:>6.1%}"
    )


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, MODEL_DIR, flag_values=values)
    flags.DEFINE_bool(
        "json",
        False,
        "print one JSON object a file and line instead of the table",
        flag_values=values,
    )
    return values


def run(argv: Sequence[str]) -> int:
    """Answers the command line `argv` (its first word is the program) on standard output; returns
    the exit code.
    """
    values = _flags()
    files = command_line.parse(
        argv,
        values,
        usage=f"Reads the digits in PNG or JPEG files with an exported model.\n\n  {USAGE}",
    )
    if files is None:
        return 0
    if not values.model_dir:
        raise UsageError(f"--model_dir is missing; usage: {USAGE}")
    if not files:
        raise UsageError(f"no images given; usage: {USAGE}")
    export = find_export(values.model_dir)

    refused = 0

    def refuse(file: str, error: DataError) -> None:
        nonlocal refused
        refused += 1
        print(f"error: {command_line.printable(file)}: {error}", file=sys.stderr)

    width = max(len("file"), *(len(command_line.printable(file)) for file in files))
    for index, prediction in enumerate(predictions(files, export, refuse)):
        if not values.json and index == 0:
            print(f"{'file':<{width}}  digit  confidence  second choice")
        print(json.dumps(prediction) if values.json else _row(prediction, width))
    return DataError.exit_code if refused else 0


def main(argv: Sequence[str] | None = None) -> int:
    """`run` with expected failures as one line on standard error; returns the exit code."""
    return command_line.main(run, argv)


if __name__ == "__main__":
    command_line.leave(main())
