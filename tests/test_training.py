"""The training step and the loop around it, against the formulas in plain numpy and against
themselves on other devices.
"""

from __future__ import annotations

import itertools
import math
import pathlib

import numpy as np
import pytest
import runs
import tensorflow as tf

from trainer.cluster.devices import Cluster, Devices
from trainer.config import Config
from trainer.data import pipeline
from trainer.model import networks
from trainer.model import trainer as training
from trainer.model.trainer import BETA_1, BETA_2, EPSILON, Trainer, evaluate

TOTAL = 40


def config(**more: object) -> Config:
    settings = {"batch_size": 50, "augment": "none", "learning_rate": 2e-3} | more
    return Config(**settings).resolved()


def trainer(
    settings: Config, *, precision: str = "float32", jit_compile: str = "off", total: int = TOTAL
) -> Trainer:
    devices = Devices(tf.distribute.OneDeviceStrategy("/CPU:0"), "cpu", "CPU", "/CPU:0", Cluster())
    return Trainer(
        settings, devices, precision=precision, jit_compile=jit_compile, total_steps=total
    )


def batches(settings: Config, steps: int = 10):
    """One superbatch of the tiny data set."""
    images, labels = runs.tiny_arrays()[:2]
    return next(
        iter(
            pipeline.training_batches(
                images,
                labels,
                global_batch_size=settings.batch_size,
                seed=settings.seed,
                augment=settings.augment,
                first_step=0,
                last_step=steps,
                steps_per_loop=steps,
            )
        )
    )


class Reference:
    """The dense network and AdamW in float64, as the papers have them."""

    def __init__(self, weights: list[np.ndarray], settings: Config, total: int = TOTAL):
        self.weights = [weight.astype(np.float64) for weight in weights]
        self.momentum = [np.zeros_like(weight) for weight in self.weights]
        self.velocity = [np.zeros_like(weight) for weight in self.weights]
        self.settings, self.total, self.time = settings, total, 0

    def rate(self) -> float:
        """One cycle: up in a line, down in a half cosine."""
        rise = self.settings.warmup * self.total
        if self.time < rise:
            return self.settings.learning_rate * self.time / rise
        share = (self.time - rise) / (self.total + 1 - rise)
        return self.settings.learning_rate * (1 + math.cos(math.pi * share)) / 2

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
        """Takes one step; returns loss without smoothing, accuracy and gradient norm before it."""
        w1, b1, w2, b2 = self.weights
        pixels = images.reshape(len(images), -1) / 255
        hidden = np.maximum(pixels @ w1 + b1, 0)
        logits = hidden @ w2 + b2
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        target = np.eye(10)[labels]
        smoothing = self.settings.label_smoothing
        wrong = (shares - (target * (1 - smoothing) + smoothing / 10)) / len(images)
        back = wrong @ w2.T * (hidden > 0)
        gradients = [pixels.T @ back, back.sum(0), hidden.T @ wrong, wrong.sum(0)]
        self.time += 1
        rate = self.rate()
        corrected = rate * math.sqrt(1 - BETA_2**self.time) / (1 - BETA_1**self.time)
        for i, gradient in enumerate(gradients):
            self.momentum[i] = BETA_1 * self.momentum[i] + (1 - BETA_1) * gradient
            self.velocity[i] = BETA_2 * self.velocity[i] + (1 - BETA_2) * gradient**2
            if gradient.ndim > 1:
                self.weights[i] = self.weights[i] * (1 - rate * self.settings.weight_decay)
            change = corrected * self.momentum[i] / (np.sqrt(self.velocity[i]) + EPSILON)
            self.weights[i] = self.weights[i] - change
        loss = -np.log(shares[np.arange(len(labels)), labels]).mean()
        right = (logits.argmax(1) == labels).mean()
        norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
        return loss, right, norm


@pytest.mark.parametrize("jit_compile", ["off", "step", "loop"])
def test_the_loop_is_adamw_on_the_smoothed_cross_entropy(jit_compile: str) -> None:
    settings = config(weight_decay=0.05, label_smoothing=0.2, warmup=0.1)
    model = trainer(settings, jit_compile=jit_compile)
    reference = Reference(model.model.get_weights(), settings)
    images, labels = batches(settings)
    told = [reference.step(*batch) for batch in zip(images.numpy(), labels.numpy(), strict=True)]
    result = model.run((images, labels), 0, 0, 10)
    assert result.failed_step is None
    assert result.steps == 10
    means = np.mean(told, 0)
    assert result.loss == pytest.approx(means[0], rel=1e-4)
    assert result.accuracy == pytest.approx(means[1], abs=1e-6)
    assert result.gradient_norm == pytest.approx(means[2], rel=1e-4)
    for weight, expected in zip(model.model.get_weights(), reference.weights, strict=True):
        # float32 against float64: a hundredth of one step's change.
        np.testing.assert_allclose(weight, expected, atol=settings.learning_rate / 100)


