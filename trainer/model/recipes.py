"""The hyperparameters of each named model, as data."""

from __future__ import annotations

import dataclasses

AUGMENTATIONS = ("none", "shift", "affine", "elastic")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained unless a flag says otherwise."""

    batch_size: int  # examples in a global batch, over all replicas
    learning_rate: float  # the peak of the one-cycle schedule
    warmup: float  # the share of all steps in which the learning rate rises to its peak
    weight_decay: float  # decoupled from the gradient (AdamW), on kernels only
    label_smoothing: float  # the share of the target spread evenly over the ten classes
    augment: str  # one of AUGMENTATIONS
    steps_per_loop: int  # training steps in one call of the compiled loop, on a CPU
    bfloat16: bool  # whether it learns as well in bfloat16, where the hardware is fast with that
    # What XLA compiles on a CPU: the whole `loop`, or each `step`, because it runs convolutions
    # inside a loop on one thread.
    jit_compile: str
    # Divides the logits where no validation digits fit it: the median of what
    # `results.evaluation.fit_temperature` finds on those of several runs with the recipe.
    temperature: float
    test_time_shifts: bool  # whether inference averages the logits of shifted copies of a digit


_CNN = Recipe(
    batch_size=64,
    learning_rate=3e-3,
    warmup=0.2,
    weight_decay=0.02,
    label_smoothing=0.1,
    augment="affine",
    steps_per_loop=20,
    bfloat16=True,
    jit_compile="step",
    temperature=0.5,
    test_time_shifts=False,
)

RECIPES = {
    "mlp": dataclasses.replace(
        _CNN,
        batch_size=128,
        learning_rate=8e-3,
        weight_decay=0.0,
        augment="shift",
        steps_per_loop=100,
        bfloat16=False,
        jit_compile="loop",
    ),
    "cnn": _CNN,
    "convnet": dataclasses.replace(
        _CNN, weight_decay=0.3, augment="elastic", test_time_shifts=True
    ),
}
