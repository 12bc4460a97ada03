#!/usr/bin/env python3
"""Measures what the README states, with real MNIST and whole processes.

  scripts/benchmark.py results --model mlp --seeds 5     a row of the results table
  scripts/benchmark.py jobs --repeats 3                  the whole job against scripts/peers/
  scripts/benchmark.py jobs --peer mine='python my.py'   ... or against any other program
  scripts/benchmark.py steps --peer jax='python scripts/peers/jax_loop.py mlp {batch_size}'
                                                         steady state, peers, and the floor
  scripts/benchmark.py target --model cnn --peer keras='python scripts/peers/keras_convnet.py 1'
                                                         training time until 99.0 % of the test
  scripts/benchmark.py start                             how long until the first step, by phase
  scripts/benchmark.py growth                            what more examples and more epochs cost
  scripts/benchmark.py pipeline                          the input pipeline alone
  scripts/benchmark.py floor                             the rate of large matrix products
  scripts/benchmark.py summaries --repeats 3             what all that TensorBoard shows costs a job
  scripts/benchmark.py workers --counts 1 2 4            weak scaling: workers pinned to a core each

Prints each run as it ends and then a table in Markdown; both go to a JSON file as well, with the
machine, the versions and the commit. Programs take turns, and medians are compared, because
machines are noisy; so is everything that runs beside this.

A peer prints JSON lines, the last with `wall_seconds`; one that takes part in `steps` or `target`
prints one an epoch before, with the sum of `train_seconds` so far. Those in scripts/peers/ read
$MNIST_DATA_DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import itertools
import json
import os
import pathlib
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import keras

    from trainer.data import Dataset

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# What is measured: its name in the JSON file, its name in a table, and how it is written there.
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "test_accuracy": ("test accuracy", "{:.2%}".format),
    "standard_deviation": ("standard deviation", "{:.2%}".format),
    "calibration_error": ("calibration error", "{:.1%}".format),
    "parameters": ("parameters", "{:,}".format),
    "train_seconds": ("training", "{:.1f} s".format),
    "wall_seconds": ("whole process", "{:.1f} s".format),
    "processor_seconds": ("processor time", "{:.2f} s".format),
    "seconds": ("time", "{:.2f} s".format),
    "pipeline_seconds": ("until the first digits", "{:.2f} s".format),
    "step_seconds": ("a step", lambda seconds: f"{1e3 * seconds:.3f} ms"),
    "digits_per_second": ("digits a second", "{:,.0f}".format),
    "peak_bytes": ("peak memory", lambda size: f"{size / 1e6:,.0f} MB"),
    "input_wait": ("waiting for input", "{:.1%}".format),
    "batch_size": ("batch", str),
    "training_digits": ("training digits", "{:,}".format),
    "times_as_fast": ("times as fast as it", "{:.2f}".format),
    "ratio": ("ratio", "{:.2f}".format),
    "time_ratio": ("share of its time", "{:.2f}".format),
    "memory_ratio": ("share of its memory", "{:.2f}".format),
    "floor": ("of the floor's rate", "{:.0%}".format),
    "operations_per_second": ("products of 2048 x 2048", lambda n: f"{n / 1e9:,.0f} GFLOP/s"),
    "operations_per_digit": ("products for a digit", lambda n: f"{n / 1e6:.2f} MFLOP"),
}


class Record:
    """What a command measured: each run, and the rows of its tables."""

    def __init__(self):
        self.runs: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def run(self, **values: Any) -> dict[str, Any]:
        """Takes a run down, prints it, and returns it."""
        self.runs.append(values)
        print(", ".join(" ".join(_cell(*value)) for value in values.items()), flush=True)
        return values

    def row(self, **values: Any) -> None:
        """Takes a row down. Rows that follow each other and have the same columns are a table."""
        self.rows.append(values)

    def tables(self) -> str:
        """Returns the rows in Markdown."""
        lines: list[str] = []
        for columns, rows in itertools.groupby(self.rows, key=tuple):
            cells = [[_cell(*value) for value in row.items()] for row in rows]
            lines += ["", _line(name for name, _ in cells[0]), _line("---" for _ in columns)]
            lines += [_line(text for _, text in row) for row in cells]
        return "\n".join(lines)

    def write(self, path: pathlib.Path, arguments: Sequence[str], started: float) -> None:
        """Writes all as JSON."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
        everything = {
            "arguments": list(arguments),
            "started": stamp,
            "machine": machine(),
            "table": self.rows,
            "runs": self.runs,
        }
        path.write_text(json.dumps(everything, indent=2) + "\n")


