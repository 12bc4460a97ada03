"""Small trainers on the CPU, batches of the tiny data set, and AdamW in NumPy."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import runs
import tensorflow as tf

from trainer.cluster.devices import Devices
from trainer.cluster.environment import Cluster
from trainer.config import Config
from trainer.data import pipeline
from trainer.model.optimizer import BETA_1, BETA_2, EPSILON
from trainer.model.trainer import Trainer
from trainer.plan import Hardware


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a trainer and the pipeline read of `trainer.plan.Plan`."""

    config: Config
    precision: str = "float32"
    jit_compile: str = "off"
    total_steps: int = 40
    steps_per_loop: int = 10


def config(**flags: object) -> Config:
    """Returns a resolved configuration for the tiny data set."""
    return Config(**{"batch_size": 50, "augment": "none", "learning_rate": 2e-3} | flags).resolved()


def trainer(settings: Config, **plan: object) -> Trainer:
    """Returns a trainer on one CPU; `plan` are fields of `Plan`."""
    strategy = tf.distribute.OneDeviceStrategy("/CPU:0")
    devices = Devices(strategy, "cpu", Hardware("CPU"), Cluster())
    return Trainer(Plan(settings, **plan), devices)


def superbatch(settings: Config, steps: int = 10) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns one superbatch of the tiny data set, from step 0 on."""
    images, labels = runs.tiny_arrays()[:2]
    plan = Plan(settings, total_steps=steps, steps_per_loop=steps)
    [dataset] = pipeline.training_batches(images, labels, plan)
    return next(iter(dataset))


class ReferenceAdamW:
    """AdamW in float64 as in the papers, kernels (two axes or more) alone decayed."""

    def __init__(self, weights: list[np.ndarray], plan: Plan):
        self.weights = [weight.astype(np.float64) for weight in weights]
        self.momentum = [np.zeros_like(weight) for weight in self.weights]
        self.velocity = [np.zeros_like(weight) for weight in self.weights]
        self.config, self.total_steps, self.time = plan.config, plan.total_steps, 0

    def rate(self, time: int) -> float:
        """One cycle: up in a line, down in half a cosine; `time` counts steps from 1."""
        rise = self.config.warmup * self.total_steps
        if time < rise:
            return self.config.learning_rate * time / rise
        share = (time - rise) / (self.total_steps + 1 - rise)
        return self.config.learning_rate * (1 + math.cos(math.pi * share)) / 2

    def apply(self, gradients: list[np.ndarray]) -> float:
        """Takes one step and returns the norm of the gradients."""
        self.time += 1
        rate = self.rate(self.time)
        corrected = rate * math.sqrt(1 - BETA_2**self.time) / (1 - BETA_1**self.time)
        for i, gradient in enumerate(gradients):
            self.momentum[i] = BETA_1 * self.momentum[i] + (1 - BETA_1) * gradient
            self.velocity[i] = BETA_2 * self.velocity[i] + (1 - BETA_2) * gradient**2
            decay = rate * self.config.weight_decay if gradient.ndim > 1 else 0
            change = corrected * self.momentum[i] / (np.sqrt(self.velocity[i]) + EPSILON)
            self.weights[i] = self.weights[i] * (1 - decay) - change
        return math.sqrt(sum((gradient**2).sum() for gradient in gradients))
