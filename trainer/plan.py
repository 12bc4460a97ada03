"""What a run does: what every `auto` became, its steps and epochs, the calls of its loop."""

import dataclasses
from collections.abc import Iterator

from trainer.config import Config
from trainer.errors import UsageError
from trainer.recipes import RECIPES

GPU_STEPS_PER_LOOP = 200


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The facts about one replica's device that decide what `auto` becomes."""

    kind: str  # CPU or GPU
    bfloat16: bool = False  # whether it multiplies bfloat16 matrices, and does not only emulate it
    compute_capability: tuple[int, int] | None = None  # of a GPU, for example (8, 0)
    name: str = dataclasses.field(default="", compare=False)  # of the processor


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the compiled loop: steps first ... last - 1, the superbatch beginning at base."""

    base: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run does."""

    config: Config  # resolved, with the data set's and the directory's real names
    examples: int  # to train on, without those held out
    precision: str  # what the layers compute in
    jit_compile: str  # what XLA compiles: the whole `loop`, each `step`'s gradient, nothing (`off`)
    steps_per_loop: int  # training steps in a call of the compiled loop, and in a superbatch

    def epoch_end(self, epoch: int) -> int:
        """Returns the number of steps at the end of an epoch, counted from 1."""
        return epoch_end(self.config, self.examples, epoch)

    def epoch_of(self, step: int) -> int:
        """Returns the epoch, counted from 1, of the step with this index, counted from 0."""
        return step * self.config.batch_size // self.examples + 1

    @property
    def total_steps(self) -> int:
        """The number of steps of the whole run."""
        return self.epoch_end(self.config.epochs)

    def saves_at(self, step: int) -> bool:
        """Returns whether a checkpoint is due after `step` steps."""
        every = self.config.checkpoint_every
        return step == self.epoch_end(self.epoch_of(step - 1)) or bool(every and step % every == 0)

    def calls(self, step: int) -> Iterator[Call]:
        """Yields the calls of the loop from `step` to the end of the run.

        None crosses the end of a superbatch or epoch, a checkpoint, or an edge of the profile.
        """
        every, profile = self.config.checkpoint_every, self.config.profile
        while step < self.total_steps:
            base = step // self.steps_per_loop * self.steps_per_loop
            ends = [base + self.steps_per_loop, self.epoch_end(self.epoch_of(step))]
            if every:
                ends.append((step // every + 1) * every)
            if profile:
                ends += [edge for edge in (profile[0] - 1, profile[1]) if edge > step]
            yield Call(base, step, min(ends))
            step = min(ends)


def make(
    config: Config, examples: int, hardware: Hardware, replicas: int, precision: str | None
) -> Plan:
    """Returns the plan of a run; one that is resumed keeps its `precision` on any machine."""
    recipe = RECIPES[config.model]
    per_loop = recipe.cpu_steps_per_loop if hardware.kind == "CPU" else GPU_STEPS_PER_LOOP
    return Plan(
        config,
        examples,
        precision or resolve_precision(config.precision, hardware, bfloat16=recipe.bfloat16),
        resolve_jit_compile(config.jit_compile, hardware, replicas, on_cpu=recipe.jit_compile),
        config.steps_per_loop or per_loop,
    )


def epoch_end(config: Config, examples: int, epoch: int) -> int:
    """Returns the number of steps at the end of an epoch, whose last batch may reach further."""
    return -(-epoch * examples // config.batch_size)


def validation_examples(config: Config, examples: int) -> int:
    """Returns how many of the data set's training examples are held out to validate on."""
    chosen = config.validation_examples
    return min(5000, examples // 10) if chosen is None else chosen


def training_examples(config: Config, examples: int) -> int:
    """Returns how many training examples are left; raises `UsageError` if it is no batch."""
    left = examples - config.validation_examples
    if config.batch_size > left:
        raise UsageError(
            f"--batch_size={config.batch_size} is more than the {max(left, 0)} training examples"
            f" that --validation_examples={config.validation_examples} leaves; lower one of them"
        )
    return left


def resolve_precision(flag: str, hardware: Hardware, *, bfloat16: bool) -> str:
    """Returns what the layers compute in; `bfloat16` is whether the model is as accurate in it."""
    if flag != "auto":
        return flag
    # GPUs that are fast in nothing else.
    if hardware.compute_capability and (7, 0) <= hardware.compute_capability < (8, 0):
        return "float16"
    return "bfloat16" if bfloat16 and hardware.bfloat16 else "float32"


def resolve_jit_compile(flag: str, hardware: Hardware, replicas: int, *, on_cpu: str) -> str:
    """Returns what XLA compiles: `loop`, `step` or `off`; `on_cpu` is the recipe's for one CPU.

    With several replicas, devices or workers, it is each one's gradient (`step`), because XLA
    cannot compile the sum over them.
    """
    if flag == "off" or (flag == "auto" and not _xla_is_faster(hardware, on_cpu)):
        return "off"
    best = "loop" if hardware.kind == "GPU" else on_cpu
    if replicas == 1:
        return best
    return "step" if hardware.kind == "GPU" or best == "step" or flag == "on" else "off"


def _xla_is_faster(hardware: Hardware, on_cpu: str) -> bool:
    if hardware.compute_capability:
        # TensorFlow 2.21's XLA aborts on 12.0: PTX 8.5 does not know it (tensorflow issue 111958).
        return hardware.compute_capability < (12, 0)
    # oneDNN's convolutions use a CPU's bfloat16 instructions; XLA converts to float32 and back.
    return on_cpu == "loop" or not hardware.bfloat16
