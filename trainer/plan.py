"""What is settled before the first step: what `auto` became, how many steps, and its record.

Apart from the job because the loop needs it as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import trainer
from trainer.cluster.devices import Devices, Hardware, set_up
from trainer.cluster.environment import Cluster
from trainer.config import Config
from trainer.data import Dataset
from trainer.errors import UsageError
from trainer.model.recipes import RECIPES
from trainer.process import startup
from trainer.run import directory as run_directory
from trainer.run import files
from trainer.run.directory import Recorded

GPU_STEPS_PER_LOOP = 200
# XLA aborts on these GPUs: the PTX that TensorFlow's wheel makes does not support them
# (https://github.com/tensorflow/tensorflow/issues/111958).
NO_XLA_FROM = (12, 0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run, settled.

    Attributes:
      config: resolved, with the data set's and the directory's real names.
      devices: where it trains.
      precision: what the layers compute in.
      jit_compile: what XLA compiles: `loop`, `step` or `off`.
      steps_per_loop: training steps in a call of the compiled loop.
      examples: training examples, those held out not counted.
    """

    config: Config
    devices: Devices
    precision: str
    jit_compile: str
    steps_per_loop: int
    examples: int

    def epoch_end(self, epoch: int) -> int:
        """Returns the step that ends an epoch; its last batch may reach into the next one."""
        return epoch_end(self.config, self.examples, epoch)

    def epoch_under_way(self, step: int) -> int:
        """Returns the epoch, counted from 1, in which the step after `step` steps falls."""
        return step * self.config.batch_size // self.examples + 1

    @property
    def total_steps(self) -> int:
        """The step that ends the run."""
        return self.epoch_end(self.config.epochs)


