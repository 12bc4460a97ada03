"""The configuration of a run: one validated record, the source of the flags and of `config.json`.

Apart from TensorFlow, so that a wrong flag is answered at once.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.catalog import DATASETS
from trainer.errors import UsageError
from trainer.model.recipes import AUGMENTATIONS, RECIPES

RECIPE = "the model's recipe"
PRECISIONS = ("float32", "bfloat16", "float16")


def _flag(
    default: Any,
    help: str,
    *,
    kind: type = str,
    choices: Sequence[str] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    same_run: bool = False,
    unset: str = "",
) -> Any:
    """A field with what its flag needs to know.

    `same_run` marks what may differ between the parts of one run; a resumed run is refused for any
    other difference. `unset` says in `--help` what stands in for a default of None.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "kind": kind,
            "choices": tuple(choices),
            "bounds": {"at least": at_least, "at most": at_most, "above": above, "below": below},
            "same_run": same_run,
            "unset": unset,
        },
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run.

    A field of None means what its flag's help says: the recipe's value, or nothing. To make one
    raises `UsageError` for a value out of range and for values that do not fit together.
    """

    epochs: int = _flag(
        5,
        "passes over the training examples",
        kind=int,
        at_least=1,
        at_most=1_000_000,
        same_run=True,
    )
    model: str = _flag("mlp", "network to train", choices=tuple(RECIPES))
    dataset: str = _flag(
        "auto",
        "what to train on; auto is MNIST if it can be had, else synthetic digits, with a warning",
        choices=DATASETS,
    )
    data_dir: str | None = _flag(
        None, "directory with IDX files (plain or .gz) or an .npz; looked at first", same_run=True
    )
    model_dir: str | None = _flag(
        None,
        "where the run lives; the same directory again resumes it, more --epochs continue it",
        same_run=True,
        unset="runs/<dataset>-<model>-<time>",
    )
    resume: str = _flag(
        "auto",
        "never refuses a directory that holds a run, must refuses one that holds none",
        choices=("auto", "never", "must"),
        same_run=True,
    )
    strategy: str = _flag(
        "auto",
        "devices to train on; auto takes every GPU there is, else the CPU",
        choices=("auto", "cpu", "gpu", "mirrored", "multi_worker"),
        same_run=True,
    )
    virtual_devices: int = _flag(
        0,
        "split the CPU into this many logical devices, to try multi-replica code anywhere",
        kind=int,
        at_least=0,
        at_most=64,
        same_run=True,
    )
    cluster_timeout_s: float = _flag(
        600.0,
        "seconds to wait for all workers to come",
        kind=float,
        above=0,
        at_most=86_400,
        same_run=True,
    )
    peer_timeout_s: float = _flag(
        60.0,
        "seconds of silence after which a worker counts as lost",
        kind=float,
        at_least=5,
        at_most=86_400,
        same_run=True,
    )
    batch_size: int | None = _flag(
        None,
        "GLOBAL batch size, over all replicas",
        kind=int,
        at_least=1,
        at_most=60_000,
        unset=RECIPE,
    )
    learning_rate: float | None = _flag(
        None, "peak of the one-cycle schedule", kind=float, above=0, unset=RECIPE
    )
    warmup: float | None = _flag(
        None,
        "share of all steps in which the learning rate rises",
        kind=float,
        at_least=0,
        below=1,
        unset=RECIPE,
    )
    weight_decay: float | None = _flag(
        None, "decoupled weight decay of the kernels", kind=float, at_least=0, below=1, unset=RECIPE
    )
    label_smoothing: float | None = _flag(
        None,
        "share of the target spread evenly over the classes",
        kind=float,
        at_least=0,
        below=1,
        unset=RECIPE,
    )
    augment: str | None = _flag(
        None, "random distortion of the training digits", choices=AUGMENTATIONS, unset=RECIPE
    )
    precision: str = _flag(
        "auto",
        "what the layers compute in; float16 comes with loss scaling",
        choices=("auto", *PRECISIONS),
    )
    jit_compile: str = _flag(
        "auto", "compile the training loop with XLA", choices=("auto", "on", "off")
    )
    steps_per_loop: int | None = _flag(
        None,
        "training steps inside one call of the compiled loop",
        kind=int,
        at_least=1,
        at_most=10_000,
        same_run=True,
        unset="auto",
    )
    checkpoint_every: int = _flag(
        0,
        "steps between checkpoints; 0 is only at the end of each epoch",
        kind=int,
        at_least=0,
        same_run=True,
    )
    keep_checkpoints: int = _flag(
        3, "newest checkpoints to keep", kind=int, at_least=1, at_most=1_000, same_run=True
    )
    validation_examples: int = _flag(
        5000, "training examples held out to validate on", kind=int, at_least=0
    )
    seed: int = _flag(
        1,
        "decides all randomness: initial weights, order, augmentation",
        kind=int,
        at_least=0,
        at_most=2**31 - 1,
    )
    summaries: str = _flag(
        "full",
        "what TensorBoard is shown: minimal is curves, texts and graph, full all of it",
        choices=("minimal", "full"),
        same_run=True,
    )
    profile: str | None = _flag(
        None, "steps to profile for TensorBoard, as FIRST,LAST", same_run=True, unset="off"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        self.profile_range()
        if self.model_dir == "":
            raise UsageError("--model_dir is empty; name a directory, or leave the flag out")
        if self.dataset == "synthetic" and self.data_dir is not None:
            raise UsageError(
                "--data_dir does not go with --dataset=synthetic, which is drawn and not read;"
                " leave one of them out"
            )
        if self.virtual_devices and self.strategy in ("gpu", "multi_worker"):
            raise UsageError(
                f"--virtual_devices={self.virtual_devices} splits the CPU, so it does not go with"
                f" --strategy={self.strategy}; leave one of them out"
            )
        if self.virtual_devices > 1:
            if self.strategy == "cpu":
                raise UsageError(
                    "--strategy=cpu is one device, so it does not go with"
                    f" --virtual_devices={self.virtual_devices}; use --strategy=mirrored"
                )
            self.check_batch(self.virtual_devices)

    def resolved(self) -> Config:
        """Returns this configuration with the recipe's values where no flag gave one."""
        recipe = RECIPES[self.model]
        missing = {
            name: getattr(recipe, name)
            for name in (
                "batch_size",
                "learning_rate",
                "warmup",
                "weight_decay",
                "label_smoothing",
                "augment",
            )
            if getattr(self, name) is None
        }
        return dataclasses.replace(self, **missing)

    def check_batch(self, replicas: int) -> None:
        """Raises `UsageError` unless the global batch is divisible by the number of `replicas`."""
        batch = self.batch_size or RECIPES[self.model].batch_size
        if batch % replicas:
            near = max(replicas, round(batch / replicas) * replicas)
            raise UsageError(
                f"--batch_size={batch} is not divisible by {replicas} replicas;"
                f" try --batch_size={near}"
            )

    def profile_range(self) -> tuple[int, int] | None:
        """Returns the first and last step to profile, or None."""
        if self.profile is None:
            return None
        match = re.fullmatch(r"(\d{1,9}),(\d{1,9})", self.profile)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"--profile={self.profile!r} is not a range of steps;"
                " write FIRST,LAST, for example 10,20"
            )
        return int(match[1]), int(match[2])

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return dataclasses.asdict(self)

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """Returns how this run differs from another, each as `--flag=new (the run has old)`.

        Only what makes it another run counts: devices, places and the number of epochs may differ.

        Args:
          recorded: what `to_dict` of the other one returned.
        """
        return [
            f"--{field.name}={getattr(self, field.name)} (the run has {recorded.get(field.name)})"
            for field in dataclasses.fields(self)
            if not field.metadata["same_run"]
            and recorded.get(field.name) != getattr(self, field.name)
        ]


def _check(field: dataclasses.Field, value: Any) -> None:
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    if value is None:
        return
    if choices and value not in choices:
        raise UsageError(f"--{field.name}={value!r} is not one of {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"--{field.name}={value} is not a finite number")
    holds = {
        "at least": lambda bound: value >= bound,
        "at most": lambda bound: value <= bound,
        "above": lambda bound: value > bound,
        "below": lambda bound: value < bound,
    }
    for word, bound in bounds.items():
        if bound is not None and not holds[word](bound):
            raise UsageError(f"--{field.name}={value} must be {word} {bound}")
