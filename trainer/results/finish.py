"""What finishes a run: the test, the calibrated export, the report and `metrics.json`."""

import json
import os
import shlex
import sys
from typing import Any

import numpy as np

from trainer.config import Config
from trainer.data import Dataset
from trainer.model import networks
from trainer.model.trainer import Trainer
from trainer.plan import Plan
from trainer.process.clock import Clock
from trainer.process.console import Console, counted
from trainer.recipes import NUMBERS_READ, RECIPES
from trainer.results import evaluation, export, figures, report, sample
from trainer.results.evaluation import Evaluation
from trainer.results.reporter import Reporter
from trainer.run import directory, files
from trainer.run.checkpoints import Progress

# The loss of digits that are all read right falls for ever with the temperature.
_MISTAKES_TO_FIT = 5


def finish(
    plan: Plan,
    trainer: Trainer,
    dataset: Dataset,
    progress: Progress,
    reporter: Reporter,
    console: Console,
    clock: Clock,
    resumed_from: int | None,
) -> None:
    """Tests once, then writes everything that is made of a trained model.

    All results, `test_loss` too, are of the calibrated probabilities, as the export gives them.
    """
    console.progress(1.0, "testing, exporting, drawing")
    config, images, labels = plan.config, dataset.test_images, dataset.test_labels
    logits = trainer.logits(images)
    temperature = RECIPES[config.model].temperature
    held_out = trainer.logits(dataset.train_images[plan.examples :])
    expected = dataset.train_labels[plan.examples :]
    if (held_out.argmax(1) != expected).sum() >= _MISTAKES_TO_FIT:
        temperature = evaluation.fit_temperature(held_out, expected)
    result = evaluation.evaluate(logits, labels, temperature)
    clock.lap("test")
    reporter.tested(progress, result, evaluation.evaluate(logits, labels).loss)
    clock.lap("summaries")
    # A copy, whose variables are outside the strategy.
    model = networks.build(config.model, precision=plan.precision, seed=config.seed)
    model.set_weights(trainer.model.get_weights())
    answers = temperature, images, result.probabilities, plan.precision
    for name in (files.join(directory.SAVED_MODEL, str(progress.step)), directory.KERAS):
        export.publish(model, files.join(config.model_dir, name), *answers)
    clock.lap("export")
    metrics = _metrics(plan, trainer, dataset, progress, result)
    metrics |= {"temperature": temperature, "resumed_from_step": resumed_from}
    _write_pictures(config.model_dir, metrics, progress, images, result)
    clock.lap("pictures")
    metrics |= {"wall_seconds": clock.total, "seconds": clock.seconds, "finished": True}
    directory.write_json(config.model_dir, directory.METRICS, metrics)
    _print_result(config, metrics, console)


def _metrics(
    plan: Plan, trainer: Trainer, dataset: Dataset, progress: Progress, result: Evaluation
) -> dict[str, Any]:
    config, count = plan.config, len(dataset.test_labels)
    rate = progress.steady_examples / progress.steady_seconds if progress.steady_seconds else None
    # This process may be a chief that came back alone to finish, on other devices.
    trained_on = directory.read(config.model_dir).resolved
    return {
        "dataset": dataset.name,
        "model": config.model,
        "parameters": trainer.model.count_params(),
        "epochs": config.epochs,
        "steps": progress.step,
        "examples_train": plan.examples,
        "examples_validation": config.validation_examples,
        "examples_test": count,
        "test_loss": result.loss,
        "test_accuracy": result.accuracy,
        "test_accuracy_interval": evaluation.wilson_interval(count - len(result.mistakes), count),
        "test_calibration_error": result.calibration_error,
        "validation_accuracy": progress.history[-1]["validation_accuracy"],
        "train_seconds": round(progress.train_seconds, 3),
        "examples_per_second": rate and round(rate),
        **{name: trained_on[name] for name in ("strategy", "replicas", "workers")},
        "precision": plan.precision,
        "jit_compile": trained_on["jit_compile"] != "off",
        "seed": config.seed,
        "weights_sha256": trainer.weights_sha256(),
    }