def test_each_network_of_a_committee_learns_alone_and_they_answer_from_five_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Else Adam makes a whole step of how a gradient is rounded that is next to nothing, and the
    # same step of a gradient of any other scale.
    monkeypatch.setattr(training, "EPSILON", 1e-3)
    given = {"weight_decay": 0.05, "label_smoothing": 0.2, "warmup": 0.1}
    together = trainer(config(model="convnet", **given))
    members = together.model.layers[-1].members
    monkeypatch.setitem(networks.MODELS, "cnn", (networks.MODELS["convnet"][0], 1))
    alone = [trainer(config(model="cnn", **given)) for _ in members]
    for member, single in zip(members, alone, strict=True):
        single.model.set_weights(member.get_weights())
    kernels = [member.get_weights()[0] for member in members]
    assert all(np.abs(kernels[0] - other).max() > 0.01 for other in kernels[1:])

    superbatch = batches(config(), 3)
    result = together.run(superbatch, 0, 0, 3)
    results = [single.run(superbatch, 0, 0, 3) for single in alone]
    assert result.loss == pytest.approx(np.mean([each.loss for each in results]), rel=1e-5)
    assert result.accuracy == pytest.approx(np.mean([each.accuracy for each in results]))
    for member, single in zip(members, alone, strict=True):
        for weight, expected in zip(member.get_weights(), single.model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-5)
    images = runs.tiny_arrays()[0][:30]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    places = (1, 1), (0, 1), (2, 1), (1, 0), (1, 2)
    looks = [padded[:, top : top + 28, left : left + 28] for top, left in places]
    mean = np.mean([single.logits(look) for single in alone for look in looks], 0)
    np.testing.assert_allclose(together.logits(images), mean, atol=1e-3)


def test_calls_of_any_length_make_the_same_weights() -> None:
    settings = config(augment="shift")
    superbatch = batches(settings)
    whole, parts = trainer(settings), trainer(settings)
    together = whole.run(superbatch, 0, 0, 10)
    edges = [0, 1, 4, 9, 10]
    results = [parts.run(superbatch, 0, *edge) for edge in itertools.pairwise(edges)]
    assert whole.weights_sha256() == parts.weights_sha256()
    assert sum(r.loss * r.steps for r in results) == pytest.approx(together.loss * 10, rel=1e-6)
    assert [r.steps for r in results] == [1, 3, 5, 1]


def test_the_loop_is_traced_once_and_for_all() -> None:
    settings = config(augment="shift")
    model, superbatch = trainer(settings), batches(settings)
    model.trace(tf.nest.map_structure(tf.TensorSpec.from_tensor, superbatch))
    model.run(superbatch, 0, 0, 3)
    model.run(superbatch, 0, 3, 10)
    assert model._loop.experimental_get_tracing_count() == 1


def test_two_trainers_of_one_seed_are_bit_identical_and_of_two_seeds_are_not() -> None:
    settings, other = config(), config(seed=2)
    one, same, another = trainer(settings), trainer(settings), trainer(other)
    assert one.weights_sha256() == same.weights_sha256() != another.weights_sha256()
    for model in (one, same):
        model.run(batches(settings), 0, 0, 10)
    assert one.weights_sha256() == same.weights_sha256()


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.2), (40, 0.0), (1, 0.2), (3, 0.9)])
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(total: int, warmup: float) -> None:
    settings = config(warmup=warmup, learning_rate=0.5)
    model = trainer(settings, total=total)
    rates = [float(model.learning_rate(step)) for step in range(total)]
    reference = Reference([], settings, total)
    for step, rate in enumerate(rates):
        reference.time = step + 1
        assert rate == pytest.approx(reference.rate(), abs=1e-6)
    assert all(0 < rate <= 0.5 for rate in rates)
    if total == 100:
        peak = int(np.argmax(rates))
        assert peak == 19
        assert rates[peak] == pytest.approx(0.5)
        assert rates[:20] == sorted(rates[:20])
        assert rates[19:] == sorted(rates[19:], reverse=True)
        assert rates[-1] < 0.001


def test_a_diverged_step_is_told_by_its_number() -> None:
    settings = config()
    model = trainer(settings)
    images, labels = batches(settings)
    first = model.run((images, labels), 0, 0, 3)
    assert first.failed_step is None
    model.model.get_layer("logits").kernel.assign(tf.fill((128, 10), math.inf))
    assert model.run((images, labels), 0, 3, 10).failed_step == 3


def test_a_diverged_step_is_told_within_a_compiled_loop() -> None:
    """A rate that throws the weights out of float32 in the first step fails the second."""
    settings = config(learning_rate=1e38, warmup=0.0)
    model = trainer(settings, jit_compile="loop")
    assert model.run(batches(settings), 20, 20, 30).failed_step == 21


@pytest.mark.parametrize("jit_compile", ["off", "loop"])
def test_float16_skips_an_overflow_and_halves_the_scale(jit_compile: str) -> None:
    settings = config()
    model = trainer(settings, precision="float16", jit_compile=jit_compile)
    superbatch = batches(settings)
    before = model.weights_sha256()
    model.loss_scale.assign(2.0**100)
    model.steps_since_scaling.assign(5)
    result = model.run(superbatch, 0, 0, 1)
    assert result.failed_step is None
    assert model.weights_sha256() == before
    assert model.loss_scale.numpy() == 2.0**99
    assert model.steps_since_scaling.numpy() == 0
    model.loss_scale.assign(2.0**10)
    result = model.run(superbatch, 0, 1, 4)
    assert model.weights_sha256() != before
    assert model.loss_scale.numpy() == 2.0**10
    assert model.steps_since_scaling.numpy() == 3
    assert math.isfinite(result.gradient_norm)


