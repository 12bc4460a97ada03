#!/usr/bin/env python3
"""Measures what the README states, with real MNIST and whole processes.

  scripts/benchmark.py results --model mlp --seeds 5     a row of the results table
  scripts/benchmark.py jobs --repeats 3                  the whole job against scripts/peers/
  scripts/benchmark.py jobs --peer mine='python my.py'   ... or against any other program
  scripts/benchmark.py steps --peer jax='python scripts/peers/jax_mlp.py {batch_size}'
                                                         steady state of mlp, peers, and the floor
  scripts/benchmark.py target --model cnn --peer keras='python scripts/peers/keras_convnet.py 1'
                                                         training time until 99.0 % of the test
  scripts/benchmark.py start                             how long until the first step, by phase
  scripts/benchmark.py growth                            what more examples and more epochs cost
  scripts/benchmark.py pipeline                          the input pipeline alone
  scripts/benchmark.py summaries --repeats 3             what all that TensorBoard shows costs a job
  scripts/benchmark.py workers --counts 1 2 4            weak scaling: workers pinned to a core each

A peer prints JSON lines, the last with `wall_seconds`; one that takes part in `steps` prints one an
epoch before, with the sum of `train_seconds` so far. Those in scripts/peers/ read $MNIST_DATA_DIR.
Jobs take turns, and medians are compared,
because machines are noisy; so is everything that runs beside this.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import os
import pathlib
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from trainer.data import Dataset

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(argv: Sequence[str]) -> int:
    """Runs one measurement and prints its table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    results_parser = commands.add_parser("results", help="accuracy and time over several seeds")
    results_parser.add_argument("--model", default="mlp")
    results_parser.add_argument("--epochs", type=int, default=5)
    results_parser.add_argument("--seeds", type=int, default=5)
    results_parser.add_argument("--flag", action="append", default=[], help="for trainer.task")
    jobs_parser = commands.add_parser("jobs", help="whole processes, taking turns")
    jobs_parser.add_argument("--repeats", type=int, default=3)
    keras_fit = f"keras_fit={shlex.quote(sys.executable)} scripts/peers/keras_fit.py"
    jobs_parser.add_argument("--peer", action="append", metavar="NAME=COMMAND")
    steps_parser = commands.add_parser("steps", help="examples a second once all is warm")
    steps_parser.add_argument("--batch_size", type=int, nargs="+", default=[128, 256])
    steps_parser.add_argument("--repeats", type=int, default=3)
    steps_parser.add_argument("--peer", action="append", metavar="NAME=COMMAND", default=[])
    target_parser = commands.add_parser("target", help="training time to an accuracy")
    target_parser.add_argument("--model", default="cnn")
    target_parser.add_argument("--accuracy", type=float, default=0.99)
    target_parser.add_argument("--seeds", type=int, default=5)
    target_parser.add_argument("--flag", action="append", default=[], help="for trainer.task")
    target_parser.add_argument("--peer", action="append", metavar="NAME=COMMAND", default=[])
    growth_parser = commands.add_parser("growth", help="a step's time and the memory, with size")
    growth_parser.add_argument("--repeats", type=int, default=3)
    start_parser = commands.add_parser("start", help="seconds until the first step, by phase")
    start_parser.add_argument("--repeats", type=int, default=3)
    commands.add_parser("pipeline", help="examples a second that the input pipeline delivers")
    summaries_parser = commands.add_parser("summaries", help="the job with and without pictures")
    summaries_parser.add_argument("--repeats", type=int, default=3)
    workers_parser = commands.add_parser("workers", help="weak scaling of several workers (Linux)")
    workers_parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    workers_parser.add_argument("--model", default="cnn")
    workers_parser.add_argument("--batch_size", type=int, default=512, help="for each worker")
    workers_parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    if options.command == "results":
        results(options.model, options.epochs, options.seeds, options.flag)
    elif options.command == "jobs":
        jobs(options.repeats, options.peer or [keras_fit])
    elif options.command == "steps":
        steps(options.batch_size, options.repeats, options.peer)
    elif options.command == "target":
        target(options.model, options.accuracy, options.seeds, options.flag, options.peer)
    elif options.command == "growth":
        growth(options.repeats)
    elif options.command == "start":
        start(options.repeats)
    elif options.command == "summaries":
        summaries(options.repeats)
    elif options.command == "workers":
        workers(options.counts, options.model, options.batch_size, options.repeats)
    else:
        pipeline_alone()
    return 0


