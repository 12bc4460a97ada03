"""What TensorBoard is shown of a run, and when: at its start, after each epoch, at its end.

Apart from `summaries.py`, which knows how event files are written and resumed, and from the loop,
which should not be longer for it. All of it looks on: nothing here changes what is trained.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from trainer.model import networks
from trainer.results import charts
from trainer.run import directory as run_directory
from trainer.run import files

if TYPE_CHECKING:
    from trainer.loop import Run

# Categories of the page that lays curves side by side: titles and regular expressions of tags.
LAYOUT = {
    "Learning": {"Loss": "^loss$", "Accuracy": "^accuracy$"},
    "Each digit by itself": {"Share found": "^class_accuracy/"},
    "Optimizer": {"Learning rate": "^learning_rate$", "Norm of the gradient": "^gradient_norm$"},
    "Speed": {"Digits a second": "^examples_per_second$", "Waiting for input": "^input_wait$"},
}

_SHOWN = 16  # digits in a picture
_INPUT_DIGITS = 128
_GRADIENT_EXAMPLES = 128
_THRESHOLDS = 101  # of a precision-recall curve
_EMBEDDED = 500  # digits in the projector: its file is text, a number for each of their features


def begin(run: Run) -> None:
    """Shows what is known before the first digits are there: configuration and model."""
    summaries, config = run.summaries, run.plan.config
    record = json.loads(files.read_text(files.join(config.model_dir, run_directory.CONFIG)) or "{}")
    summaries.record("train", "configuration", config.to_dict(), 0)
    environment = {**record.get("settled", {}), **record.get("versions", {})}
    summaries.record("train", "environment", environment, 0)
    layers = {
        layer.name: f"{type(layer).__name__} {list(layer.output.shape[1:])},"
        f" {layer.count_params():,} parameters"
        for layer in run.trainer.model.layers
    }
    summaries.record("train", "model", layers, 0)
    summaries.graph("train", run.trainer.inference_graph())
    summaries.layout("train", LAYOUT, 0)


def input_digits(run: Run, superbatch: tuple) -> None:
    """Shows the digits of the first superbatch, as this process's first replica trains on them."""
    digits = tf.reshape(_local(superbatch[0]), (-1, 28, 28))[:_INPUT_DIGITS].numpy()
    run.summaries.digits("train", "input_digits", digits, 0)


def validated(run: Run, logits: np.ndarray, loss: float, accuracy: float) -> None:
    """Shows how the validation digits are read at this step.

    Args:
      run: at the end of an epoch.
      logits: of the validation digits, float32 [n, 10].
      loss: over them.
      accuracy: over them.
    """
    step, examples = run.progress.step, run.plan.examples
    run.summaries.scalars("validation", {"loss": loss, "accuracy": accuracy}, step)
    if run.plan.config.summaries == "full":
        images, labels = run.dataset.train_images[examples:], run.dataset.train_labels[examples:]
        _show_answers(run, "validation", images, labels, softmax(logits))
        pictures = _digits(images[:_SHOWN], labels[:_SHOWN], softmax(logits[:_SHOWN]))
        run.summaries.image("validation", "predictions", pictures, step, "the first digits")


def epoch(run: Run) -> None:
    """Shows weights and gradients at this step.

    The gradient is of the first training digits: those of the training loop stay inside it.
    """
    if run.plan.config.summaries != "full":
        return
    model, step = run.trainer.model, run.progress.step
    names = [variable.path for variable in model.trainable_variables]
    weights = [variable.numpy() for variable in model.trainable_variables]
    run.summaries.histograms(
        "train",
        {f"weights/{name}": values for name, values in zip(names, weights, strict=True)}
        | {
            f"gradients/{name}": values for name, values in zip(names, _gradients(run), strict=True)
        },
        step,
    )


def _gradients(run: Run) -> list[np.ndarray]:
    count = min(_GRADIENT_EXAMPLES, run.plan.examples)
    images = tf.cast(run.dataset.train_images[:count], tf.float32) / 255
    labels = tf.cast(run.dataset.train_labels[:count], tf.int32)
    model = run.trainer.model
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        weights = [_local(variable.value) for variable in model.trainable_variables]
        tape.watch(weights)
        # Not in training mode: dropout would draw numbers that the run is going to draw.
        logits = model(images, training=False)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        mean = tf.reduce_mean(loss)
    found = tape.gradient(mean, weights, unconnected_gradients="zero")
    return [gradient.numpy().astype(np.float32) for gradient in found]


def _local(value):
    """The first copy, or share, in this process, of what a strategy may have for each replica."""
    return getattr(value, "values", [value])[0]


def tested(run: Run, probabilities: np.ndarray, loss: float, accuracy: float) -> None:
    """Shows the result on the test set, and what the HParams page compares this run by.

    Args:
      run: at its end.
      probabilities: of the test digits, float [n, 10].
      loss: over them.
      accuracy: over them.
    """
    config, step = run.plan.config, run.progress.step
    run.summaries.begin_test(step)
    run.summaries.scalars("test", {"loss": loss, "accuracy": accuracy}, step)
    if config.summaries == "full":
        images, labels = run.dataset.test_images, run.dataset.test_labels
        _show_answers(run, "test", images, labels, probabilities)
        _project(run, images[:_EMBEDDED], labels[:_EMBEDDED], probabilities[:_EMBEDDED])
    left_out = (  # they say where and how the run is kept, not what is learned
        *("model_dir", "data_dir", "resume", "profile", "summaries"),
        *("checkpoint_every", "keep_checkpoints", "cluster_timeout_s"),
    )
    run.summaries.hyperparameters(
        {
            name: value
            for name, value in config.to_dict().items()
            if value is not None and name not in left_out
        },
        trial=config.model_dir,
    )


