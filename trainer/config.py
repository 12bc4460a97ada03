"""The configuration of a run: one frozen, validated record, and the flags made from it."""

import dataclasses
import enum
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from absl import flags

from trainer.errors import UsageError
from trainer.recipes import AUGMENTATIONS, RECIPES

DATASETS = ("auto", "mnist", "synthetic", "fashion_mnist", "own")
PRECISIONS = ("float32", "bfloat16", "float16")


class Scope(enum.Enum):
    """How far the value of a flag has to be the same."""

    RUN = "another value makes it another run"
    PART = "equal on all workers, but may change when a run is resumed"
    PROCESS = "each process may have its own"


class _Number(flags.FloatParser):
    def parse(self, argument: Any) -> float:
        value = super().parse(argument)
        if not math.isfinite(value):  # no bound refuses NaN
            raise ValueError(f"{argument} is not a finite number")
        return value


class _Path(flags.ArgumentParser):
    def parse(self, argument: Any) -> str:
        if not argument:
            raise ValueError("it is empty; name a directory, or leave the flag out")
        argument.encode()  # TensorFlow's paths are UTF-8
        if re.match("file://[^/]", argument):
            raise ValueError("file:// is followed by an absolute path: file:///home/me/run")
        return os.path.expanduser(argument.removeprefix("file://"))


class _StepRange(flags.ArgumentParser):
    def parse(self, argument: Any) -> tuple[int, int]:
        text = argument if isinstance(argument, str) else "{},{}".format(*argument)
        match = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError("it takes FIRST,LAST, for example 10,20")
        return int(match[1]), int(match[2])


_integer, _choice = flags.IntegerParser, flags.EnumParser


def _flag(
    default: Any, help: str, parser: flags.ArgumentParser | None = None, scope: Scope = Scope.RUN
) -> Any:
    if choices := getattr(parser, "enum_values", None):
        help = f"<{'|'.join(choices)}>: {help}"
    known = {"help": help, "parser": parser or flags.ArgumentParser(), "scope": scope}
    return dataclasses.field(default=default, metadata=known)


