"""The hyperparameters of each named model, as data."""

from __future__ import annotations

import dataclasses

AUGMENTATIONS = ("none", "shift", "affine", "photo", "elastic")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained unless a flag says otherwise; the defaults are for `cnn`."""

    batch_size: int = 64  # examples in a global batch, over all replicas
    learning_rate: float = 3e-3  # the peak of the one-cycle schedule
    warmup: float = 0.2  # the share of all steps in which the learning rate rises to its peak
    weight_decay: float = 0.02  # decoupled from the gradient (AdamW), on kernels only
    label_smoothing: float = 0.1  # the share of the target spread evenly over the ten classes
    augment: str = "photo"  # one of AUGMENTATIONS
    # Images that are no digits in a global batch, beside the digits, as a share of its size.
    outliers: float = 3 / 16
    cpu_steps_per_loop: int = 20  # training steps in one call of the compiled loop, on a CPU
    bfloat16: bool = True  # whether it learns as well in bfloat16, where the hardware is fast in it
    # What XLA compiles on a CPU: the whole `loop`, or each `step`, because it runs convolutions
    # inside a loop on one thread.
    jit_compile: str = "step"
    # Divides the logits where there are no validation digits to fit it. Found by
    # `results.evaluation.fit_temperature` on those of the default runs: 0.46 to 0.52 for each
    # model, as label smoothing makes a network less sure than it is right.
    temperature: float = 0.5
    test_time_shifts: bool = False  # whether inference averages over shifted copies of a digit


RECIPES = {
    "mlp": Recipe(
        batch_size=128,
        learning_rate=8e-3,
        weight_decay=0.0,
        augment="shift",
        outliers=0.0,
        cpu_steps_per_loop=100,
        bfloat16=False,
        jit_compile="loop",
    ),
    "cnn": Recipe(),
    "convnet": Recipe(weight_decay=0.3, augment="elastic", outliers=0.0, test_time_shifts=True),
}

# The share of photographed numbers of 1 to 8 digits that is read exactly, after 5 epochs:
# `scripts/benchmark.py pictures --kinds photographed`.
NUMBERS_READ = {"mlp": 0.855, "cnn": 0.92}