def _show_answers(
    run: Run, part: str, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> None:
    step, summaries = run.progress.step, run.summaries
    matrix = charts.confusion_matrix(labels, probabilities.argmax(1))
    found = {
        f"class_accuracy/{row['digit']}": row["recall"]
        for row in charts.class_table(matrix)
        if row["examples"]
    }
    summaries.scalars(part, found, step)
    summaries.image(
        part, "confusion_matrix", _confusion(matrix), step, "rows: what it is; columns: read as"
    )
    wrong = charts.surest_mistakes(labels, probabilities)[:_SHOWN]
    if len(wrong):
        pictures = _digits(images[wrong], labels[wrong], probabilities[wrong])
        summaries.image(part, "mistakes", pictures, step, "those it was surest of")
    curves = {
        f"precision_recall/{digit}": pr_curve(labels == digit, probabilities[:, digit])
        for digit in range(10)
    }
    summaries.pr_curves(part, curves, step)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities, float [n, 10], that logits stand for."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def pr_curve(positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Returns a precision-recall curve as TensorBoard wants it.

    Args:
      positive: bool [n].
      score: float [n] between 0 and 1.

    Returns:
      float64 [6, 101]: true and false positives, true and false negatives, precision, recall, where
      a score counts as positive from 0, 0.01, ... 1 on: what `tensorboard.plugins.pr_curve` reads.
    """
    buckets = np.floor(score * (_THRESHOLDS - 1)).astype(int)

    def at_least(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(buckets[chosen], minlength=_THRESHOLDS)[::-1].cumsum()[::-1]

    true, false = at_least(positive), at_least(~positive)
    # Where nothing counts as positive nothing is wrong: the curve ends at 1, not at 0.
    precision = np.where(true + false, true / np.maximum(true + false, 1), 1)
    recall = true / max(true[0], 1)
    return np.stack([true, false, false[0] - false, true[0] - true, precision, recall])


def _confusion(matrix: np.ndarray) -> np.ndarray:
    """Returns a confusion matrix as pixels, uint8 [height, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    cell = 44
    image = Image.new("RGB", (11 * cell, 11 * cell), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(17)
    most = max((matrix - np.diag(np.diag(matrix))).max(), 1)
    for digit in range(10):
        for place in ((digit * cell + 1.5 * cell, cell / 2), (cell / 2, digit * cell + 1.5 * cell)):
            draw.text(place, str(digit), fill=charts.MUTED, font=font, anchor="mm")
    for row, column in np.argwhere(matrix):
        count, right = int(matrix[row, column]), row == column
        colour = charts.BLUE if right else charts.mix(charts.ORANGE, math.sqrt(count / most) * 0.85)
        x, y = (column + 1) * cell, (row + 1) * cell
        draw.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), fill=colour)
        ink = "white" if right else charts.INK
        draw.text((x + cell / 2, y + cell / 2), str(count), fill=ink, font=font, anchor="mm")
    return np.asarray(image)


def _digits(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns digits and below each how it was read, as pixels, uint8 [height, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    columns, wide, high = 8, 92, 112
    rows = -(-len(images) // columns)
    paper = np.full((rows * high, columns * wide), 255, np.uint8)
    for place, pixels in enumerate(images):
        top, left = place // columns * high + 4, place % columns * wide + 4
        paper[top : top + 84, left : left + 84] = 255 - pixels.repeat(3, 0).repeat(3, 1)
    image = Image.fromarray(paper).convert("RGB")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    for place, (label, answer) in enumerate(zip(labels, probabilities, strict=True)):
        top, left = place // columns * high + 4, place % columns * wide + 4
        read, right = int(answer.argmax()), answer.argmax() == label
        colour = charts.BLUE if right else charts.ORANGE
        draw.rectangle(
            (left, top, left + 84, top + 84),
            outline=charts.LINE if right else colour,
            width=1 if right else 3,
        )
        text = f"{read}" if right else f"{read}, is {label}"
        draw.text((left, top + 87), text, fill=colour, font=font)
        sure = f"{answer.max():.0%}"
        draw.text((left + 84, top + 87), sure, fill=charts.MUTED, font=font, anchor="ra")
    return np.asarray(image)


def _project(run: Run, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Writes what the projector shows: the last hidden layer's features of some test digits."""
    from PIL import Image

    pixels = tf.cast(images, tf.float32) / 255
    features = networks.features(run.trainer.model, pixels).numpy()
    side = math.ceil(math.sqrt(len(images)))
    sprite = np.zeros((side * 28, side * 28), np.uint8)
    for place, pixels in enumerate(images):
        top, left = place // side * 28, place % side * 28
        sprite[top : top + 28, left : left + 28] = pixels
    buffer = io.BytesIO()
    Image.fromarray(sprite).save(buffer, "PNG")
    rows = zip(labels, probabilities.argmax(1), strict=True)
    table = "is\tread as\n" + "".join(f"{label}\t{read}\n" for label, read in rows)
    vectors = "".join(
        "\t".join(f"{value:.4g}" for value in row) + "\n" for row in features.tolist()
    )
    files: Mapping[str, bytes] = {
        "features.tsv": vectors.encode(),
        "labels.tsv": table.encode(),
        "digits.png": buffer.getvalue(),
    }
    run.summaries.projector("test", files, name="hidden", shape=features.shape)
