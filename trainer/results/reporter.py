"""What a run reports while it trains: console lines, `history.csv`, TensorBoard's curves."""

import contextlib
import json

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram.summary import histogram_pb
from tensorboard.plugins.scalar.summary import scalar_pb

from trainer.cluster.devices import Devices
from trainer.data import Dataset
from trainer.model import networks
from trainer.model.trainer import LoopResult, Trainer
from trainer.plan import Call, Plan
from trainer.process.console import Console
from trainer.results import evaluation, figures
from trainer.results.evaluation import Evaluation
from trainer.results.tensorboard import EventFiles
from trainer.run import directory, files
from trainer.run.checkpoints import Progress

_INPUT_DIGITS = 128
_EMBEDDED = 500  # digits in the projector, whose file is text
_MEANINGS = {
    "loss": "Mean cross-entropy in nats. Not calibrated, so that all curves can be compared.",
    "calibrated_loss": "The loss at the temperature of the export: `test_loss` of metrics.json.",
}


class SilentReporter:
    """Reports nothing: what the workers other than the chief use."""

    def flush(self, *args: object, **named: object) -> None:
        """Takes what `Reporter` would report."""

    loop_starts = loop_done = epoch_done = flush


class Reporter:
    """The chief's reporter: prints the plan at once; a new run adds configuration and graph."""

    def __init__(
        self,
        plan: Plan,
        trainer: Trainer,
        dataset: Dataset,
        console: Console,
        devices: Devices,
        resumed_from: int | None,
    ):
        self._plan, self._trainer, self._dataset, self._console = plan, trainer, dataset, console
        self._directory = files.join(plan.config.model_dir, directory.TENSORBOARD)
        self._events = EventFiles(self._directory, resumed_from)
        config, workers = plan.config, len(devices.cluster.workers)
        where = f"{devices.replicas} x " * (devices.replicas > 1) + devices.hardware.kind
        where += f" of {workers} workers" if workers > 1 else ""
        xla = "" if plan.jit_compile == "off" else ", XLA"
        console.line(
            f"data    {dataset.name}: {plan.examples:,} training, {config.validation_examples:,}"
            f" validation, {len(dataset.test_labels):,} test digits; {dataset.source}\n"
            f"model   {config.model}, {plan.precision}{xla}, on {where};"
            f" batches of {config.batch_size}, {plan.total_steps:,} steps\n"
            f"run     {config.model_dir}"
        )
        if resumed_from is not None:
            console.line(f"resumed at step {resumed_from:,}")
            return
        record = files.read_text(files.join(config.model_dir, directory.CONFIG))
        lines = []
        for part, values in json.loads(record).items():  # Markdown: what is indented is code
            lines += ["", part, "", *(f"    {name:<20} {value}" for name, value in values.items())]
        with self._events.writer("train").as_default(0):
            tf.summary.text("configuration", "\n".join(lines))
            tf.summary.graph(trainer.inference_graph())

    def loop_starts(self, call: Call, superbatch: tuple) -> None:
        """Adds the run's first digits, as augmented; starts TensorFlow's profiler at its step."""
        if call.first == 0:
            images = getattr(superbatch[0], "values", [superbatch[0]])[0]
            digits = tf.reshape(images, (-1, 28, 28))[:_INPUT_DIGITS].numpy()
            picture = figures.mosaic(digits, columns=16, width=29, height=29)
            with self._events.writer("train").as_default(0):
                tf.summary.image("input_digits", picture[None, ..., None])
        profile = self._plan.config.profile
        if profile and call.first == profile[0] - 1:
            tf.profiler.experimental.start(files.join(self._directory, "train"))

    def loop_done(self, progress: Progress, result: LoopResult, *, seconds: float) -> None:
        """Redraws the progress bar, adds a point to the training curves, ends the profile."""
        config, step, total = self._plan.config, progress.step, self._plan.total_steps
        if config.profile and step == min(config.profile[1], total):
            with contextlib.suppress(tf.errors.UnavailableError):  # resumed within the range
                tf.profiler.experimental.stop()
        rate = result.steps * config.batch_size / seconds
        minutes, left_s = divmod(round((total - step) * seconds / result.steps), 60)
        self._console.progress(
            step / total,
            f"epoch {self._plan.epoch_of(step - 1)}/{config.epochs}  loss {result.loss:.4f}"
            f"  accuracy {result.accuracy:.2%}  {rate:,.0f} digits/s  {minutes}:{left_s:02} left",
        )
        values = {name: getattr(result, name) for name in ("loss", "accuracy", "gradient_norm")}
        values["learning_rate"] = float(self._trainer.learning_rate(step - 1))
        values["examples_per_second"] = rate
        self._events.add("train", [scalar_pb(*value) for value in values.items()], step)

    def epoch_done(self, progress: Progress, *, loss: float, accuracy: float) -> None:
        """Validates, appends a row to the history, writes `history.csv`, prints a line."""
        config, step = self._plan.config, progress.step
        validated = self._validate(step) if config.validation_examples else None
        kernels = [w for w in self._trainer.model.trainable_variables if len(w.shape) > 1]
        histograms = [histogram_pb(f"weights/{w.path}", w.numpy()) for w in kernels]
        self._events.add("train", histograms, step)
        epoch = self._plan.epoch_of(step - 1)
        row = {"epoch": epoch, "step": step, "train_loss": loss, "train_accuracy": accuracy}
        row["validation_loss"] = validated and validated.loss
        row["validation_accuracy"] = validated and validated.accuracy
        row["learning_rate"] = float(self._trainer.learning_rate(step - 1))
        progress.history.append(row | {"train_seconds": round(progress.train_seconds, 3)})
        directory.write_history(config.model_dir, progress.history)
        text = f"epoch {epoch}/{config.epochs}  loss {loss:.4f}  accuracy {accuracy:.2%}"
        if validated:
            text += f"   validation loss {validated.loss:.4f}  accuracy {validated.accuracy:.2%}"
        before = progress.history[-2]["train_seconds"] if len(progress.history) > 1 else 0
        self._console.line(f"{text}   {progress.train_seconds - before:.1f} s")

    def _validate(self, step: int) -> Evaluation:
        held_out = slice(self._plan.examples, None)
        images, labels = self._dataset.train_images[held_out], self._dataset.train_labels[held_out]
        result = evaluation.evaluate(self._trainer.logits(images), labels)
        self._answers("validation", images, result, step, loss=result.loss)
        return result

    def _answers(
        self, part: str, images: np.ndarray, result: Evaluation, step: int, **losses: float
    ) -> None:
        values = {"accuracy": result.accuracy, **losses}
        points = [scalar_pb(name, value, _MEANINGS.get(name)) for name, value in values.items()]
        self._events.add(part, points, step)
        with self._events.writer(part).as_default(step):
            for tag, picture in figures.answer_pictures(images, result).items():
                tf.summary.image(tag, picture[None])

    def tested(self, progress: Progress, result: Evaluation, loss: float) -> None:
        """Adds the test's calibrated `result`, its raw `loss`, projector, HParams, all on disk."""
        images, labels = self._dataset.test_images, self._dataset.test_labels
        losses = {"loss": loss, "calibrated_loss": result.loss}
        self._answers("test", images, result, progress.step, **losses)
        pixels = tf.cast(images[:_EMBEDDED], tf.float32) / 255
        features = networks.features(self._trainer.model, pixels).numpy()
        answers = zip(labels[:_EMBEDDED], result.probabilities[:_EMBEDDED].argmax(1), strict=True)
        rows = ["is\tread as", *(f"{label}\t{read}" for label, read in answers)]
        self._events.projector(features, images[:_EMBEDDED], rows)
        self._events.hyperparameters(self._plan.config)
        self.flush()

    def flush(self) -> None:
        """Writes TensorBoard's events to disk."""
        self._events.flush()
