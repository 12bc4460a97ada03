"""What a run reports while it trains: console lines, `history.csv`, TensorBoard's curves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from trainer.data import Dataset
from trainer.model import networks
from trainer.model.trainer import LoopResult, Trainer
from trainer.plan import Plan
from trainer.process.console import Console
from trainer.results import evaluation, figures
from trainer.results.evaluation import Evaluation
from trainer.results.tensorboard import EventFiles
from trainer.run import directory as run_directory
from trainer.run import files
from trainer.run.checkpoints import Progress

_INPUT_DIGITS, _MISTAKES = 128, 16
_EMBEDDED = 500  # digits in the projector, whose file is text


def validation_digits(plan: Plan, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training digits held out, uint8 [n, 28, 28], and their labels [n]."""
    return dataset.train_images[plan.examples :], dataset.train_labels[plan.examples :]


class SilentReporter:
    """The reporter of a worker that is not the chief, and the interface of both: does nothing."""

    def start(self) -> None:
        """Called before the first step of a run that is not resumed."""

    def input_digits(self, superbatch: tuple) -> None:
        """Called with the first superbatch of a run that is not resumed."""

    def loop_done(self, progress: Progress, result: LoopResult, *, seconds: float) -> None:
        """Called after each call of the compiled loop, which took so many seconds."""

    def epoch_done(self, progress: Progress, *, loss: float, accuracy: float) -> None:
        """Called after each epoch with the means over its training steps."""

    def profiling(self, first_step: int, last_step: int) -> contextlib.AbstractContextManager:
        """Surrounds the call of the loop that runs the steps first_step ... last_step - 1."""
        return contextlib.nullcontext()

    def flush(self) -> None:
        """Called before a checkpoint, so that a resumed run finds all that was reported."""

    def close(self) -> None:
        """Called at the end."""