def test_float16_doubles_the_scale_after_a_long_calm() -> None:
    settings = config()
    model = trainer(settings, precision="float16")
    model.loss_scale.assign(2.0**10)
    model.steps_since_scaling.assign(1999)
    model.run(batches(settings), 0, 0, 1)
    assert model.loss_scale.numpy() == 2.0**11
    assert model.steps_since_scaling.numpy() == 0


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_learns_what_float32_learns(precision: str) -> None:
    settings = config()
    half, full = trainer(settings, precision=precision), trainer(settings)
    superbatch = batches(settings)
    losses = [model.run(superbatch, 0, 0, 10).loss for model in (half, full)]
    # bfloat16 keeps 8 bits, and ten steps let rounding add up.
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {weight.dtype for weight in half.model.get_weights()} == {np.dtype(np.float32)}
    norms = [model.run(superbatch, 0, 9, 10).gradient_norm for model in (half, full)]
    assert norms[0] == pytest.approx(norms[1], rel=0.2)


@pytest.mark.parametrize("count", [0, 1, 7, 1000, 1001, 2345])
def test_logits_answer_every_example_once_in_its_place(count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    model = trainer(config())
    logits = model.logits(images)
    assert logits.shape == (count, 10)
    assert logits.dtype == np.float32
    if count:
        direct = model.model(images.astype(np.float32) / 255, training=False)
        np.testing.assert_allclose(logits, direct, atol=1e-5)


def test_evaluate_is_the_mean_cross_entropy_and_the_share_of_right_answers() -> None:
    logits = np.array([[1, 2, 3], [1000, -1000, 0], [0, 0, 0]], np.float32)
    labels = np.array([2, 1, 0])
    loss, accuracy = evaluate(logits, labels)
    expected = [math.log(math.exp(-2) + math.exp(-1) + 1), 2000, math.log(3)]
    assert loss == pytest.approx(np.mean(expected))
    assert accuracy == pytest.approx(2 / 3)


def test_every_weight_counts_in_the_digest() -> None:
    model = trainer(config())
    weights = model.model.get_weights()
    digests = {model.weights_sha256()}
    for i in range(len(weights)):
        changed = [weight.copy() for weight in weights]
        changed[i].flat[-1] += 1
        model.model.set_weights(changed)
        digests.add(model.weights_sha256())
    assert len(digests) == len(weights) + 1 == 5


@pytest.fixture(scope="module")
def on_devices(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, pathlib.Path]:
    """Runs of 50 steps on one, two and four devices; TensorFlow splits the CPU once a process.

    On two of them XLA compiles the gradients.
    """
    place = tmp_path_factory.mktemp("devices")
    flags = (
        *("--batch_size=20", "--epochs=2", "--steps_per_loop=5"),
        *(f"--validation_examples={runs.VALIDATION}", f"--data_dir={tiny_dir}"),
    )
    several = {
        count: runs.task(
            *flags,
            f"--virtual_devices={count}",
            f"--model_dir={place / str(count)}",
            f"--jit_compile={'on' if count == 2 else 'off'}",
        )
        for count in (2, 4)
    }
    server(*flags, f"--model_dir={place / '1'}", "--jit_compile=off")
    for process in several.values():
        said = process.communicate()[1]
        assert process.returncode == 0, said
        assert said == ""
    return {count: place / str(count) for count in (1, 2, 4)}


def losses(directory: pathlib.Path) -> list[float]:
    return [
        float(tf.make_ndarray(value.tensor))
        for event in runs.events(directory / "tensorboard" / "train")
        for value in event.summary.value
        if value.tag == "loss"
    ]


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_devices_does_not_matter(
    on_devices: dict[int, pathlib.Path], count: int
) -> None:
    one, several = on_devices[1], on_devices[count]
    # The sum of the replicas' gradients rounds differently.
    np.testing.assert_allclose(losses(several), losses(one), atol=1e-4)
    assert len(losses(one)) == 10
    found, expected = runs.metrics(several), runs.metrics(one)
    assert found["replicas"] == count
    assert found["strategy"] == "mirrored"
    assert found["jit_compile"] == (count == 2)
    assert found["steps"] == expected["steps"] == 50
    assert found["test_loss"] == pytest.approx(expected["test_loss"], abs=1e-4)
    assert found["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_test_example_counts_once_on_any_number_of_devices(
    on_devices: dict[int, pathlib.Path], count: int
) -> None:
    found = runs.metrics(on_devices[count])
    assert found["examples_test"] == runs.TEST
    right = found["test_accuracy"] * runs.TEST
    assert right == pytest.approx(round(right), abs=1e-9)
    right = found["validation_accuracy"] * runs.VALIDATION
    assert right == pytest.approx(round(right), abs=1e-9)