def results(model: str, epochs: int, seeds: int, flags: Sequence[str]) -> None:
    """Prints a run for each seed, then means."""
    rows = []
    for seed in range(1, seeds + 1):
        run = train(f"--model={model}", f"--epochs={epochs}", f"--seed={seed}", *flags)
        row = run.metrics | {"peak_bytes": run.done.peak_bytes}
        rows.append(row)
        print(
            f"seed {seed}: test {row['test_accuracy']:.2%}, training {row['train_seconds']:.1f} s,"
            f" whole job {row['wall_seconds']:.1f} s, {row['examples_per_second']:,} digits/s",
            flush=True,
        )
    accuracies = [row["test_accuracy"] for row in rows]
    error = statistics.mean(row["test_calibration_error"] for row in rows)
    spread = statistics.stdev(accuracies) if seeds > 1 else 0.0
    print(
        f"{model}, {epochs} epochs, {rows[0]['parameters']:,} parameters, mean of {seeds} seeds:"
        f" test {statistics.mean(accuracies):.2%} (standard deviation {spread:.2%}),"
        f" calibration error {error:.1%};"
        f" medians: training {_median(rows, 'train_seconds'):.1f} s,"
        f" whole job {_median(rows, 'wall_seconds'):.1f} s,"
        f" {_median(rows, 'examples_per_second'):,.0f} digits/s,"
        f" {_median(rows, 'peak_bytes') / 1e6:,.0f} MB,"
        f" waiting for input {statistics.median(map(_input_wait, rows)):.1%} of the loop"
    )