def _recipe_flag(help: str, parser: flags.ArgumentParser) -> Any:
    """A field of None stands for the value of the same name in the model's recipe."""
    return _flag(None, f"{help} (default: the model's recipe)", parser)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run; each field is a flag of `trainer.task`, explained by its help.

    Raises `UsageError` if a value is out of range, or two values do not fit together.
    """

    epochs: int = _flag(5, "passes over the training examples", _integer(1, 10**6), Scope.PART)
    model: str = _flag("mlp", "network to train", _choice(RECIPES))
    dataset: str = _flag(
        "auto",
        "what to train on; auto is MNIST if it can be had, else synthetic digits, with a warning;"
        " own are the pictures in --data_dir, in folders 0 to 9",
        _choice(DATASETS),
    )
    data_dir: str | None = _flag(
        None, "directory with IDX files, .npz or pictures; looked at first", _Path(), Scope.PROCESS
    )
    init_from: str | None = _flag(
        None, "directory of a run of the same --model, with whose weights this one begins", _Path()
    )
    model_dir: str | None = _flag(
        None,
        "where the run lives; the same directory again resumes it, more --epochs continue it"
        " (default: runs/<dataset>-<model>-<time>)",
        _Path(),
        Scope.PART,
    )
    resume: str = _flag(
        "auto",
        "never refuses a directory that holds a run, must refuses one that holds none",
        _choice(("auto", "never", "must")),
        Scope.PROCESS,
    )
    strategy: str = _flag(
        "auto",
        "devices to train on; auto takes every GPU there is, else the CPU",
        _choice(("auto", "cpu", "gpu", "mirrored", "multi_worker")),
        Scope.PART,
    )
    virtual_devices: int = _flag(
        0, "split the CPU into this many, to try multi-replica code", _integer(0, 64), Scope.PART
    )
    cluster_timeout_s: float = _flag(
        600.0, "seconds that workers wait for each other", _Number(0.1, 86_400), Scope.PART
    )
    stall_timeout_s: float = _flag(
        900.0, "seconds until a call of the loop counts as stuck", _Number(1, 86_400), Scope.PART
    )
    batch_size: int | None = _recipe_flag("GLOBAL batch size", _integer(1, 60_000))
    learning_rate: float | None = _recipe_flag("peak of the one-cycle schedule", _Number(1e-12))
    warmup: float | None = _recipe_flag("share of steps while the rate rises", _Number(0, 0.99))
    weight_decay: float | None = _recipe_flag("decoupled decay of the kernels", _Number(0, 0.99))
    label_smoothing: float | None = _recipe_flag("target share of all classes", _Number(0, 0.99))
    augment: str | None = _recipe_flag("random distortion of digits", _choice(AUGMENTATIONS))
    outliers: float | None = _recipe_flag("share of images that are no digits", _Number(0, 1))
    precision: str = _flag(
        "auto", "what the layers compute in; float16 scales losses", _choice(("auto", *PRECISIONS))
    )
    jit_compile: str = _flag("auto", "compile training with XLA", _choice(("auto", "on", "off")))
    steps_per_loop: int | None = _flag(
        None, "steps in a call of the loop (default: the recipe)", _integer(1, 10_000), Scope.PART
    )
    checkpoint_every: int = _flag(
        0, "steps between checkpoints; 0: only at the end of an epoch", _integer(0), Scope.PART
    )
    keep_checkpoints: int = _flag(3, "newest checkpoints to keep", _integer(1, 1_000), Scope.PART)
    validation_examples: int | None = _flag(
        None, "training examples to validate on (default: 5000, at most a tenth)", _integer(0)
    )
    seed: int = _flag(1, "all randomness: weights, order, augmentation", _integer(0, 2**31 - 1))
    profile: tuple[int, int] | None = _flag(
        None, "steps to profile for TensorBoard, as FIRST,LAST", _StepRange(), Scope.PART
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                try:
                    value = field.metadata["parser"].parse(value)
                except (TypeError, ValueError) as error:
                    raise UsageError(f"--{field.name}={value}: {error}") from None
                object.__setattr__(self, field.name, value)
        if self.dataset == "synthetic" and self.data_dir is not None:
            raise UsageError("--data_dir does not go with --dataset=synthetic; leave one out")
        if self.dataset == "own" and self.data_dir is None:
            raise UsageError("--dataset=own needs --data_dir, the directory of your pictures")
        if self.virtual_devices and self.strategy in ("cpu", "gpu", "multi_worker"):
            raise UsageError(
                f"--virtual_devices={self.virtual_devices} does not go with"
                f" --strategy={self.strategy}; leave one out"
            )
        self.check_batch(max(1, self.virtual_devices))

    def resolved(self) -> "Config":
        """Returns this configuration with the recipe's values where no flag gave one."""
        recipe = dataclasses.asdict(RECIPES[self.model])
        unset = {name for name, value in dataclasses.asdict(self).items() if value is None}
        return dataclasses.replace(self, **{name: recipe[name] for name in recipe.keys() & unset})

    def check_batch(self, replicas: int) -> None:
        """Raises `UsageError` unless the global batch is divisible by the number of `replicas`."""
        batch = self.batch_size or RECIPES[self.model].batch_size
        if batch % replicas:
            near = max(replicas, round(batch / replicas) * replicas)
            raise UsageError(
                f"--batch_size={batch} is not divisible by {replicas} replicas;"
                f" try --batch_size={near}"
            )

    def within(self, *scopes: Scope) -> dict[str, Any]:
        """Returns the fields of some scopes as JSON values."""
        values = dataclasses.asdict(self)
        chosen = [field for field in dataclasses.fields(self) if field.metadata["scope"] in scopes]
        return {field.name: values[field.name] for field in chosen}

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """Returns what makes this another run than that of `recorded`, a `dataclasses.asdict`."""
        return [
            f"--{name}={value} (the run has {recorded.get(name)})"
            for name, value in self.within(Scope.RUN).items()
            if recorded.get(name) != value
        ]


def flag_values() -> flags.FlagValues:
    """Returns absl's flags, one for each field of `Config`."""
    values = flags.FlagValues()
    for field in dataclasses.fields(Config):
        known = field.metadata
        flags.DEFINE(known["parser"], field.name, field.default, known["help"], flag_values=values)
    return values


def from_flags(values: flags.FlagValues) -> Config:
    """Returns the configuration that parsed `flag_values` describe."""
    return Config(**{field.name: values[field.name].value for field in dataclasses.fields(Config)})
