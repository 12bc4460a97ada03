"""What finishes a run: calibrated results, the interval, the phases; and what the loop reports."""

import json
import pathlib
import re
import shlex
import subprocess
import types
import urllib.request

import conftest
import numpy as np
import pytest
import runs
import tensorflow as tf
from PIL import Image

from trainer.config import Config
from trainer.data import pipeline
from trainer.recipes import RECIPES
from trainer.results import evaluation


def served(directory: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """The probabilities that a run's SavedModel gives."""
    version = str(runs.metrics(directory)["steps"])
    model = tf.saved_model.load(str(directory / "saved_model" / version))
    answer = model.signatures["serving_default"](images=tf.constant(images))
    return answer["probabilities"].numpy()


def test_the_metrics_are_those_of_the_exported_probabilities(trained: conftest.Run) -> None:
    metrics = runs.metrics(trained.directory)
    train_images, train_labels, images, labels = runs.tiny_arrays()
    answers = served(trained.directory, images)
    result = evaluation.evaluate(np.log(answers), labels)
    assert metrics["test_loss"] == pytest.approx(result.loss, rel=1e-4)
    assert metrics["test_accuracy"] == result.accuracy
    assert metrics["test_calibration_error"] == pytest.approx(result.calibration_error, abs=1e-4)
    interval = evaluation.wilson_interval(runs.TEST - len(result.mistakes), runs.TEST)
    assert metrics["test_accuracy_interval"] == pytest.approx(interval)
    # Another temperature on top of the one that was fitted makes the validation digits no better.
    held_out = slice(len(train_images) - runs.VALIDATION, None)
    logits = np.log(np.maximum(served(trained.directory, train_images[held_out]), 1e-30))
    again = evaluation.fit_temperature(logits, train_labels[held_out])
    assert again == pytest.approx(1, rel=0.01)
    assert metrics["temperature"] != 1


def test_the_printed_commands_work_as_they_stand(server, tiny_dir, tmp_path) -> None:
    directory = f"{tmp_path}/it's a $HOME/exp[lr=0.1]"
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={directory}", "--epochs=1")
    out = server(*flags, "--jit_compile=off").out
    commands = re.findall(r"^  .*   (\S+ (?:-I )?-m .*)$", out, re.M)
    options = {"env": runs.environment(PYTHONPATH=str(runs.ROOT)), "cwd": tmp_path}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(["sh", "-c", f"exec {each}"], **options) for each in commands]
    assert len(started) >= 2
    for command, process in zip(commands, started, strict=True):
        with process:
            if "tensorboard" in command:
                address = next(filter(None, map(re.compile(r"http://\S+").search, process.stdout)))
                with urllib.request.urlopen(f"{address[0]}data/environment") as answer:
                    assert json.load(answer)["data_location"] == directory
                process.terminate()
            else:
                said = process.communicate()[0]
                assert process.returncode in (0, 3), said  # so short a run may read nothing


@pytest.mark.parametrize("validation_examples", [0, 4])
def test_without_validation_digits_that_tell_the_recipes_temperature_stands_in(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path, validation_examples
) -> None:
    directory = tmp_path / "run"
    answer = server(
        *(f"--validation_examples={validation_examples}", "--batch_size=50", "--epochs=1"),
        *("--jit_compile=off", f"--data_dir={tiny_dir}", f"--model_dir={directory}"),
    )
    metrics = runs.metrics(directory)
    assert metrics["temperature"] == RECIPES["mlp"].temperature
    assert "recipe" in answer.out
    if not validation_examples:
        assert metrics["validation_accuracy"] is None
        assert runs.history(directory)[0]["validation_loss"] == ""


def test_the_phases_add_up_and_the_history_is_a_row_an_epoch(trained: conftest.Run) -> None:
    metrics = runs.metrics(trained.directory)
    assert sum(metrics["seconds"].values()) == pytest.approx(metrics["wall_seconds"], abs=0.1)
    assert {"training", "validation", "test", "export", "pictures"} <= set(metrics["seconds"])
    assert metrics["finished"] is True
    rows = runs.history(trained.directory)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "10"), ("2", "20"), ("3", "30")]
    assert rows[-1]["validation_accuracy"] == str(metrics["validation_accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "epochs"), [("mlp", 5), ("cnn", 1)])
def test_on_mnist_probabilities_are_calibrated_and_the_printed_command_reads_the_sample(
    server: runs.TaskServer, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, model, epochs
) -> None:
    directory = tmp_path / "run"
    flags = (f"--model={model}", f"--epochs={epochs}", f"--data_dir={mnist_dir}")
    answer = server(*flags, f"--model_dir={directory}")
    assert runs.metrics(directory)["test_calibration_error"] < 0.01
    (command,) = (line for line in answer.out.splitlines() if "trainer.predict" in line)
    command = shlex.split(command.partition("read a number")[2])
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    number = Image.open(directory / "sample.png").text["number"]
    assert number in done.stdout.splitlines()[-1].split(), done.stderr


def test_the_first_digits_are_shown_as_they_are_trained_on(trained: conftest.Run) -> None:
    record = json.loads((trained.directory / "config.json").read_text())
    plan = types.SimpleNamespace(config=Config(**record["config"]), steps_per_loop=4, total_steps=4)
    images, labels, _, _ = runs.tiny_arrays()
    [batches] = pipeline.training_batches(images[:500], labels[:500], plan)
    digits = np.concatenate(next(iter(batches))[0].numpy())[:128]
    [picture] = (
        tf.io.decode_png(tf.make_ndarray(value.tensor)[2]).numpy()[..., 0]
        for event in runs.events(trained.directory / "tensorboard" / "train")
        for value in event.summary.value
        if value.tag == "input_digits"
    )
    cells = picture.reshape(-1, 29, 16, 29).swapaxes(1, 2).reshape(-1, 29, 29)
    np.testing.assert_array_equal(cells[:128, :28, :28], digits)


def test_a_profile_of_the_steps_asked_for_is_there(server, tiny_dir, tmp_path) -> None:
    directory = tmp_path / "run"
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={directory}", "--epochs=1")
    server(*flags, "--jit_compile=off", "--profile=3,6")
    train = directory / "tensorboard" / "train"
    assert list((train / "plugins" / "profile").glob("*/*.xplane.pb"))
    assert runs.scalar_steps(train, "loss") == [2, 4, 6, 8, 10]
