"""AdamW with a one-cycle learning rate, and loss scaling for float16."""

import math

import tensorflow as tf

from trainer.model.xla_layers import sum_of_squares
from trainer.plan import Plan

# Adam's constants, but a shorter memory of squared gradients, for runs of a few thousand steps.
BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-7

# Loss scaling: Micikevicius et al., https://arxiv.org/abs/1710.03740, section 3.2.
INITIAL_LOSS_SCALE, STEPS_TO_DOUBLE = 2.0**15, 2000


class AdamW:
    """AdamW: Loshchilov and Hutter, https://arxiv.org/abs/1711.05101.

    One fused kernel for each variable, where a Keras optimizer runs a dozen operations. With
    float16 the gradients come multiplied by `loss_scale`, float32 ().
    """

    def __init__(self, weights: list[tf.Variable], strategy: tf.distribute.Strategy, plan: Plan):
        self._weights, self._strategy = weights, strategy
        self._config, self._total_steps = plan.config, plan.total_steps
        zeros = [tf.zeros(weight.shape) for weight in weights]
        # Momentum and velocity.
        self._slots = [[tf.Variable(zero, trainable=False) for zero in zeros] for _ in range(2)]
        self.variables = [*self._slots[0], *self._slots[1]]
        self.loss_scale = self.steps_since_scaling = None
        if plan.precision == "float16":
            self.loss_scale = tf.Variable(INITIAL_LOSS_SCALE, trainable=False)
            self.steps_since_scaling = tf.Variable(0, trainable=False)
            self.variables += [self.loss_scale, self.steps_since_scaling]

    def learning_rate(self, step: int | tf.Tensor) -> tf.Tensor:
        """Returns the rate of a step, float32 (): linear warm-up, then half a cosine to zero."""
        # One cycle: Smith and Topin, https://arxiv.org/abs/1708.07120.
        rise = self._config.warmup * self._total_steps
        now = tf.cast(step, tf.float32) + 1
        up = now / max(rise, 1.0)
        fall = (now - rise) / max(self._total_steps + 1 - rise, 1.0)
        down = 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(fall, 0.0, 1.0)))
        return self._config.learning_rate * tf.where(now < rise, up, down)

    def apply(self, gradients: list, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates the weights; after a float16 overflow halves the loss scale instead.

        `gradients` are summed over the replicas; `step` is int32 (). Returns their L2 norm, float32
        (), and whether it is finite or a smaller loss scale may make it so, bool ().
        """
        local = [self._strategy.experimental_local_results(each)[0] for each in gradients]
        norm = tf.sqrt(tf.add_n([*map(sum_of_squares, local)]))
        healthy = tf.math.is_finite(norm)
        if self.loss_scale is None:
            self._update(gradients, step)
            return norm, healthy
        norm /= self.loss_scale
        healthy |= self.loss_scale > 1.0
        finite, scale = tf.math.is_finite(norm), tf.identity(self.loss_scale)
        tf.cond(finite, lambda: self._update(gradients, step, scale) or tf.no_op(), tf.no_op)
        waited = tf.where(finite, self.steps_since_scaling + 1, 0)
        double = waited >= STEPS_TO_DOUBLE
        self.loss_scale.assign(
            tf.where(finite, tf.where(double, scale * 2, scale), tf.maximum(scale / 2, 1.0))
        )
        self.steps_since_scaling.assign(tf.where(double, 0, waited))
        return norm, healthy

    def _update(self, gradients, step, scale=None):
        rate, time = self.learning_rate(step), tf.cast(step, tf.float32) + 1
        powers = tf.pow(BETA_1, time), tf.pow(BETA_2, time)
        decay = 1 - rate * self._config.weight_decay

        def update(weight, momentum, velocity, gradient):
            if self._config.weight_decay and len(weight.shape) > 1:
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

        for weight, *slots in zip(self._weights, *self._slots, gradients, strict=True):
            self._strategy.extended.update(weight, update, args=slots)