class Reporter(SilentReporter):
    """The chief's reporter.

    Args:
      plan: of the run.
      trainer: of the run; validates with `logits`.
      dataset: of the run.
      console: for the progress bar and a line an epoch.
      resumed_from: the step that the run goes on from, None for a new run.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        trainer: Trainer,
        dataset: Dataset,
        console: Console,
        resumed_from: int | None,
    ):
        self._plan, self._trainer, self._dataset, self._console = plan, trainer, dataset, console
        directory = files.join(plan.config.model_dir, run_directory.TENSORBOARD)
        self._train_directory = files.join(directory, "train")
        self._events = EventFiles(directory, resumed_from)

    def start(self) -> None:
        """Adds the configuration and the model's graph to TensorBoard."""
        path = files.join(self._plan.config.model_dir, run_directory.CONFIG)
        tables = [
            f"### {section}\n\n| | |\n| --- | --- |\n"
            + "\n".join(f"| {name} | `{json.dumps(value)}` |" for name, value in values.items())
            for section, values in json.loads(files.read_text(path) or "{}").items()
        ]
        self._events.text("train", "configuration", "\n\n".join(tables), 0)
        self._events.graph("train", self._trainer.inference_graph())

    def input_digits(self, superbatch: tuple) -> None:
        """Adds the first digits that this process's first replica trains on, as augmented."""
        images = getattr(superbatch[0], "values", [superbatch[0]])[0]
        digits = tf.reshape(images, (-1, 28, 28))[:_INPUT_DIGITS].numpy()
        picture = figures.mosaic(digits, columns=16)[..., None]
        self._events.image("train", "input_digits", picture, 0, "as augmented")

    def loop_done(self, progress: Progress, result: LoopResult, *, seconds: float) -> None:
        """Redraws the progress bar and adds a point to the training curves."""
        config, step = self._plan.config, progress.step
        rate = result.steps * config.batch_size / seconds
        self._console.progress(
            step / self._plan.total_steps,
            f"epoch {self._plan.epoch_under_way(step - 1)}/{config.epochs}"
            f"  loss {result.loss:.4f}  accuracy {result.accuracy:.2%}  {rate:,.0f} digits/s",
        )
        values = {
            "loss": result.loss,
            "accuracy": result.accuracy,
            "gradient_norm": result.gradient_norm,
            "learning_rate": float(self._trainer.learning_rate(step - 1)),
            "examples_per_second": rate,
        }
        self._events.scalars("train", values, step)

    def epoch_done(self, progress: Progress, *, loss: float, accuracy: float) -> None:
        """Validates, appends a row to the history, writes `history.csv`, prints a line."""
        config, step = self._plan.config, progress.step
        validated = self._validate(step) if config.validation_examples else None
        weights = self._trainer.model.trainable_variables
        kernels = {f"weights/{w.path}": w.numpy() for w in weights if len(w.shape) > 1}
        self._events.histograms("train", kernels, step)
        epoch = self._plan.epoch_under_way(step - 1)
        progress.history.append(
            {
                "epoch": epoch,
                "step": step,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "validation_loss": validated and validated.loss,
                "validation_accuracy": validated and validated.accuracy,
                "learning_rate": float(self._trainer.learning_rate(step - 1)),
                "train_seconds": round(progress.train_seconds, 3),
            }
        )
        run_directory.write_history(config.model_dir, progress.history)
        text = f"epoch {epoch}/{config.epochs}  loss {loss:.4f}  accuracy {accuracy:.2%}"
        if validated:
            text += f"   validation loss {validated.loss:.4f}  accuracy {validated.accuracy:.2%}"
        self._console.line(f"{text}   {progress.train_seconds:.1f} s")

    def _validate(self, step: int) -> Evaluation:
        images, labels = validation_digits(self._plan, self._dataset)
        validated = evaluation.evaluate(self._trainer.logits(images), labels)
        self._answers("validation", images, labels, validated, step)
        return validated

    def _answers(
        self, part: str, images: np.ndarray, labels: np.ndarray, result: Evaluation, step: int
    ) -> None:
        curves = {"loss": result.loss, "accuracy": result.accuracy}
        self._events.scalars(part, curves, step)
        picture = figures.confusion_picture(result.confusion)
        self._events.image(part, "confusion_matrix", picture, step, "by true and read digit")
        wrong = evaluation.surest_mistakes(result.probabilities, labels)[:_MISTAKES]
        if len(wrong):
            answers = images[wrong], labels[wrong], result.probabilities[wrong]
            picture = figures.captioned_digits(*answers)
            self._events.image(part, "mistakes", picture, step, "the most confident")

    @contextlib.contextmanager
    def profiling(self, first_step: int, last_step: int) -> Iterator[None]:
        """Starts TensorFlow's profiler before the first step of `--profile`, ends it after it."""
        steps = self._plan.config.profile_range()
        if not steps or not steps[0] - 1 <= first_step < steps[1]:
            yield
            return
        if first_step == steps[0] - 1:
            tf.profiler.experimental.start(self._train_directory)
        yield
        if last_step == min(steps[1], self._plan.total_steps):
            with contextlib.suppress(tf.errors.UnavailableError):  # resumed within the range
                tf.profiler.experimental.stop()

    def tested(self, progress: Progress, result: Evaluation) -> None:
        """Adds the result on the test set, the projector and the HParams page's record.

        Args:
          progress: at the end of training.
          result: of the test digits at temperature 1, as the other curves.
        """
        config, images, labels = (
            self._plan.config,
            self._dataset.test_images,
            self._dataset.test_labels,
        )
        self._events.start_over("test")  # what an earlier attempt at finishing left
        self._answers("test", images, labels, result, progress.step)
        pixels = tf.cast(images[:_EMBEDDED], tf.float32) / 255
        features = networks.features(self._trainer.model, pixels).numpy()
        read = result.probabilities[:_EMBEDDED].argmax(1)
        rows = [f"{label}\t{answer}" for label, answer in zip(labels, read, strict=False)]
        self._events.projector("test", features, images[:_EMBEDDED], "is\tread as", rows)
        fields = {field.name: field.metadata for field in dataclasses.fields(config)}
        names = ["model", "epochs", *(name for name in fields if not fields[name]["same_run"])]
        values = {name: getattr(config, name) for name in names}
        choices = {name: fields[name]["choices"] for name in names}
        self._events.hyperparameters(values, choices, config.model_dir)

    def flush(self) -> None:
        """Writes TensorBoard's events to disk."""
        self._events.flush()

    def close(self) -> None:
        """Closes TensorBoard's files."""
        self._events.close()