def _input_wait(metrics: dict) -> float:
    """The share of the loop, its first call left out, that waits for the input pipeline."""
    waited, trained = (metrics["seconds"].get(phase, 0.0) for phase in ("input", "training"))
    return waited / (waited + trained)


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
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = time.perf_counter() - started
    return Done(output, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def jobs(repeats: int, peers: Sequence[str]) -> None:
    """Prints median wall times of whole processes, and their ratio."""
    commands: dict[str, Callable[[], Done]] = {"trainer.task": lambda: train().done}
    for peer in peers:
        name, _, command = peer.partition("=")
        commands[name] = functools.partial(timed, shlex.split(command))
    found: dict[str, list[Done]] = {name: [] for name in commands}
    for turn in range(repeats):
        for name, run in commands.items():
            found[name].append(run())
            print(f"turn {turn + 1}: {name} {found[name][-1].seconds:.1f} s", flush=True)
    for name, done in found.items():
        seconds = statistics.median(each.seconds for each in done)
        peak = statistics.median(each.peak_bytes for each in done)
        if name == "trainer.task":
            our_seconds, our_peak = seconds, peak
        print(
            f"{name}: median {seconds:.1f} s and {peak / 1e6:,.0f} MB; trainer.task takes"
            f" {our_seconds / seconds:.2f} of the time and {our_peak / peak:.2f} of the memory"
        )


def summaries(repeats: int) -> None:
    """Prints what `--summaries=full`, the default, costs in wall and processor time."""
    spent: dict[str, list[tuple[float, float]]] = {"full": [], "minimal": []}
    for turn in range(repeats):
        for kind in ("full", "minimal") if turn % 2 else ("minimal", "full"):
            done = train(f"--summaries={kind}").done
            spent[kind].append((done.seconds, done.processor_seconds))
            print(f"turn {turn + 1}: {kind} {done.seconds:.1f} s", flush=True)
    for number, name in enumerate(("wall", "processor")):
        medians = {kind: statistics.median(row[number] for row in spent[kind]) for kind in spent}
        print(
            f"{name} time: full {medians['full']:.2f} s, minimal {medians['minimal']:.2f} s,"
            f" {medians['full'] / medians['minimal'] - 1:+.1%}"
        )


def steps(batch_sizes: Sequence[int], repeats: int, peers: Sequence[str]) -> None:
    """Prints examples a second of `mlp` and of peers, the first epoch left out, and the floor.

    All train the same network without augmentation, in float32. The floor is what the matrix
    products alone would take at the rate of large ones.
    """
    product = _products_per_second()
    print(f"matrix products of 2048 x 2048: {product / 1e9:.0f} GFLOP/s (the best of 10)")
    for batch_size in batch_sizes:
        rates: dict[str, list[float]] = {"mlp": []}
        for _ in range(repeats):
            flags = (f"--batch_size={batch_size}", "--augment=none", "--summaries=minimal")
            run = train(*flags)
            counts = [int(row["step"]) * batch_size for row in run.history]
            rate = _steady_rate(counts, [float(row["train_seconds"]) for row in run.history])
            # The peers gather their batches within the time they count.
            rates["mlp"].append(rate * (1 - _input_wait(run.metrics)))
            for peer in peers:
                name, _, command = peer.partition("=")
                done = timed(shlex.split(command.format(batch_size=batch_size)))
                lines = [json.loads(line) for line in done.output.splitlines()]
                seconds = [line["train_seconds"] for line in lines if "train_seconds" in line]
                whole = 60_000 // batch_size * batch_size
                counts = [whole * (epoch + 1) for epoch in range(len(seconds))]
                rates.setdefault(name, []).append(_steady_rate(counts, seconds))
        ours = statistics.median(rates["mlp"])
        for name, found in rates.items():
            rate = statistics.median(found)
            print(
                f"batch {batch_size}, {name}: {rate:,.0f} digits/s,"
                f" {1e3 * batch_size / rate:.3f} ms a step; mlp is {ours / rate:.2f} times as fast"
            )
        # Forward and backward through 784 x 128 and 128 x 10, without the gradient of the pixels.
        floor = 2 * (2 * 784 * 128 + 3 * 128 * 10) / product
        print(f"batch {batch_size}: {ours * floor:.0%} of the floor's rate", flush=True)


def _steady_rate(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """Digits a second of the median epoch after the first, from the sums at each epoch's end."""
    epochs = zip(itertools.pairwise(counts), itertools.pairwise(seconds), strict=True)
    return statistics.median((n - m) / (late - early) for (m, n), (early, late) in epochs)


def _products_per_second() -> float:
    """Floating-point operations a second of large float32 matrix products in TensorFlow."""
    program = """
import time, tensorflow as tf
a = tf.random.uniform((2048, 2048))
times = []
for _ in range(11):
    started = time.perf_counter()
    (a @ a)[0, 0].numpy()
    times.append(time.perf_counter() - started)
print(2 * 2048**3 / min(times))
"""
    return float(timed([sys.executable, "-c", program]).output)


def target(
    model: str, accuracy: float, seeds: int, flags: Sequence[str], peers: Sequence[str]
) -> None:
    """Prints the shortest schedule, in epochs, whose mean test accuracy is high enough.

    Each run is judged at its end, once. Times are of training and what it waits for; a peer's
    figure is the training time of its first epoch, in which Keras's `fit` validates as well.
    """

    def seconds(row: dict) -> float:
        return row["train_seconds"] + row["seconds"]["pipeline"] + row["seconds"].get("input", 0.0)

    for epochs in range(1, 21):
        schedule = (f"--model={model}", f"--epochs={epochs}", "--summaries=minimal", *flags)
        rows = [train(*schedule, f"--seed={seed}").metrics for seed in range(1, seeds + 1)]
        mean = statistics.mean(row["test_accuracy"] for row in rows)
        ours = statistics.median(map(seconds, rows))
        print(f"{model}, {epochs} epochs: test {mean:.2%}, training {ours:.1f} s", flush=True)
        if mean >= accuracy:
            break
    else:
        raise SystemExit(f"{accuracy:.2%} was not reached")
    for peer in peers:
        name, _, command = peer.partition("=")
        lines = map(json.loads, timed(shlex.split(command)).output.splitlines())
        epoch = next(line["train_seconds"] for line in lines if "train_seconds" in line)
        print(f"{name}: its first epoch takes {epoch:.1f} s; ratio {ours / epoch:.2f}")


def growth(repeats: int) -> None:
    """Prints the memory of more epochs, and what 600,000 digits take instead of 60,000."""
    from trainer import data

    # First, because a process counts the peak of the one that started it as its own.
    peaks: dict[int, list[float]] = {5: [], 50: []}
    for _ in range(repeats):
        for epochs, peak in peaks.items():
            peak.append(train(f"--epochs={epochs}").done.peak_bytes / 1e6)
    for epochs, peak in peaks.items():
        print(f"{epochs} epochs: {statistics.median(peak):,.0f} MB at the most")
    mnist = data.load("mnist")
    found: dict[int, list[Trained]] = {1: [], 10: []}
    with tempfile.TemporaryDirectory() as directory:
        for times in found:
            _write_npz(pathlib.Path(directory, str(times)), mnist, 60_000 * times)
        for _ in range(repeats):
            for times, runs in found.items():
                # As many steps of each.
                flags = (f"--data_dir={directory}/{times}", f"--epochs={10 // times}")
                more = ("--batch_size=128", "--summaries=minimal", "--validation_examples=0")
                runs.append(train(*flags, *more))
    for times, runs in found.items():
        rows = [run.metrics for run in runs]
        steps = [128e3 / row["examples_per_second"] / (1 - _input_wait(row)) for row in rows]
        pipeline = statistics.median(row["seconds"]["pipeline"] for row in rows)
        peak = statistics.median(run.done.peak_bytes for run in runs) / 1e6
        print(
            f"{60_000 * times:,} digits: {statistics.median(steps):.3f} ms a step, input included;"
            f" {pipeline:.1f} s until the first is there; {peak:,.0f} MB at the most"
        )


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


def start(repeats: int) -> None:
    """Prints the phases of the default job, and its start beside a bare `import tensorflow`."""
    rows, bare = [], []
    for _ in range(repeats):
        bare.append(timed([sys.executable, "-c", "import tensorflow"]).seconds)
        rows.append(train().metrics["seconds"])
    for phase in rows[0]:
        print(f"{phase}: {statistics.median(row[phase] for row in rows):.2f} s")
    phases = list(rows[0])
    before = phases[: phases.index("first_loop")]
    until = statistics.median(sum(row[phase] for phase in before) for row in rows)
    compiled = statistics.median(sum(row[p] for p in (*before, "first_loop")) for row in rows)
    alone = statistics.median(bare)
    print(
        f"first step asked for after {until:.1f} s, the first loop compiled and done after"
        f" {compiled:.1f} s; import tensorflow alone takes {alone:.1f} s:"
        f" {until / alone:.2f} and {compiled / alone:.2f} times as long"
    )


def pipeline_alone() -> None:
    """Prints what the input pipeline delivers when nothing consumes it, for each augmentation."""
    from trainer import data, pipeline
    from trainer.recipes import AUGMENTATIONS

    mnist = data.load("mnist")
    for augment in AUGMENTATIONS:
        batches = iter(
            pipeline.training_batches(
                mnist.train_images,
                mnist.train_labels,
                global_batch_size=128,
                seed=1,
                augment=augment,
                first_step=0,
                last_step=100_000,
                steps_per_loop=100,
            )
        )
        next(batches)
        times = []
        for _ in range(20):
            started = time.perf_counter()
            next(batches)
            times.append(time.perf_counter() - started)
        print(f"augment={augment}: {12_800 / statistics.median(times):,.0f} digits/s")


def workers(counts: Sequence[int], model: str, batch_size: int, repeats: int) -> None:
    """Prints digits a second of so many workers, each on a core, with a batch for each."""
    from trainer import data
    from trainer.recipes import RECIPES

    mnist = data.load("mnist")
    rates: dict[int, list[float]] = {count: [] for count in counts}
    # As many steps for each count: one call of the loop to compile it, five that are measured.
    steps = 6 * RECIPES[model].steps_per_loop
    with tempfile.TemporaryDirectory() as directory:
        for count in counts:
            _write_npz(pathlib.Path(directory, str(count)), mnist, steps * batch_size * count)
        for turn in range(repeats):
            for count in counts:
                place = f"{directory}/{count}"
                rates[count].append(_rate_of_workers(count, model, batch_size, place))
                print(f"turn {turn + 1}: {count} workers {rates[count][-1]:,} digits/s", flush=True)
    base = statistics.median(rates[counts[0]])
    cores = len(os.sched_getaffinity(0))
    for count, found in rates.items():
        rate = statistics.median(found)
        print(
            f"{count} workers on {min(count, cores)} cores: median {rate:,.0f} digits/s,"
            f" {rate / base:.2f} times {counts[0]}, {1e3 * batch_size * count / rate:.1f} ms a step"
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


def _median(rows: Sequence[dict], name: str) -> float:
    return statistics.median(row[name] for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