def _cell(name: str, value: Any) -> tuple[str, str]:
    """The heading and the text of a value."""
    seconds = "{:.2f} s".format  # of a phase, the only numbers that have no column of their own
    other = name.replace("_", " "), seconds if isinstance(value, float) else str
    heading, text = COLUMNS.get(name, other)
    return heading, "-" if value is None else text(value)


def _line(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> dict[str, Any]:
    """Returns where this was measured and with what, for the JSON file."""
    from trainer import plan
    from trainer.process import startup

    names, flags = {}, set()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        names = dict(map(str.strip, line.split(":", 1)) for line in file if ":" in line)
        flags = set(names.get("flags", names.get("Features", "")).split())
    wide = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "bf16")
    return {
        "processor": names.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in wide if name in flags],
        "cores": startup.available_cpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _output("nvidia-smi", "--list-gpus").splitlines(),
        "versions": plan.versions(),
        "commit": _output("git", "describe", "--always", "--dirty"),
    }


def _output(*command: str) -> str:
    """What a program prints, or nothing where it is missing or fails."""
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Runs one measurement, prints and writes it; returns the exit code."""
    parser = _parser()
    settings = vars(parser.parse_args(arguments))
    measure, path = settings.pop("measure"), settings.pop("json")
    names = [
        "trainer.task",
        settings.get("model"),
        *(name for name, _ in settings.get("peers", ())),
    ]
    if len(set(names)) < len(names):
        parser.error(f"every --peer needs a name of its own, and none of {names[:2]}")
    started, record = time.time(), Record()
    if path is None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(started))
        path = ROOT / f"runs/benchmarks/{measure.__name__}-{stamp}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        parser.error(f"cannot write {path}: {error.strerror}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's remarks between the figures
    try:
        measure(record, **settings)
        print(record.tables())
    except KeyboardInterrupt:
        return 130
    finally:  # what was measured before an error, too
        record.write(path, arguments, started)
        print(f"\nEvery run, the machine and the versions are in {os.path.relpath(path)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(measure: Callable[..., None], repeats: int | None = 3) -> argparse.ArgumentParser:
        text = measure.__doc__.splitlines()[0]
        added = commands.add_parser(measure.__name__, help=text, description=text)
        added.set_defaults(measure=measure)
        added.add_argument(
            "--json", type=pathlib.Path, metavar="FILE", help="default: one in runs/benchmarks/"
        )
        if repeats:
            added.add_argument(
                "--repeats", type=_positive, default=repeats, help=f"default: {repeats}"
            )
        return added

    def with_peers(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--peer",
            dest="peers",
            type=_peer,
            action="append",
            default=[],
            metavar="NAME=COMMAND",
            help="a program to take turns with; may be given several times",
        )

    def with_flags(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--flag",
            dest="flags",
            action="append",
            default=[],
            metavar="--NAME=VALUE",
            help="for trainer.task, as --flag=--NAME=VALUE; may be given several times",
        )

    added = command(results, repeats=None)
    added.add_argument("--model", default="mlp")
    added.add_argument("--epochs", type=_positive, default=5)
    added.add_argument("--seeds", type=_positive, default=5)
    with_flags(added)

    with_peers(command(jobs))

    added = command(steps)
    added.add_argument("--model", default="mlp")
    added.add_argument("--batch_size", type=_positive, nargs="+", default=[128, 256])
    added.add_argument(
        "--epochs", type=_positive, default=5, help="the first is left out; default: 5"
    )
    with_flags(added)
    with_peers(added)

    added = command(target, repeats=None)
    added.add_argument("--model", default="cnn")
    added.add_argument("--accuracy", type=float, default=0.99)
    added.add_argument("--seeds", type=_positive, default=5)
    with_flags(added)
    with_peers(added)

    command(start)
    command(growth)
    command(pipeline, repeats=None)
    command(floor, repeats=None)
    command(summaries)

    added = command(workers)
    added.add_argument("--counts", type=_positive, nargs="+", default=[1, 2, 4])
    added.add_argument("--model", default="cnn")
    added.add_argument("--batch_size", type=_positive, default=512, help="for each worker")
    return parser


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _peer(text: str) -> tuple[str, str]:
    name, equals, command = text.partition("=")
    if not (name and equals and command):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COMMAND")
    return name, command


class Trained(NamedTuple):
    """What a run of `trainer.task` left, and took."""

    metrics: dict
    history: list[dict[str, str]]
    done: Done


def train(*flags: str) -> Trained:
    """Runs `trainer.task` as a process."""
    with tempfile.TemporaryDirectory() as directory:
        run = pathlib.Path(directory) / "run"
        command = [sys.executable, "-m", "trainer.task", f"--model_dir={run}", "--dataset=mnist"]
        done = timed([*command, *flags])
        with open(run / "history.csv", newline="") as history:
            rows = list(csv.DictReader(history))
        return Trained(json.loads((run / "metrics.json").read_text()), rows, done)


class Done(NamedTuple):
    """What a command printed, and took."""

    output: str
    seconds: float
    processor_seconds: float  # less noisy beside other programs
    peak_bytes: int


def timed(command: Sequence[str]) -> Done:
    """Runs a command in the project's directory, with its wall time and peak resident memory."""
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: exit code {process.returncode} of: {shlex.join(command)}")
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = time.perf_counter() - started
    return Done(output, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def _epochs_of(done: Done) -> list[float]:
    """The sums of `train_seconds` that a peer printed."""
    lines = map(json.loads, done.output.splitlines())
    return [line["train_seconds"] for line in lines if "train_seconds" in line]


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _input_wait(metrics: Mapping[str, Any]) -> float:
    """The share of the loop, its first call left out, that waits for the input pipeline."""
    waited, trained = (metrics["seconds"].get(phase, 0.0) for phase in ("input", "training"))
    return waited / (waited + trained)


def results(record: Record, model: str, epochs: int, seeds: int, flags: Sequence[str]) -> None:
    """A row of the results table: means and medians of runs of several seeds."""
    for seed in range(1, seeds + 1):
        run = train(f"--model={model}", f"--epochs={epochs}", f"--seed={seed}", *flags)
        record.run(
            seed=seed,
            test_accuracy=run.metrics["test_accuracy"],
            calibration_error=run.metrics["test_calibration_error"],
            train_seconds=run.metrics["train_seconds"],
            wall_seconds=run.done.seconds,
            digits_per_second=run.metrics["examples_per_second"],
            peak_bytes=run.done.peak_bytes,
            input_wait=_input_wait(run.metrics),
        )
    accuracies = [run["test_accuracy"] for run in record.runs]
    error = statistics.mean(run["calibration_error"] for run in record.runs)
    medians = ("train_seconds", "wall_seconds", "digits_per_second", "peak_bytes", "input_wait")
    record.row(
        model=model,
        parameters=run.metrics["parameters"],
        precision=run.metrics["precision"],
        epochs=epochs,
        seeds=seeds,
        test_accuracy=statistics.mean(accuracies),
        standard_deviation=statistics.stdev(accuracies) if seeds > 1 else None,
        calibration_error=error,
        **{name: _median(record.runs, name) for name in medians},
    )


def jobs(record: Record, repeats: int, peers: Sequence[tuple[str, str]]) -> None:
    """The whole default job against peers (without --peer, scripts/peers/keras_fit.py)."""
    peers = peers or [("keras_fit", f"{shlex.quote(sys.executable)} scripts/peers/keras_fit.py")]
    commands: dict[str, Callable[[], Done]] = {"trainer.task": lambda: train().done}
    for name, command in peers:
        commands[name] = functools.partial(timed, shlex.split(command))
    found: dict[str, list[dict]] = {name: [] for name in commands}
    for turn in range(1, repeats + 1):
        for name, run in commands.items():
            done = run()
            taken = {"wall_seconds": done.seconds, "peak_bytes": done.peak_bytes}
            found[name].append(record.run(turn=turn, program=name, **taken))
    medians = {
        name: {key: _median(runs, key) for key in ("wall_seconds", "peak_bytes")}
        for name, runs in found.items()
    }
    ours = medians["trainer.task"]
    for name, its in medians.items():
        record.row(
            program=name,
            **its,
            time_ratio=ours["wall_seconds"] / its["wall_seconds"],
            memory_ratio=ours["peak_bytes"] / its["peak_bytes"],
        )


def steps(
    record: Record,
    model: str,
    batch_size: Sequence[int],
    epochs: int,
    repeats: int,
    flags: Sequence[str],
    peers: Sequence[tuple[str, str]],
) -> None:
    """The steady state of a model and of peers, the first epoch left out, and the floor.

    Without augmentation, which the peers do not have. The floor is what the matrix products alone
    would take at the rate of large ones of the same precision. Where a peer's command says
    {batch_size} or {epochs}, it is told.
    """
    if epochs < 2:
        raise SystemExit("error: --epochs has to be 2 or more, because the first is left out")
    for size in batch_size:
        rates: dict[str, list[dict]] = {}
        for turn in range(1, repeats + 1):
            fixed = (f"--model={model}", f"--batch_size={size}", f"--epochs={epochs}")
            run = train(*fixed, "--augment=none", "--summaries=minimal", *flags)
            counts = [int(row["step"]) * size for row in run.history]
            rate = _steady_rate(counts, [float(row["train_seconds"]) for row in run.history])
            # The peers gather their batches within the time they count.
            found = {model: rate * (1 - _input_wait(run.metrics))}
            for name, command in peers:
                command = command.format(batch_size=size, epochs=epochs)
                seconds = _epochs_of(timed(shlex.split(command)))
                whole = 60_000 // size * size
                counts = [whole * (epoch + 1) for epoch in range(len(seconds))]
                found[name] = _steady_rate(counts, seconds)
            for name, rate in found.items():
                told = record.run(turn=turn, batch_size=size, program=name, digits_per_second=rate)
                rates.setdefault(name, []).append(told)
        precision = run.metrics["precision"]
        limit = _floor(model, precision)
        for name, runs in rates.items():
            rate = _median(runs, "digits_per_second")
            record.row(
                batch_size=size,
                program=f"{model}, {precision}" if name == model else name,
                digits_per_second=rate,
                step_seconds=size / rate,
                times_as_fast=_median(rates[model], "digits_per_second") / rate,
                floor=rate / limit if name == model else None,
            )


def _steady_rate(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """Digits a second of the median epoch after the first, from the sums at each epoch's end."""
    epochs = zip(itertools.pairwise(counts), itertools.pairwise(seconds), strict=True)
    return statistics.median((n - m) / (late - early) for (m, n), (early, late) in epochs)


def _floor(model: str, precision: str) -> float:
    """Digits a second that the matrix products alone would allow."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "floor.json")
        # A process of its own, because TensorFlow's threads and memory would stay in this one.
        timed([sys.executable, __file__, "floor", f"--json={path}"])
        runs = json.loads(path.read_text())["runs"]
    rates = {run["precision"]: run["operations_per_second"] for run in runs if "precision" in run}
    counts = {run["model"]: run["operations_per_digit"] for run in runs if "model" in run}
    return rates[precision] / counts[model]


def floor(record: Record) -> None:
    """The rate of large matrix products, and what each model takes of them for a digit."""
    from trainer.process import startup

    tf = startup.import_tensorflow()  # without its remarks
    from trainer.model import networks

    for precision in ("float32", "bfloat16"):
        square = tf.cast(tf.random.uniform((2048, 2048)), precision)
        times = []
        for _ in range(11):
            started = time.perf_counter()
            (square @ square)[0, 0].numpy()
            times.append(time.perf_counter() - started)
        rate = 2 * 2048**3 / min(times)
        record.row(**record.run(precision=precision, operations_per_second=rate))
    for model in networks.MODELS:
        count = operations(networks.build(model))
        record.row(**record.run(model=model, operations_per_digit=count))


def operations(model: keras.Model) -> int:
    """Returns the floating-point operations that training takes for a digit: products alone.

    Two for each weight and each place that it is used at, once forward and twice backward, but for
    the gradient of the pixels, which nobody needs.

    Args:
      model: from `networks.build`, not for XLA, whose first convolution takes more.
    """
    count = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            places = int(np.prod(layer.output.shape[1:-1]))
            products = 2 * places * int(np.prod(layer.kernel.shape))
            count += products * (3 if count else 2)
    return count


def target(
    record: Record,
    model: str,
    accuracy: float,
    seeds: int,
    flags: Sequence[str],
    peers: Sequence[tuple[str, str]],
) -> None:
    """The training time of the shortest schedule that reaches a mean test accuracy.

    Each run is judged at its end, once. Times are of training and what it waits for; a peer, which
    takes its turn after each seed, is timed by its first epoch, in which Keras's `fit` validates as
    well.
    """
    for epochs in range(1, 21):
        schedule = (f"--model={model}", f"--epochs={epochs}", "--summaries=minimal", *flags)
        ours: list[dict] = []
        theirs: dict[str, list[dict]] = {name: [] for name, _ in peers}
        for seed in range(1, seeds + 1):
            row = train(*schedule, f"--seed={seed}").metrics
            phases = row["seconds"]
            seconds = row["train_seconds"] + phases["pipeline"] + phases.get("input", 0.0)
            accurate = {"test_accuracy": row["test_accuracy"], "train_seconds": seconds}
            ours.append(record.run(epochs=epochs, seed=seed, program=model, **accurate))
            for name, command in peers:
                first = _epochs_of(timed(shlex.split(command)))[0]
                theirs[name].append(record.run(program=name, train_seconds=first))
        mean = statistics.mean(run["test_accuracy"] for run in ours)
        if mean >= accuracy:
            break
        print(f"{epochs} epochs: test accuracy {mean:.2%} in the mean, too low", flush=True)
    else:
        raise SystemExit(f"error: {accuracy:.2%} was not reached")
    seconds = _median(ours, "train_seconds")
    record.row(
        program=model, epochs=epochs, test_accuracy=mean, train_seconds=seconds, time_ratio=None
    )
    for name, runs in theirs.items():
        first = _median(runs, "train_seconds")
        record.row(
            program=name,
            epochs=1,
            test_accuracy=None,
            train_seconds=first,
            time_ratio=seconds / first,
        )


def growth(record: Record, repeats: int) -> None:
    """What more epochs cost in memory, and more digits in memory and time."""
    from trainer import data

    # First, because a process counts the peak of the one that started it as its own.
    found: dict[int, list[dict]] = {5: [], 50: []}
    for _ in range(repeats):
        for epochs, runs in found.items():
            done = train(f"--epochs={epochs}").done
            runs.append(record.run(epochs=epochs, peak_bytes=done.peak_bytes))
    for epochs, runs in found.items():
        record.row(epochs=epochs, peak_bytes=_median(runs, "peak_bytes"))
    mnist = data.load("mnist")
    found = {1: [], 10: []}
    with tempfile.TemporaryDirectory() as directory:
        for times in found:
            _write_npz(pathlib.Path(directory, str(times)), mnist, 60_000 * times)
        for _ in range(repeats):
            for times, runs in found.items():
                # As many steps of each.
                flags = (f"--data_dir={directory}/{times}", f"--epochs={10 // times}")
                more = ("--batch_size=128", "--summaries=minimal", "--validation_examples=0")
                run = train(*flags, *more)
                rate = run.metrics["examples_per_second"] * (1 - _input_wait(run.metrics))
                runs.append(
                    record.run(
                        training_digits=60_000 * times,
                        step_seconds=128 / rate,
                        pipeline_seconds=run.metrics["seconds"]["pipeline"],
                        peak_bytes=run.done.peak_bytes,
                    )
                )
    for runs in found.values():
        record.row(**{name: _median(runs, name) for name in runs[0]})


def _write_npz(directory: pathlib.Path, mnist: Dataset, examples: int) -> None:
    """Writes MNIST with so many training digits, taken again and again, into a new directory."""
    directory.mkdir()
    np.savez(
        directory / "mnist.npz",
        x_train=np.resize(mnist.train_images, (examples, 28, 28)),
        y_train=np.resize(mnist.train_labels, examples),
        x_test=mnist.test_images[:100],
        y_test=mnist.test_labels[:100],
    )


# Nothing but the import, and that without TensorFlow's remarks.
_IMPORT = "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 2); import tensorflow"


def start(record: Record, repeats: int) -> None:
    """The phases of the default job, and its start beside a bare import of TensorFlow."""
    for turn in range(1, repeats + 1):
        seconds = train().metrics["seconds"]  # first, because it says why where it cannot import
        bare = timed([sys.executable, "-c", _IMPORT]).seconds
        record.run(turn=turn, import_tensorflow=bare, **seconds)
    phases = list(record.runs[0])[2:]
    for phase in phases:
        record.row(phase=phase, seconds=_median(record.runs, phase))
    before = phases[: phases.index("first_loop")]
    alone = _median(record.runs, "import_tensorflow")
    record.row(until="import tensorflow, and nothing else", seconds=alone, ratio=1.0)
    for until, parts in {
        "the first step is asked for": before,
        "the first loop is compiled and done": [*before, "first_loop"],
    }.items():
        seconds = statistics.median(sum(run[part] for part in parts) for run in record.runs)
        record.row(until=until, seconds=seconds, ratio=seconds / alone)


def pipeline(record: Record) -> None:
    """What the input pipeline alone delivers, with each augmentation."""
    from trainer import data
    from trainer.process import startup

    startup.import_tensorflow()  # without its remarks
    from trainer.data import pipeline as of_trainer
    from trainer.model.recipes import AUGMENTATIONS

    mnist = data.load("mnist")
    for augment in AUGMENTATIONS:
        [dataset] = of_trainer.training_batches(
            mnist.train_images,
            mnist.train_labels,
            global_batch_size=128,
            seed=1,
            augment=augment,
            first_step=0,
            last_step=100_000,
            steps_per_loop=100,
        )
        batches = iter(dataset)
        next(batches)
        times = []
        for _ in range(20):
            started = time.perf_counter()
            next(batches)
            times.append(time.perf_counter() - started)
        rate = 12_800 / statistics.median(times)
        record.row(**record.run(augment=augment, digits_per_second=rate))


def summaries(record: Record, repeats: int) -> None:
    """The job with all that TensorBoard shows, and with curves alone."""
    found: dict[str, list[dict]] = {"minimal": [], "full": []}
    for turn in range(1, repeats + 1):
        for kind in found if turn % 2 else reversed(found):
            done = train(f"--summaries={kind}").done
            taken = {"wall_seconds": done.seconds, "processor_seconds": done.processor_seconds}
            found[kind].append(record.run(turn=turn, summaries=kind, **taken))
    least = _median(found["minimal"], "processor_seconds")
    for kind, runs in found.items():
        seconds = _median(runs, "processor_seconds")
        record.row(
            summaries=kind,
            wall_seconds=_median(runs, "wall_seconds"),
            processor_seconds=seconds,
            ratio=seconds / least,
        )


def workers(
    record: Record, counts: Sequence[int], model: str, batch_size: int, repeats: int
) -> None:
    """The weak scaling of several workers, each on a core, with a batch for each (Linux)."""
    from trainer import data
    from trainer.model.recipes import RECIPES

    mnist = data.load("mnist")
    found: dict[int, list[dict]] = {count: [] for count in counts}
    # As many steps for each count: one call of the loop to compile it, five that are measured.
    steps = 6 * RECIPES[model].steps_per_loop
    with tempfile.TemporaryDirectory() as directory:
        for count in counts:
            _write_npz(pathlib.Path(directory, str(count)), mnist, steps * batch_size * count)
        for turn in range(1, repeats + 1):
            for count, runs in found.items():
                rate = _rate_of_workers(count, model, batch_size, f"{directory}/{count}")
                runs.append(record.run(turn=turn, workers=count, digits_per_second=rate))
    cores = len(os.sched_getaffinity(0))
    for count, runs in found.items():
        rate = _median(runs, "digits_per_second")
        record.row(
            workers=count,
            cores=min(count, cores),
            digits_per_second=rate,
            ratio=rate / _median(found[counts[0]], "digits_per_second"),
            step_seconds=batch_size * count / rate,
        )


def _rate_of_workers(count: int, model: str, batch_size: int, data_dir: str) -> float:
    cores = sorted(os.sched_getaffinity(0))
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    for listener in listeners:
        listener.close()
    with tempfile.TemporaryDirectory() as directory:
        run = pathlib.Path(directory) / "run"
        command = [sys.executable, "-m", "trainer.task", f"--model_dir={run}", f"--model={model}"]
        command += ["--dataset=mnist", f"--data_dir={data_dir}", "--validation_examples=0"]
        command += ["--epochs=1", f"--batch_size={batch_size * count}"]
        processes = []
        for index in range(count):
            task = {"type": "worker", "index": index}
            settings = json.dumps({"cluster": {"worker": addresses}, "task": task})
            core = str(cores[index % len(cores)])
            processes.append(
                subprocess.Popen(
                    ["taskset", "--cpu-list", core, *command, "--summaries=minimal"],
                    cwd=ROOT,
                    env={**os.environ, "TF_CONFIG": settings},
                    stdout=subprocess.DEVNULL,
                )
            )
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"error: the workers left with {codes}")
        return json.loads((run / "metrics.json").read_text())["examples_per_second"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
