"""The training step, and the loop over steps that runs inside one tf.function.

One code path for every strategy: `strategy.run` computes each replica's gradients, they are summed,
and every copy of the weights takes the same update.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.cluster.devices import Devices
from trainer.model import networks
from trainer.model.optimizer import AdamW
from trainer.plan import Plan

_INFERENCE_BATCH = 200


@dataclasses.dataclass(frozen=True)
class LoopResult:
    """What one call of the training loop did; means over its steps."""

    steps: int
    loss: float  # cross-entropy in nats an example, without label smoothing
    accuracy: float  # share of right answers, in training mode
    gradient_norm: float  # L2 norm over all weights
    failed_step: int | None  # the first not finite, but for float16 overflows that are skipped


class Trainer:
    """A model, its optimizer, and the compiled loop over them, on a strategy's devices."""

    def __init__(self, plan: Plan, devices: Devices):
        self._config, self._devices, self._strategy = plan.config, devices, devices.strategy
        with self._strategy.scope():
            self.model = networks.build(
                plan.config.model,
                precision=plan.precision,
                jit_compile=plan.jit_compile != "off",
                seed=plan.config.seed,
            )
            self._weights = [variable.value for variable in self.model.trainable_variables]
            self.optimizer = AdamW(self._weights, self._strategy, plan)
        self.learning_rate = self.optimizer.learning_rate
        xla_loop, self._gradients = plan.jit_compile == "loop", self._replica_gradients
        self._loop = tf.function(self._loop_body, jit_compile=xla_loop, autograph=False)
        if plan.jit_compile == "step":
            self._gradients = tf.function(self._gradients, jit_compile=True, autograph=False)
        images = tf.TensorSpec((None, 28, 28), tf.uint8)
        self._logits = tf.function(self._inference, input_signature=[images], autograph=False)

    def checkpoint_items(self) -> dict[str, list[tf.Variable]]:
        """Returns all that training changes, by the names it has in a checkpoint."""
        model = [variable.value for variable in self.model.variables]
        return {"model": model, "optimizer": self.optimizer.variables}

    def trace(self, batches: Iterator[Any]) -> None:
        """Builds the loop's graph for the elements of `pipeline.distribute`, ahead of `run`."""
        if isinstance(batches, tf.data.Iterator):  # what is for several devices has no spec
            bounds = [tf.TensorSpec((), tf.int32)] * 3
            self._loop.get_concrete_function(batches.element_spec, *bounds)

    def run(self, superbatch: tuple, base_step: int, first_step: int, last_step: int) -> LoopResult:
        """Trains on first_step ... last_step - 1 of a superbatch that begins at base_step."""
        bounds = base_step, first_step - base_step, last_step - base_step
        totals = self._loop(superbatch, *(tf.constant(bound, tf.int32) for bound in bounds))
        loss, correct, norm, failed = (float(total) for total in totals.numpy())
        steps = last_step - first_step
        return LoopResult(
            steps=steps,
            loss=loss / steps,
            accuracy=correct / (steps * self._config.batch_size),
            gradient_norm=norm / steps,
            failed_step=None if math.isinf(failed) else base_step + int(failed),
        )

    def _loop_body(self, superbatch, base, first, last):
        """Returns float32 [4]: sums of loss, right answers, gradient norm; first failed step."""

        def step(i, totals, failed):
            gradients, counts = self._strategy.run(
                lambda images, labels: self._gradients(images[i], labels[i]), superbatch
            )
            *gradients, counts = self._strategy.extended.batch_reduce_to(
                tf.distribute.ReduceOp.SUM,
                [*zip(gradients, self._weights, strict=True), (counts, self._weights[0])],
            )
            norm, healthy = self.optimizer.apply(gradients, base + i)
            counts = self._strategy.experimental_local_results(counts)[0]
            healthy &= tf.math.is_finite(counts[0])
            failed = tf.minimum(failed, tf.where(healthy, math.inf, tf.cast(i, tf.float32)))
            return i + 1, totals + tf.concat([counts, norm[None]], 0), failed

        # Explicit while_loop: AutoGraph conversion costs a second. No tf.range: XLA would compile
        # its bounds in.
        start = first, tf.zeros((3,)), tf.constant(math.inf)
        _, totals, failed = tf.while_loop(lambda i, *_: i < last, step, start)
        return tf.concat([totals, failed[None]], 0)

    def _replica_gradients(self, images, labels):
        """One replica's part of the gradient of the mean loss, and of [loss, right answers]."""
        pixels = tf.cast(images, tf.float32) / 255
        smoothing, batch = self._config.label_smoothing, self._config.batch_size
        with tf.GradientTape() as tape:
            logits = self.model(pixels, training=True)
        target, log_probabilities = tf.one_hot(labels, 10), tf.nn.log_softmax(logits)
        if self._config.outliers:
            smoothing = tf.where(labels < 10, smoothing, 1.0)[:, None]
        smoothed = target * (1 - smoothing) + smoothing / 10
        # The gradient of the mean cross-entropy by the logits, in closed form.
        slope = (tf.exp(log_probabilities) - smoothed) / batch
        if self.optimizer.loss_scale is not None:
            slope *= self.optimizer.loss_scale
        gradients = tape.gradient(logits, self._weights, output_gradients=slope)
        loss = -tf.reduce_sum(target * log_probabilities) / batch
        right = tf.argmax(logits, 1, tf.int32) == labels
        return gradients, tf.stack([loss, tf.reduce_sum(tf.cast(right, tf.float32))])

    def is_finite(self, superbatch: tuple) -> bool:
        """Returns whether the weights, and their logits for some of a superbatch's digits, are."""
        images = getattr(superbatch[0], "values", superbatch[:1])[0][0, :8]
        return math.isfinite(tf.linalg.global_norm([*self._weights, self._logits(images)]))

    def _inference(self, images):
        with tf.device(f"/{self._devices.hardware.kind}:0"):
            return networks.logits(self.model, images)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [n, 10] for uint8 [n, 28, 28], computed by this process alone."""
        batches = range(0, len(images), _INFERENCE_BATCH)
        parts = [self._logits(images[i : i + _INFERENCE_BATCH]).numpy() for i in batches]
        return np.concatenate(parts) if parts else np.zeros((0, 10), np.float32)

    def inference_graph(self) -> tf.Graph:
        """Returns the graph of `logits`."""
        return self._logits.get_concrete_function().graph

    def weights_sha256(self) -> str:
        """Returns the SHA-256 over the weights: little-endian float32, C order, layer by layer."""
        weights = [np.asarray(weight, "<f4").tobytes() for weight in self.model.get_weights()]
        return hashlib.sha256(b"".join(weights)).hexdigest()
