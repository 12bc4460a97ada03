"""The train step, the loop around it that runs inside one tf.function, and the exact evaluation.

One code path for every strategy: the superbatch goes to `strategy.run` step by step, the gradients
of the replicas are summed, and every copy of the weights takes the same update. Nothing here reads
or writes a file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
import tensorflow as tf

from trainer.cluster.devices import Devices
from trainer.config import Config
from trainer.model import networks

# AdamW: Loshchilov and Hutter, https://arxiv.org/abs/1711.05101, with Adam's constants but for a
# shorter memory of squared gradients, as suits runs of a few thousand steps.
BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-7

# float16 loss scaling as of Micikevicius et al., https://arxiv.org/abs/1710.03740, section 3.2.
FIRST_LOSS_SCALE, STEPS_TO_DOUBLE = 2.0**15, 2000

_EVALUATION_BATCH = 200


@dataclasses.dataclass(frozen=True)
class LoopResult:
    """What a call of the training loop returns: means over its steps.

    Attributes:
      steps: how many it ran.
      loss: cross-entropy in nats an example, without label smoothing, to compare with the
        validation's.
      accuracy: share of right answers, in training mode.
      gradient_norm: L2 norm over all weights.
      failed_step: the first step with a loss or gradient that is not finite, or None. (A float16
        overflow that loss scaling skips is none.)
    """

    steps: int
    loss: float
    accuracy: float
    gradient_norm: float
    failed_step: int | None


class Trainer:
    """A model, its optimizer's state, and the compiled loop over them, on a strategy's devices.

    Args:
      config: a resolved configuration.
      devices: where to train.
      precision: `float32`, `bfloat16` or `float16`.
      jit_compile: what XLA compiles: the whole `loop`, each `step`'s gradient, or nothing (`off`).
      total_steps: the length of the learning-rate schedule.
    """

    def __init__(
        self,
        config: Config,
        devices: Devices,
        *,
        precision: str,
        jit_compile: str,
        total_steps: int,
    ):
        self._config, self._strategy = config, devices.strategy
        self._device = devices.first
        self._total_steps = total_steps
        with self._strategy.scope():
            self.model = networks.build(
                config.model,
                precision=precision,
                jit_compile=jit_compile != "off",
                seed=config.seed,
            )
            self._weights = [variable.value for variable in self.model.trainable_variables]
            self.momentum = [_zeros_like(weight) for weight in self._weights]
            self.velocity = [_zeros_like(weight) for weight in self._weights]
            self.loss_scale = self.steps_since_scaling = None
            if precision == "float16":
                self.loss_scale = tf.Variable(FIRST_LOSS_SCALE, trainable=False)
                self.steps_since_scaling = tf.Variable(0, trainable=False)
        self._loop = tf.function(
            self._loop_body, jit_compile=jit_compile == "loop", autograph=False
        )
        self._gradients = self._replica_gradients
        if jit_compile == "step":
            self._gradients = tf.function(
                self._replica_gradients, jit_compile=True, autograph=False
            )
        self._logits = tf.function(
            self._inference,
            input_signature=[tf.TensorSpec((None, 28, 28), tf.uint8)],
            autograph=False,
        )

    def checkpoint_items(self) -> dict[str, list[tf.Variable]]:
        """Returns all that training changes, by the names it has in a checkpoint."""
        items = {
            "model": [variable.value for variable in self.model.variables],
            "momentum": self.momentum,
            "velocity": self.velocity,
        }
        if self.loss_scale is not None:
            items["loss_scale"] = [self.loss_scale, self.steps_since_scaling]
        return items

    def trace(self, superbatch: tuple[tf.TensorSpec, tf.TensorSpec]) -> None:
        """Builds the graph of the loop over superbatches like this: what the first `run` is spared.

        Args:
          superbatch: the `element_spec` of `pipeline.training_batches`.
        """
        number = tf.TensorSpec((), tf.int32)
        self._loop.get_concrete_function(superbatch, number, number, number)

    def run(self, superbatch: tuple, base_step: int, first_step: int, last_step: int) -> LoopResult:
        """Trains on the steps first_step ... last_step - 1 of a superbatch.

        Args:
          superbatch: an element of `pipeline.training_batches`, for each replica its own.
          base_step: the step that the superbatch begins at.
          first_step: the first step to run.
          last_step: the step after the last one to run.
        """
        totals = self._loop(
            superbatch,
            tf.constant(base_step, tf.int32),
            tf.constant(first_step - base_step, tf.int32),
            tf.constant(last_step - base_step, tf.int32),
        )
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
            gradients, counts = self._strategy.run(self._replica_step, (superbatch, i))
            gradients, counts = self._sum_over_replicas(gradients, counts)
            norm = tf.sqrt(tf.add_n([_squares(self._local(gradient)) for gradient in gradients]))
            counts = self._local(counts)
            healthy = tf.math.is_finite(norm)
            if self.loss_scale is not None:
                norm /= self.loss_scale
                # An overflow is skipped, with a smaller scale from then on, while there is one.
                healthy |= self.loss_scale > 1.0
            healthy &= tf.math.is_finite(counts[0])
            self._update(gradients, norm, base + i)
            failed = tf.minimum(failed, tf.where(healthy, math.inf, tf.cast(i, tf.float32)))
            return i + 1, totals + tf.concat([counts, norm[None]], 0), failed

        # Not a tf.range, whose bounds XLA would compile in; and said outright, because AutoGraph
        # takes a second to read it all.
        start = first, tf.zeros((3,)), tf.constant(math.inf)
        _, totals, failed = tf.while_loop(lambda i, *_: i < last, step, start)
        return tf.concat([totals, failed[None]], 0)

    def _replica_step(self, superbatch, i):
        images, labels = superbatch
        return self._gradients(images[i], labels[i])

    def _replica_gradients(self, images, labels):
        """One replica's part of the gradient of the mean loss, and of [loss, right answers]."""
        pixels = tf.cast(images, tf.float32) / 255
        smoothing, batch = self._config.label_smoothing, self._config.batch_size
        with tf.GradientTape() as tape:
            logits = self.model(pixels, training=True)
        networks = logits.shape[1:-1].num_elements()
        if networks > 1:
            labels = tf.repeat(labels, networks)
        flat, target = tf.reshape(logits, (-1, 10)), tf.one_hot(labels, 10)
        log_probabilities = tf.nn.log_softmax(flat)
        smoothed = target * (1 - smoothing) + smoothing / 10
        # The gradient of the cross-entropy by the logits; so that each of several networks learns
        # as it would alone, it is that of the sum over them.
        slope = (tf.exp(log_probabilities) - smoothed) / batch
        if self.loss_scale is not None:
            slope *= self.loss_scale
        slope = tf.reshape(slope, logits.shape)
        gradients = tape.gradient(logits, self._weights, output_gradients=slope)
        plain = -tf.reduce_sum(target * log_probabilities) / (batch * networks)
        right = tf.argmax(flat, 1, tf.int32) == labels
        right = tf.reduce_sum(tf.cast(right, tf.float32)) / networks
        return gradients, tf.stack([plain, right])

    def _sum_over_replicas(self, gradients, counts):
        pairs = [*zip(gradients, self._weights, strict=True), (counts, self._weights[0])]
        *gradients, counts = self._strategy.extended.batch_reduce_to(
            tf.distribute.ReduceOp.SUM, pairs
        )
        return gradients, counts

    def _local(self, value):
        return self._strategy.experimental_local_results(value)[0]

    def learning_rate(self, step):
        """Returns the rate of a step: up in a line, then down in a half cosine, to zero.

        One cycle, after Smith and Topin, https://arxiv.org/abs/1708.07120.
        """
        rise = self._config.warmup * self._total_steps
        now = tf.cast(step, tf.float32) + 1
        up = now / max(rise, 1.0)
        fall = (now - rise) / max(self._total_steps + 1 - rise, 1.0)
        down = 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(fall, 0.0, 1.0)))
        return self._config.learning_rate * tf.where(now < rise, up, down)

    def _update(self, gradients, norm, step):
        if self.loss_scale is None:
            self._apply(gradients, step)
            return
        finite = tf.math.is_finite(norm)
        scale = tf.identity(self.loss_scale)
        tf.cond(
            finite,
            lambda: self._apply(gradients, step, scale) or tf.no_op(),
            tf.no_op,
        )
        waited = tf.where(finite, self.steps_since_scaling + 1, 0)
        double = waited >= STEPS_TO_DOUBLE
        self.loss_scale.assign(
            tf.where(finite, tf.where(double, scale * 2, scale), tf.maximum(scale / 2, 1.0))
        )
        self.steps_since_scaling.assign(tf.where(double, 0, waited))

    def _apply(self, gradients, step, scale=None):
        time = tf.cast(step, tf.float32) + 1
        rate = self.learning_rate(step)
        powers = tf.pow(BETA_1, time), tf.pow(BETA_2, time)
        decay = 1 - rate * self._config.weight_decay
        for weight, momentum, velocity, gradient in zip(
            self._weights, self.momentum, self.velocity, gradients, strict=True
        ):
            decayed = self._config.weight_decay and len(weight.shape) > 1
            self._strategy.extended.update(
                weight,
                _adamw,
                args=(
                    momentum,
                    velocity,
                    gradient,
                    scale,
                    rate,
                    powers,
                    decay if decayed else None,
                ),
            )

    def _inference(self, images):
        with tf.device(self._device):
            return networks.logits(self.model, images)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [n, 10] for uint8 [n, 28, 28], computed by this process alone."""
        batches = range(0, len(images), _EVALUATION_BATCH)
        parts = [self._logits(images[i : i + _EVALUATION_BATCH]).numpy() for i in batches]
        return np.concatenate(parts) if parts else np.zeros((0, 10), np.float32)

    def inference_graph(self) -> tf.Graph:
        """Returns the graph that answers `logits`."""
        return self._logits.get_concrete_function().graph

    def weights_sha256(self) -> str:
        """Returns the SHA-256 over the weights: little-endian float32, C order, layer by layer."""
        digest = hashlib.sha256()
        for weight in self.model.get_weights():
            digest.update(np.ascontiguousarray(weight, "<f4").tobytes())
        return digest.hexdigest()


def evaluate(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the mean cross-entropy in nats and the accuracy, every example counted once.

    Args:
      logits: float [n, 10].
      labels: integers [n].
    """
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -log_probabilities[np.arange(len(labels)), labels].mean()
    return float(loss), float((logits.argmax(1) == labels).mean())


def _squares(tensor):
    """The sum of the squares, float32 (), of any tensor.

    Slice by slice: XLA's own reduction on a CPU adds one number after the other, and takes a fifth
    of a step of `mlp`. (It is left with what has no small factors.)
    """
    squares = tf.square(tensor)
    for axis in range(len(tensor.shape) - 1):
        while (parts := _factor(squares.shape[axis])) > 1:
            squares = sum(tf.split(squares, parts, axis))
    return tf.reduce_sum(squares)


def _factor(size):
    """The largest divisor up to 8."""
    return max(divisor for divisor in range(1, 9) if size % divisor == 0)


def _zeros_like(variable):
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _adamw(weight, momentum, velocity, gradient, scale, rate, powers, decay):
    """One AdamW step on one variable, in place.

    A single fused kernel where an optimizer object runs a dozen.
    """
    if decay is not None:
        weight.assign(weight * decay)
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=momentum.handle,
        v=velocity.handle,
        beta1_power=powers[0],
        beta2_power=powers[1],
        lr=rate,
        beta1=BETA_1,
        beta2=BETA_2,
        epsilon=EPSILON,
        grad=gradient if scale is None else gradient / scale,
    )
