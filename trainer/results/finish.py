"""What finishes a run: the test, the calibrated export, pictures, report and `metrics.json`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.data import Dataset
from trainer.model import networks
from trainer.model.recipes import RECIPES
from trainer.model.trainer import Trainer
from trainer.plan import Plan
from trainer.process.clock import Clock
from trainer.process.console import Console, counted
from trainer.results import evaluation, export, figures, report
from trainer.results.evaluation import Evaluation
from trainer.results.reporter import Reporter
from trainer.run import directory as run_directory
from trainer.run import files
from trainer.run.checkpoints import Progress


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

    All results are of the calibrated probabilities, as the export gives them, `test_loss` too; in
    TensorBoard the test's loss is of the logits as they are, to compare with the other curves.

    Raises:
      RuntimeError: the exported model answers differently.
      OSError, tf.errors.OpError: the directory cannot be written.
    """
    console.progress(1.0, "testing, exporting, drawing")
    directory, images, labels = plan.config.model_dir, dataset.test_images, dataset.test_labels
    logits = trainer.logits(images)
    temperature = _temperature(plan, trainer, dataset)
    result = evaluation.evaluate(logits, labels, temperature)
    clock.lap("test")
    reporter.tested(progress, evaluation.evaluate(logits, labels))
    reporter.close()
    clock.lap("summaries")
    _export(plan, trainer, images, result, step=progress.step, temperature=temperature)
    clock.lap("export")
    metrics = _metrics(plan, trainer, dataset, progress, result)
    metrics |= {"temperature": temperature, "resumed_from_step": resumed_from}
    picture = figures.predictions(images, result, title=report.headline(metrics))
    files.write_bytes(files.join(directory, run_directory.PREDICTIONS), picture)
    drawn = figures.report_figures(progress.history, images, result)
    report.write(metrics, drawn, directory)
    clock.lap("pictures")
    metrics |= {"wall_seconds": clock.total, "seconds": clock.seconds, "finished": True}
    run_directory.write_json(directory, run_directory.METRICS, metrics)
    _print_result(plan, metrics, console)


def _temperature(plan: Plan, trainer: Trainer, dataset: Dataset) -> float:
    if not plan.config.validation_examples:
        return RECIPES[plan.config.model].temperature
    logits = trainer.logits(dataset.train_images[plan.examples :])
    return evaluation.fit_temperature(logits, dataset.train_labels[plan.examples :])


def _export(
    plan: Plan,
    trainer: Trainer,
    images: np.ndarray,
    result: Evaluation,
    *,
    step: int,
    temperature: float,
) -> None:
    config = plan.config
    # A copy, whose variables are outside the strategy.
    model = networks.build(config.model, precision=plan.precision, seed=config.seed)
    model.set_weights(trainer.model.get_weights())
    export.publish(
        model,
        files.join(config.model_dir, run_directory.SAVED_MODEL),
        step,
        temperature=temperature,
        images=images,
        probabilities=result.probabilities,
        precision=plan.precision,
    )


def _metrics(
    plan: Plan, trainer: Trainer, dataset: Dataset, progress: Progress, result: Evaluation
) -> dict[str, Any]:
    """Returns the entries of `metrics.json` that do not depend on this process."""
    config, count = plan.config, len(dataset.test_labels)
    rate = progress.steady_examples / progress.steady_seconds if progress.steady_seconds else None
    # This process may be a chief that came back alone to finish, on other devices.
    trained_on = run_directory.read(config.model_dir).resolved
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
        "test_accuracy_interval": evaluation.wilson_interval(count - result.mistakes, count),
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


def _print_result(plan: Plan, metrics: Mapping[str, Any], console: Console) -> None:
    config, line = plan.config, console.line
    count, accuracy = metrics["examples_test"], metrics["test_accuracy"]
    low, high = metrics["test_accuracy_interval"]
    line(
        f"test    {accuracy:.2%} of {count:,} {metrics['dataset']} digits read right"
        f" (95 % interval {low:.2%} to {high:.2%}),"
        f" {counted(round(count * (1 - accuracy)), 'mistake')}; loss {metrics['test_loss']:.4f}"
    )
    if accuracy < 0.2:  # of ten classes
        line(
            "        hardly better than guessing; try more --epochs, or a lower --learning_rate"
            f" than {config.learning_rate:g}"
        )
    origin = "fitted on the validation digits"
    if not config.validation_examples:
        origin = f"of the recipe of {config.model}: no validation digits to fit it on"
    line(
        f"calib   expected calibration error {metrics['test_calibration_error']:.2%} at temperature"
        f" {metrics['temperature']:.3f}, {origin}"
    )
    rate = metrics["examples_per_second"]
    # A resumed run has trained before this process began.
    whole = "in all" if metrics["resumed_from_step"] is None else "since it was resumed"
    line(
        f"time    {metrics['train_seconds']:.1f} s training"
        f"{f' at {rate:,} digits/s' if rate else ''}, {metrics['wall_seconds']:.1f} s {whole}"
    )
    line()
    where = config.model_dir
    line(f"Everything is in {where}: report.html, predictions.png, metrics.json, saved_model/")
    runs, where = shlex.quote(os.path.dirname(where) or where), shlex.quote(where)
    # This Python, whose environment need not be activated.
    python = shlex.quote(min(sys.executable, os.path.relpath(sys.executable), key=len))
    line(f"  see the curves   {python} -m tensorboard.main --logdir {runs}")
    line(f"  read your own    {python} -m trainer.predict --model_dir {where} image.png")
