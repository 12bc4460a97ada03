"""Reads the numbers in pictures with an exported model: `python -m trainer.predict`."""

import dataclasses
import difflib
import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from trainer import picture
from trainer.annotate import annotate
from trainer.errors import DataError, StorageError, UsageError
from trainer.process import command_line, startup
from trainer.run import files

USAGE = "python -m trainer.predict --model_dir DIR picture.jpg [more pictures or folders]"
MODEL_DIR = "directory of a finished run (its newest export is used) or of a SavedModel"
# What is read in folders; HEIC photos are refused with what to do.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif")
ANNOTATED = ".annotated.png"  # never read, so that no picture is written over


def find_export(model_dir: str) -> str:
    """Returns `model_dir` if it is a SavedModel, else the newest export of the run in it."""
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
        f"--model_dir={model_dir!r} {problem}; name the directory of a finished run or a SavedModel"
    )


def load_classifier(export: str) -> picture.Classify:
    """Returns the SavedModel `export` as a function; raises `UsageError` if it is no such model."""
    tf = startup.import_tensorflow()

    def classify(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(images)
        # oneDNN keeps memory for each size of a batch; there are fewer of multiples of 32.
        batch = np.pad(images, [(0, -count % 32), (0, 0), (0, 0)])
        answer = model.signatures["serving_default"](images=tf.constant(batch))
        return answer["classes"].numpy()[:count], answer["probabilities"].numpy()[:count]

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


def find_pictures(path: str) -> list[str]:
    """Returns the pictures in a folder and in the folders of it, sorted, without hidden ones.

    A file, and a folder without pictures, comes back as it is.
    """
    found = []
    for place, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in sorted(names) if not name.startswith(".")]
        found += [os.path.join(place, name) for name in shown if name.lower().endswith(SUFFIXES)]
    files_only = filter(os.path.isfile, found)  # a pipe would wait for its writer
    return [path for path in files_only if not path.endswith(ANNOTATED)] or [path]


def to_json(number: picture.Number, *, fields: bool = False) -> dict[str, Any]:
    """Returns `number` as `--json` prints it; boxes are left, top, right, bottom in pixels.

    With `fields` a digit also has `field`: what the model saw, 28 rows of 0 black to 255 white.
    """
    answer = dataclasses.asdict(number)
    for digit in answer["digits"]:
        digit["probabilities"] = [round(float(share), 6) for share in digit["probabilities"]]
        field = digit.pop("field")
        digit |= {"field": field.tolist()} if fields else {}
    for entry in (answer, *answer["digits"]):
        entry["confidence"] = round(entry["confidence"], 6)
    return answer


def _read(path: str, classify: picture.Classify, copy: str | None) -> list[picture.Number]:
    """Returns the numbers in a picture; writes its annotated `copy`, also if there are none."""
    if os.path.isdir(path):
        raise DataError(f"holds no pictures ({', '.join(SUFFIXES)})")
    if path.endswith(ANNOTATED):
        raise DataError("is an annotated copy; name the picture itself")
    image, numbers, problem = picture.decode(path), [], None
    try:
        numbers = picture.read_numbers(image, classify)
    except DataError as error:
        problem = error
    try:
        if copy:
            files.write_bytes(copy, annotate(image, numbers, str(problem or "")))
    except OSError as error:
        kind = DataError if error.errno == errno.ENAMETOOLONG else StorageError
        raise kind(f"--annotate: {copy}: {error.strerror}; give another folder") from error
    if problem:
        raise problem
    return numbers


def _read_all(paths: Sequence[str], classify: picture.Classify, values: flags.FlagValues) -> int:
    """Prints what is in each picture as soon as it is known; returns the exit code."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    top, code, counts = os.path.commonpath(folders), 0, np.zeros(4, int)
    width = max(len(command_line.printable(path)) for path in ["file", *paths])
    if not values.json:
        print(f"{'file':<{width}}    number  {'    read' if values.evaluate else 'confidence'}")
    for path, folder in zip(paths, folders, strict=True):
        name, numbers = command_line.printable(path), []
        copy = os.path.join(os.path.relpath(folder, top), os.path.basename(path) + ANNOTATED)
        try:
            numbers = _read(path, classify, values.annotate and files.join(values.annotate, copy))
        except DataError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            code = error.exit_code
        expected, read = os.path.basename(folder), " ".join(each.number for each in numbers)
        matches = difflib.SequenceMatcher(None, expected, read).get_matching_blocks()
        counts += [1, read == expected, len(expected), sum(match.size for match in matches)]
        if values.json:
            print(json.dumps({"file": path, "numbers": [to_json(number) for number in numbers]}))
        elif values.evaluate and read != expected:
            print(f"{name:<{width}}  {expected:>8}  {read or 'nothing':>8}")
        for number in numbers if not (values.json or values.evaluate) else ():
            share = f"{min(number.confidence, 0.999):>10.1%}"  # 99.96 % is not certain
            print(f"{name:<{width}}  {number.number:>8}  {share}{'  unsure' * number.unsure}")
    if values.evaluate:
        pictures, exact, digits, right = counts
        numbers = f"numbers  {exact:,} of {pictures:,} read exactly ({exact / pictures:.1%})"
        summary = f"{numbers}\ndigits   {right:,} of {digits:,} read right ({right / digits:.1%})"
        print(summary, file=sys.stderr if values.json else sys.stdout)
    return code


def run(argv: Sequence[str]) -> int:
    """Prints what is in the pictures named in `argv`; returns the exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, MODEL_DIR, flag_values=values)
    flags.DEFINE_bool("json", False, "print one JSON object a picture", flag_values=values)
    copies = "folder for copies of the pictures that show what was read and what the model saw"
    flags.DEFINE_string("annotate", None, copies, flag_values=values)
    mistakes = "print what is wrong in pictures whose folders are named by their number: 2026/a.jpg"
    flags.DEFINE_bool("evaluate", False, mistakes, flag_values=values)
    words = command_line.parse(argv, values, usage=f"{__doc__}\n\n  {USAGE}\n")
    if not values.model_dir or not words:
        raise UsageError(f"--model_dir or the pictures are missing; usage: {USAGE}")
    paths = [path for word in words for path in find_pictures(word)]
    for path in paths if values.evaluate else ():
        if not re.fullmatch("[0-9]+", os.path.basename(os.path.dirname(os.path.abspath(path)))):
            raise UsageError(f"--evaluate: {path} is in no folder named by its number (2026/a.jpg)")
    return _read_all(paths, load_classifier(find_export(values.model_dir)), values)


if __name__ == "__main__":
    command_line.leave(command_line.main(run))
