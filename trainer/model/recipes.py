"""The hyperparameters of each named model, as data.

Apart from `models.py` so that the command line can be checked, and `--help` answered, without
TensorFlow.
"""

from __future__ import annotations

import dataclasses

AUGMENTATIONS = ("none", "shift", "affine", "elastic")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained unless a flag says otherwise.

    Attributes:
      batch_size: examples in a global batch, over all replicas.
      learning_rate: the peak of the one-cycle schedule.
      warmup: the share of all steps in which the learning rate rises to its peak.
      weight_decay: decoupled from the gradient (AdamW), on kernels only.
      label_smoothing: the share of the target spread evenly over the ten classes.
      augment: one of `AUGMENTATIONS`.
      steps_per_loop: training steps inside one call of the compiled loop, on a CPU.
      bfloat16: whether half the bits do as well here, where the hardware is fast with them.
      jit_compile: what XLA compiles on a CPU: the whole `loop`, or each `step` for itself, because
        it runs convolutions inside a loop on one thread (and none of them where the CPU has
        bfloat16 instructions: `distribution.jit_compile`).
      temperature: divides the exported logits where no digits were held out to fit it on.
    """

    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    label_smoothing: float
    augment: str
    steps_per_loop: int
    bfloat16: bool
    jit_compile: str
    temperature: float = 1.0


RECIPES = {
    "mlp": Recipe(
        batch_size=128,
        learning_rate=8e-3,
        warmup=0.2,
        weight_decay=0.0,
        label_smoothing=0.1,
        augment="shift",
        steps_per_loop=100,
        bfloat16=False,
        jit_compile="loop",
    ),
    "cnn": Recipe(
        batch_size=64,
        learning_rate=3e-3,
        warmup=0.2,
        weight_decay=0.02,
        label_smoothing=0.1,
        augment="affine",
        steps_per_loop=20,
        bfloat16=True,
        jit_compile="step",
    ),
    "convnet": Recipe(
        batch_size=64,
        learning_rate=3e-3,
        warmup=0.2,
        weight_decay=0.3,
        label_smoothing=0.1,
        augment="elastic",
        steps_per_loop=20,
        bfloat16=True,
        jit_compile="step",
    ),
}
