"""Reads the digits in image files with an exported model: `python -m trainer.predict`."""

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
CHUNK = 256  # images a model call: bounds the memory for any number of files
_SIGNATURE = "serving_default"

Classifier = Callable[[Any], tuple[Any, Any]]


def find_export(model_dir: str) -> str:
    """Returns the SavedModel directory that `model_dir` stands for.

    Args:
      model_dir: a SavedModel directory, or a run directory with `saved_model/<global step>/` in
        it, of which the highest step is taken; any path that `tf.io.gfile` reads.

    Raises `UsageError` if there is none.
    """
    try:
        versions = files.join(model_dir, "saved_model")
        steps = [name for name in files.names_in(versions) if re.fullmatch("[0-9]+", name)]
        exports = [files.join(versions, step) for step in sorted(steps, key=int, reverse=True)]
        for directory in [model_dir, *exports]:
            if files.exists(files.join(directory, "saved_model.pb")):
                return directory
        problem = "holds no exported model" if files.exists(model_dir) else "does not exist"
    except Exception as error:  # tf.io.gfile's types, without importing TensorFlow for local paths
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        problem = f"cannot be read ({reason})"
    raise UsageError(
        f"--model_dir={model_dir!r} {problem}; name the directory of a finished run"
        " (python -m trainer.task --model_dir DIR) or a SavedModel"
    )


def load_classifier(export: str) -> Classifier:
    """Returns the SavedModel `export` as a function of images, uint8 [n, 28, 28].

    It returns NumPy arrays: classes int64 [n] and probabilities float32 [n, 10]. Raises
    `UsageError` if `export` is no such model.
    """
    tf = startup.import_tensorflow()
    try:
        with startup.quiet_stderr():
            model = tf.saved_model.load(export)
            serve = model.signatures[_SIGNATURE]
            outputs = {
                name: serve.structured_outputs[name] for name in ("classes", "probabilities")
            }
    except Exception as error:  # a damaged file raises almost any type
        lines = str(error).splitlines() or [""]
        raise UsageError(
            f"--model_dir: {export!r} is not a digit classifier that can be loaded"
            f" ({type(error).__name__}: {lines[0]}); export it anew"
        ) from error

    def classify(images: Any) -> tuple[Any, Any]:
        answer = model.signatures[_SIGNATURE](images=tf.constant(images))
        classes, probabilities = (answer[name].numpy() for name in outputs)
        return classes, probabilities

    return classify


def predictions(
    paths: Sequence[str], export: str, refuse: Callable[[str, DataError], None]
) -> Iterator[dict[str, Any]]:
    """Yields `file`, `digit`, `confidence` and `probabilities` (of 0 to 9) of each readable image.

    Calls `refuse` with path and reason for the others. The model is loaded with the first digit.
    """
    import numpy as np

    from trainer import picture

    classify = None
    for start in range(0, len(paths), CHUNK):
        names, digits = [], []
        for path in paths[start : start + CHUNK]:
            try:
                digits.append(picture.read_digit(path))
                names.append(path)
            except DataError as error:
                refuse(path, error)
        if not names:
            continue
        classify = classify or load_classifier(export)
        classes, probabilities = classify(np.stack(digits))
        for path, digit, row in zip(names, classes, probabilities, strict=True):
            shares = [round(float(share), 6) for share in row]
            yield {
                "file": path,
                "digit": int(digit),
                "confidence": shares[digit],
                "probabilities": shares,
            }


def _row(prediction: dict[str, Any], width: int) -> str:
    shares = prediction["probabilities"]
    second = max(set(range(10)) - {prediction["digit"]}, key=shares.__getitem__)
    return (
        f"{command_line.printable(prediction['file']):<{width}}  {prediction['digit']:>5}"
        f"  {prediction['confidence']:>10.1%}  {second:>6} {shares[second]:>6.1%}"
    )


def run(argv: Sequence[str]) -> int:
    """Prints the answers to the command line `argv` (program first); returns the exit code."""
    values = command_line.flag_values()
    flags.DEFINE_string("model_dir", None, MODEL_DIR, flag_values=values)
    flags.DEFINE_bool("json", False, "print one JSON object a line", flag_values=values)
    summary = "Reads the digits in PNG or JPEG files with an exported model."
    paths = command_line.parse(argv, values, summary=summary, usage=USAGE)
    if paths is None:
        return 0
    if not values.model_dir:
        raise UsageError(f"--model_dir is missing; usage: {USAGE}")
    if not paths:
        raise UsageError(f"no images given; usage: {USAGE}")
    export = find_export(values.model_dir)
    refused = []

    def refuse(path: str, error: DataError) -> None:
        refused.append(path)
        print(f"error: {command_line.printable(path)}: {error}", file=sys.stderr)

    width = max(len("file"), *(len(command_line.printable(path)) for path in paths))
    for number, prediction in enumerate(predictions(paths, export, refuse)):
        if number == 0 and not values.json:
            print(f"{'file':<{width}}  digit  confidence  second choice")
        print(json.dumps(prediction) if values.json else _row(prediction, width))
    return DataError.exit_code if refused else 0


def main(argv: Sequence[str] | None = None) -> int:
    """`run` with expected failures as one line on standard error; returns the exit code."""
    return command_line.main(run, argv)


if __name__ == "__main__":
    sys.exit(main())