def epoch_end(config: Config, examples: int, epoch: int) -> int:
    """Returns the step that ends an epoch of a resolved configuration; epoch 0 ends at step 0."""
    return -(-epoch * examples // config.batch_size)


def examples_to_train_on(config: Config, dataset: Dataset) -> int:
    """Returns how many training examples are left beside those held out.

    Raises:
      UsageError: if there are none, or not a batch of them.
    """
    examples = len(dataset.train_labels) - config.validation_examples
    if examples < 1:
        raise UsageError(
            f"--validation_examples={config.validation_examples} leaves none of the"
            f" {len(dataset.train_labels)} training examples to train on; hold out fewer"
        )
    if config.batch_size > examples:
        raise UsageError(
            f"--batch_size={config.batch_size} is more than the {examples} training examples;"
            f" use at most --batch_size={examples}"
        )
    return examples


def settle(config: Config, cluster: Cluster, dataset: Dataset, recorded: Recorded | None) -> Plan:
    """Returns the plan of a run, and prepares TensorFlow's devices for it.

    Args:
      config: resolved.
      cluster: this process and the workers beside it.
      dataset: what it trains on.
      recorded: what the directory says of a run that is to be resumed.

    Raises:
      UsageError: if the devices are not there or the numbers do not fit together.
    """
    examples = examples_to_train_on(config, dataset)
    recipe = RECIPES[config.model]
    devices = set_up(config, cluster)
    # A run goes on in the precision it began with, on whatever machine it is resumed.
    recorded_precision = recorded.settled.get("precision") if recorded else None
    return Plan(
        config=config,
        devices=devices,
        precision=recorded_precision
        or precision(config.precision, devices.hardware, bfloat16_ok=recipe.bfloat16),
        jit_compile=jit_compile(
            config.jit_compile, devices.hardware, devices.replicas, on_cpu=recipe.jit_compile
        ),
        steps_per_loop=config.steps_per_loop
        or (recipe.steps_per_loop if devices.kind == "CPU" else GPU_STEPS_PER_LOOP),
        examples=examples,
    )


def precision(asked: str, hardware: Hardware, *, bfloat16_ok: bool) -> str:
    """Returns what the layers compute in: as asked for, or what is fast and good enough here.

    A GPU has float16 units from compute capability 7.0 on and bfloat16 units from 8.0 on.

    Args:
      asked: the flag; `auto` decides by the hardware.
      hardware: of this process.
      bfloat16_ok: whether the recipe allows `auto` to be bfloat16.
    """
    if asked != "auto":
        return asked
    if hardware.bfloat16:
        return "bfloat16" if bfloat16_ok else "float32"
    if hardware.compute_capability and hardware.compute_capability >= (7, 0):
        return "float16"
    return "float32"


def jit_compile(asked: str, hardware: Hardware, replicas: int, *, on_cpu: str) -> str:
    """Returns what XLA compiles: the whole `loop`, each `step`'s gradient, or nothing (`off`).

    With several replicas it is the gradient of each, as XLA cannot compile the sum over them, and
    on CPUs only for a model whose steps gain from it. The answer depends on the number of replicas
    and not on whether they are devices or workers, so that both end with the same weights.

    Args:
      asked: the flag; `auto` decides by the hardware.
      hardware: of this process.
      replicas: in sync, over all workers.
      on_cpu: what the recipe compiles on one CPU, `loop` or `step`.
    """
    if asked == "off":
        return "off"
    on_gpu = hardware.kind == "GPU"
    if asked == "auto":
        if (hardware.compute_capability or (0, 0)) >= NO_XLA_FROM:
            return "off"
        # On a CPU with bfloat16 instructions oneDNN's convolutions are faster than XLA's.
        if not on_gpu and on_cpu == "step" and hardware.bfloat16:
            return "off"
    if replicas == 1:
        return "loop" if on_gpu else on_cpu
    return "step" if on_gpu or on_cpu == "step" or asked == "on" else "off"


def settled_statement(plan: Plan) -> Mapping[str, str]:
    """Returns what all workers have to agree in once their devices are known."""
    return {
        "--precision": plan.precision,
        "--jit_compile": plan.jit_compile,
        "devices": f"{len(plan.devices.local_replicas)} {plan.devices.kind}",
    }


def record(plan: Plan, dataset: Dataset, settled: Mapping[str, Any] | None = None) -> None:
    """Makes the run's directory, clears it of what a killed process left, and writes `config.json`.

    Args:
      plan: of the run.
      dataset: what it trains on.
      settled: what was recorded before, if this process does not train any more.

    Raises:
      UsageError: if it cannot be written.
    """
    import tensorflow as tf

    directory = plan.config.model_dir
    settled = settled or {
        "precision": plan.precision,
        "jit_compile": plan.jit_compile,
        "steps_per_loop": plan.steps_per_loop,
        "strategy": plan.devices.name,
        "devices": plan.devices.kind,
        "replicas": plan.devices.replicas,
        "workers": len(plan.devices.cluster.workers),
        "cpus": startup.available_cpus(),
    }
    data = {"name": dataset.name, "source": dataset.source, "sha256": dict(dataset.sha256)}
    everything = {
        "config": plan.config.to_dict(),
        "settled": settled,
        "data": data,
        "versions": versions(),
    }
    try:
        files.make_directory(directory)
        for name in (
            "",
            run_directory.SAVED_MODEL,
            run_directory.CHECKPOINTS,
            run_directory.FIGURES,
        ):
            files.remove_leftovers(files.join(directory, name) if name else directory)
        run_directory.write_json(directory, run_directory.CONFIG, everything)
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, OSError) and error.errno in files.FULL:
            raise
        raise UsageError(
            f"cannot write to --model_dir={directory}: {str(error).splitlines()[0]};"
            " give another one"
        ) from None


def versions() -> dict[str, str]:
    """Returns the versions of what computes."""
    return {
        "trainer": trainer.__version__,
        "code": code_sha256()[:12],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        "platform": platform.platform(),
    }


def code_sha256() -> str:
    """Returns a digest of this package's source files."""
    digest = hashlib.sha256()
    root = pathlib.Path(trainer.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def statement(config: Config, dataset: Dataset) -> Mapping[str, Any]:
    """Returns what all workers of a run have to agree in, by the name an error calls it."""
    return {
        **{
            f"--{name}": str(value)
            for name, value in config.to_dict().items()
            if name not in ("data_dir", "resume")
        },
        "data": hashlib.sha256(repr(sorted(dataset.sha256.items())).encode()).hexdigest()[:12],
        "code": code_sha256()[:12],
        "tensorflow": importlib.metadata.version("tensorflow"),
    }
