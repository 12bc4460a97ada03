"""Reads the digits in image files with an exported model: `python -m trainer.predict`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from trainer.errors import DataError, UsageError
from trainer.process import command_line, startup
from trainer.run import files

USAGE = "python -m trainer.predict --model_dir DIR image.png [more images] [--json]"
MODEL_DIR = "directory of a finished run (its newest export is used) or of a SavedModel"

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
    import numpy as np

    tf = startup.import_tensorflow()

    def classify(images: Any) -> tuple[Any, Any]:
        answer = model.signatures["serving_default"](images=tf.constant(images))
        return answer["classes"].numpy(), answer["probabilities"].numpy()

    try:
        with startup.quiet_stderr():
            model = tf.saved_model.load(export)
            classify(np.zeros((1, 28, 28), np.uint8))  # the first call is the slow one
    except Exception as error:  # a damaged file raises almost any type
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(
            f"--model_dir: {export!r} is not a digit classifier that can be loaded ({reason});"
            " export it anew"
        ) from error
    return classify


def predict_digit(classify: Classifier, image: Any) -> dict[str, Any]:
    """Returns `digit`, `confidence` and `probabilities` (of 0 to 9) of an image, uint8 [28, 28]."""
    classes, probabilities = classify(image[None])
    digit, shares = int(classes[0]), [round(float(share), 6) for share in probabilities[0]]
    return {"digit": digit, "confidence": shares[digit], "probabilities": shares}


def _row(name: str, prediction: dict[str, Any], width: int) -> str:
    digit, shares = prediction["digit"], prediction["probabilities"]
    second = max(set(range(10)) - {digit}, key=shares.__getitem__)
    return (
        f"{name:<{width}}  {digit:>5}  {shares[digit]:>10.1%}  {second:>6} {shares[second]:>6.1%}"
    )


def _print_predictions(paths: Sequence[str], export: str, as_json: bool) -> int:
    """Prints a row or a JSON line for each image, the model loaded with the first digit."""
    from trainer import picture

    names = [command_line.printable(path) for path in paths]
    width = max(len(name) for name in ["file", *names])
    classify, code = None, 0
    for path, name in zip(paths, names, strict=True):
        try:
            image = picture.read_digit(path)
        except DataError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            code = error.exit_code
            continue
        if classify is None:
            classify = load_classifier(export)
            if not as_json:
                print(f"{'file':<{width}}  digit  confidence  second choice")
        prediction = predict_digit(classify, image)
        line = json.dumps({"file": path} | prediction)
        print(line if as_json else _row(name, prediction, width))
    return code


def run(argv: Sequence[str]) -> int:
    """Prints the answers to the command line `argv` (program first); returns the exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, MODEL_DIR, flag_values=values)
    flags.DEFINE_bool("json", False, "print one JSON object a line", flag_values=values)
    summary = "Reads the digits in PNG or JPEG files with an exported model."
    paths = command_line.parse(argv, values, usage=f"{summary}\n\n  {USAGE}\n")
    if paths is None:
        return 0
    if not values.model_dir:
        raise UsageError(f"--model_dir is missing; usage: {USAGE}")
    if not paths:
        raise UsageError(f"no images given; usage: {USAGE}")
    return _print_predictions(paths, find_export(values.model_dir), values.json)


def main(argv: Sequence[str] | None = None) -> int:
    """`run` with expected failures as one line on standard error; returns the exit code."""
    return command_line.main(run, argv)


if __name__ == "__main__":
    command_line.leave(main())
