"""Reads the digits in image files with an exported model: `python -m trainer.predict`."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from trainer import picture
from trainer.errors import DataError, UsageError
from trainer.process import command_line, startup
from trainer.run import files

USAGE = "python -m trainer.predict --model_dir DIR image.png [more images] [--json]"
MODEL_DIR = "directory of a finished run (its newest export is used) or of a SavedModel"

Classifier = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def find_export(model_dir: str) -> str:
    """Returns `model_dir` if it is a SavedModel, else the newest export of the run in it.

    Takes any path that `tf.io.gfile` reads. Raises `UsageError` if there is no export.
    """
    versions = files.join(model_dir, "saved_model")
    try:
        steps = sorted(filter(str.isdecimal, files.names_in(versions)), key=int, reverse=True)
        for directory in [model_dir, *(files.join(versions, step) for step in steps)]:
            if files.exists(files.join(directory, "saved_model.pb")):
                return directory
        problem = "holds no exported model"
    except Exception as error:  # tf.io.gfile's types, without importing TensorFlow for local paths
        problem = f"cannot be read ({error})"
    raise UsageError(
        f"--model_dir={model_dir!r} {problem}; name the directory of a finished run"
        " (python -m trainer.task --model_dir DIR) or a SavedModel"
    )


def load_classifier(export: str) -> Classifier:
    """Returns the SavedModel `export` as a function of images, uint8 [n, 28, 28].

    It returns classes int64 [n] and probabilities float32 [n, 10]. Raises `UsageError` if `export`
    is no such model.
    """
    tf = startup.import_tensorflow()

    def classify(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = model.signatures["serving_default"](images=tf.constant(images))
        return answer["classes"].numpy(), answer["probabilities"].numpy()

    try:
        with startup.quiet_stderr(), files.without_pattern(export) as path:
            model = tf.saved_model.load(path)
            classify(np.zeros((1, 28, 28), np.uint8))  # the first call is the slow one
    except Exception as error:  # a damaged file raises almost any type
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(
            f"--model_dir: {export!r} is not a digit classifier that can be loaded ({reason});"
            " export it anew"
        ) from error
    return classify


def predict_digit(classify: Classifier, image: np.ndarray) -> dict[str, Any]:
    """Returns `digit`, `confidence` and `probabilities` (of 0 to 9) of an image, uint8 [28, 28]."""
    classes, probabilities = classify(image[None])
    digit, shares = int(classes[0]), [round(float(share), 6) for share in probabilities[0]]
    return {"digit": digit, "confidence": shares[digit], "probabilities": shares}


def run(argv: Sequence[str]) -> int:
    """Prints a row or a JSON line for each image named in `argv`; returns the exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, MODEL_DIR, flag_values=values)
    flags.DEFINE_bool("json", False, "print one JSON object a line", flag_values=values)
    summary = "Reads the digits in PNG or JPEG files with an exported model."
    paths = command_line.parse(argv, values, usage=f"{summary}\n\n  {USAGE}\n")
    if paths is None:
        return 0
    if not values.model_dir or not paths:
        raise UsageError(f"--model_dir or the images are missing; usage: {USAGE}")
    classify, code = load_classifier(find_export(values.model_dir)), 0
    names = [command_line.printable(path) for path in paths]
    width = max(len(name) for name in ["file", *names])
    if not values.json:
        print(f"{'file':<{width}}  digit  confidence  second choice")
    for path, name in zip(paths, names, strict=True):
        try:
            prediction = predict_digit(classify, picture.read_digit(path))
        except DataError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            code = error.exit_code
            continue
        line = json.dumps({"file": path} | prediction)
        print(line if values.json else f"{name:<{width}}  {_columns(**prediction)}")
    return code


def _columns(digit: int, confidence: float, probabilities: list[float]) -> str:
    second = max(set(range(10)) - {digit}, key=probabilities.__getitem__)
    return f"{digit:>5}  {confidence:>10.1%}  {second:>6} {probabilities[second]:>6.1%}"


if __name__ == "__main__":
    command_line.leave(command_line.main(run))