def _write_pictures(
    path: str, metrics: dict[str, Any], progress: Progress, images: np.ndarray, result: Evaluation
) -> None:
    model, data = metrics["model"], metrics["dataset"]
    title = f"{model} reads {result.accuracy:.2%} of {len(images):,} {data} test digits right"
    picture = figures.predictions(images, result, title=title)
    files.write_bytes(files.join(path, directory.PREDICTIONS), picture)
    if data != "fashion_mnist":  # clothes make no number
        picture = sample.draw(images, result.labels, metrics["seed"])
        files.write_bytes(files.join(path, directory.SAMPLE), picture)
    drawn = figures.report_figures(progress.history, images, result)
    for name, svg in drawn.items():
        files.write_text(files.join(path, directory.FIGURES, f"{name}.svg"), svg)
    record = json.loads(files.read_text(files.join(path, directory.CONFIG)))
    content = report.page(path, metrics, record, drawn)
    files.write_text(files.join(path, directory.REPORT), content)


def _print_result(config: Config, metrics: dict[str, Any], console: Console) -> None:
    count, accuracy = metrics["examples_test"], metrics["test_accuracy"]
    low, high = metrics["test_accuracy_interval"]
    console.line(
        f"test    {accuracy:.2%} of {count:,} {metrics['dataset']} digits read right"
        f" (95 % interval {low:.2%} to {high:.2%}),"
        f" {counted(round(count * (1 - accuracy)), 'mistake')};"
        f" calibrated loss {metrics['test_loss']:.4f}"
    )
    if accuracy < 0.2:  # of ten classes
        console.line(
            "        hardly better than guessing; try more --epochs, or a lower --learning_rate"
            f" than {config.learning_rate:g}"
        )
    rate, origin = metrics["examples_per_second"], "fitted on the validation digits"
    if metrics["temperature"] == RECIPES[config.model].temperature:
        origin = "the recipe's: too few validation digits are misread to fit one"
    speed = f"; {rate:,} digits/s once compiled" if rate else ""
    own, since = ",", ""
    if metrics["resumed_from_step"] is not None:
        phases = [metrics["seconds"].get(name, 0) for name in ("graph", "first_loop", "training")]
        own, since = f", {sum(phases):.1f} s of it and", " since it was resumed"
    path, parent = config.model_dir, os.path.dirname(config.model_dir)
    runs = parent if parent == "runs" else path  # any other may be somebody's home
    python = shlex.quote(min(sys.executable, os.path.relpath(sys.executable), key=len))
    python += " -I" * sys.flags.isolated  # as train.sh starts it
    console.line(
        f"calib   expected calibration error {metrics['test_calibration_error']:.2%} at temperature"
        f" {metrics['temperature']:.3f}, {origin}\n"
        f"time    {metrics['train_seconds']:.1f} s training{own}"
        f" {metrics['wall_seconds']:.1f} s in all{since}{speed}\n\n"
        f"Everything is in {path}: report.html, predictions.png, metrics.json, saved_model/\n"
        f"  see the curves   {python} -m tensorboard.main --logdir={shlex.quote(runs)}\n"
        "                   (what TensorFlow prints there before the address is harmless)"
    )
    _print_how_to_read(config, python, console)


def _print_how_to_read(config: Config, python: str, console: Console) -> None:
    path = files.join(config.model_dir, directory.SAMPLE)
    picture = path if files.is_local(path) and files.exists(path) else "image.png"
    where = f"--model_dir={shlex.quote(config.model_dir)} {shlex.quote(picture)}"
    hint = "or a photo of your own"
    if (config.model, config.dataset, config.init_from) == ("mlp", "mnist", None):
        mlp, cnn = (f"{NUMBERS_READ[model]:.0%}" for model in ("mlp", "cnn"))
        hint += f": mlp reads {mlp} of photographed numbers, --model cnn {cnn}"
    console.line(f"  read a number    {python} -m trainer.predict {where}\n{'':19}({hint})")
