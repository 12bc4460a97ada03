#!/usr/bin/env python3
"""Measures the figures of the documents, with real MNIST and whole processes of the trainer.

  scripts/benchmark.py results --model mlp --seeds 5    a row of the table of results
  scripts/benchmark.py jobs --repeats 3                 the whole job against Keras's fit
  scripts/benchmark.py jobs --peer before='env -C /old/checkout .venv/bin/python -m trainer.task
      --dataset=mnist --model_dir={model_dir}'          ... or against another checkout
  scripts/benchmark.py steps --peer jax='python scripts/peers/jax_loop.py mlp {batch_size}'
                                                        steady state, against peers
  scripts/benchmark.py workers --counts 1 2 4           weak scaling: a core for each worker
  scripts/benchmark.py pictures --model_dir RUN         numbers read in pictures, by kind

Prints each run as it ends and then a table in Markdown; both go to a JSON file as well, with the
machine, the versions and the commit. Programs take turns and medians are compared, because machines
are noisy. A peer of `steps` prints a JSON line an epoch, with the sum of `train_seconds` so far.
Needs $MNIST_DATA_DIR for the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import difflib
import importlib.util
import io
import itertools
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmark_record import ROOT, Record

TASK = (sys.executable, "-m", "trainer.task", "--dataset=mnist", "--model_dir={model_dir}")
KERAS = f"{shlex.quote(sys.executable)} scripts/peers/keras_fit.py"


def main(arguments: Sequence[str]) -> int:
    """Runs one benchmark, prints and writes it; returns the exit code."""
    options = _parser().parse_args(arguments)
    if not importlib.util.find_spec("tensorflow"):
        raise SystemExit("error: this Python has no TensorFlow; source .venv/bin/activate first")
    started, record, path = time.time(), Record(), options.json
    if path is None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(started))
        path = ROOT / f"runs/benchmarks/{options.measure.__name__}-{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        options.measure(record, options)
        print(record.table())
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

    def command(measure: Callable[..., None], model: str, *options: str) -> argparse.ArgumentParser:
        text = measure.__doc__.splitlines()[0]
        added = commands.add_parser(measure.__name__, help=text, description=text)
        added.set_defaults(measure=measure)
        added.add_argument("--json", type=pathlib.Path, metavar="FILE", help="in runs/benchmarks/")
        added.add_argument("--model", default=model, help=f"default: {model}")
        listed = {"dest": "flags", "action": "append", "default": [], "metavar": "--NAME=VALUE"}
        added.add_argument("--flag", **listed, help="of trainer.task, as --flag=--NAME=VALUE")
        if "peers" in options:
            listed = {"dest": "peers", "action": "append", "default": [], "metavar": "NAME=COMMAND"}
            added.add_argument("--peer", type=_peer, **listed, help="takes turns; several can")
        if "repeats" in options:
            added.add_argument("--repeats", type=_positive, default=3, help="default: 3")
        return added

    added = command(results, "mlp")
    added.add_argument("--epochs", type=_positive, default=5)
    added.add_argument("--seeds", type=_positive, default=5)
    command(jobs, "mlp", "peers", "repeats")
    added = command(steps, "mlp", "peers", "repeats")
    added.add_argument("--batch_size", type=_positive, nargs="+", default=[128, 256])
    added.add_argument("--epochs", type=_positive, default=5, help="the first is left out")
    added = command(workers, "cnn", "repeats")
    added.add_argument("--counts", type=_positive, nargs="+", default=[1, 2, 4])
    added.add_argument("--batch_size", type=_positive, default=512, help="of each worker")
    added = command(pictures, "cnn")
    added.add_argument("--model_dir", help="of a finished run; else one is trained")
    added.add_argument("--kinds", nargs="+", help="of those in scripts/scenes.py; default: all")
    added.add_argument("--pictures", type=_positive, default=200, help="of each kind; default: 200")
    added.add_argument("--split", choices=("test", "train"), default="test", help="of the digits")
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


class Done(NamedTuple):
    """A process that has ended: its output, time, peak resident memory, and what a run left."""

    output: str
    seconds: float
    peak_bytes: int
    metrics: dict[str, Any]
    history: list[dict[str, str]]


def timed(command: Sequence[str]) -> Done:
    """Runs a command in the project's directory; ends with an error if it fails.

    {model_dir} in it is a temporary directory, in which a trainer leaves metrics and history.
    """
    with tempfile.TemporaryDirectory() as directory:
        run = pathlib.Path(directory, "run")
        command = [argument.replace("{model_dir}", str(run)) for argument in command]
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"error: exit code {process.returncode} of: {shlex.join(command)}")
        peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Done(output, seconds, peak_bytes, *_left_in(run))


def _left_in(run: pathlib.Path) -> tuple[dict, list]:
    """Returns the metrics and the history of a run, empty if there is none."""
    if not (run / "metrics.json").exists():
        return {}, []
    with open(run / "history.csv", newline="") as history:
        return json.loads((run / "metrics.json").read_text()), list(csv.DictReader(history))


def results(record: Record, options: argparse.Namespace) -> None:
    """A row of the table of results: means and medians over several seeds."""
    fixed = (f"--model={options.model}", f"--epochs={options.epochs}", *options.flags)
    for seed in range(1, options.seeds + 1):
        run = timed([*TASK, *fixed, f"--seed={seed}"])
        record.run(
            seed=seed,
            test_accuracy=run.metrics["test_accuracy"],
            calibration_error=run.metrics["test_calibration_error"],
            train_seconds=run.metrics["train_seconds"],
            wall_seconds=run.seconds,
            digits_per_second=run.metrics["examples_per_second"],
            peak_bytes=run.peak_bytes,
        )
    accuracies = [run["test_accuracy"] for run in record.runs]
    medians = ("train_seconds", "wall_seconds", "digits_per_second", "peak_bytes")
    record.row(
        model=options.model,
        parameters=run.metrics["parameters"],
        precision=run.metrics["precision"],
        epochs=options.epochs,
        seeds=options.seeds,
        test_accuracy=statistics.mean(accuracies),
        standard_deviation=statistics.stdev(accuracies) if options.seeds > 1 else None,
        calibration_error=statistics.mean(run["calibration_error"] for run in record.runs),
        **{name: _median(record.runs, name) for name in medians},
    )


def jobs(record: Record, options: argparse.Namespace) -> None:
    """The whole job against peers (without --peer, scripts/peers/keras_fit.py).

    A peer that writes `metrics.json` in the directory {model_dir} is compared by its digits a
    second, too.
    """
    commands = {"trainer.task": [*TASK, f"--model={options.model}", *options.flags]}
    for name, command in options.peers or [("keras_fit", KERAS)]:
        commands[name] = shlex.split(command)
    found: dict[str, list[dict]] = {name: [] for name in commands}
    for turn in range(1, options.repeats + 1):
        for name, command in commands.items():
            done = timed(command)
            measured = {
                "wall_seconds": done.seconds,
                "peak_bytes": done.peak_bytes,
                "digits_per_second": done.metrics.get("examples_per_second"),
            }
            found[name].append(record.run(turn=turn, program=name, **measured))
    medians = {
        name: {column: _median(runs, column) for column in measured} for name, runs in found.items()
    }
    ours = medians["trainer.task"]
    for name, its in medians.items():
        record.row(
            program=name,
            **its,
            time_ratio=ours["wall_seconds"] / its["wall_seconds"],
            memory_ratio=ours["peak_bytes"] / its["peak_bytes"],
        )


def steps(record: Record, options: argparse.Namespace) -> None:
    """The steady state of a model against peers, the first epoch left out.

    Without augmentation, which the peers do not have. {batch_size} and {epochs} in a peer's command
    are replaced.
    """
    model, epochs = options.model, options.epochs
    if epochs < 2:
        raise SystemExit("error: --epochs has to be 2 or more, because the first is left out")
    for size in options.batch_size:
        rates: dict[str, list[dict]] = {}
        for turn in range(1, options.repeats + 1):
            fixed = (f"--model={model}", f"--batch_size={size}", f"--epochs={epochs}")
            run = timed([*TASK, *fixed, "--augment=none", *options.flags])
            counts = [int(row["step"]) * size for row in run.history]
            rate = _steady_rate(counts, [float(row["train_seconds"]) for row in run.history])
            # The peers gather their batches within the time they count.
            waited, trained = (
                run.metrics["seconds"].get(key, 0.0) for key in ("input", "training")
            )
            found = {model: rate * trained / (waited + trained)}
            for name, command in options.peers:
                command = command.format(batch_size=size, epochs=epochs)
                lines = map(json.loads, timed(shlex.split(command)).output.splitlines())
                seconds = [line["train_seconds"] for line in lines if "train_seconds" in line]
                counts = [60_000 // size * size * (epoch + 1) for epoch in range(len(seconds))]
                found[name] = _steady_rate(counts, seconds)
            for name, rate in found.items():
                measured = {"batch_size": size, "program": name, "digits_per_second": rate}
                rates.setdefault(name, []).append(record.run(turn=turn, **measured))
        ours = _median(rates[model], "digits_per_second")
        for name, runs in rates.items():
            rate = _median(runs, "digits_per_second")
            record.row(
                batch_size=size,
                program=f"{model}, {run.metrics['precision']}" if name == model else name,
                digits_per_second=rate,
                step_seconds=size / rate,
                times_as_fast=ours / rate,
            )


def workers(record: Record, options: argparse.Namespace) -> None:
    """The weak scaling of several workers, each pinned to a core, with a batch for each (Linux)."""
    launcher = (sys.executable, "scripts/launch_local.py", "--pin")
    found: dict[int, list[dict]] = {count: [] for count in options.counts}
    for turn in range(1, options.repeats + 1):
        for count, runs in found.items():
            # N workers take N times the batch; N epochs are then as many steps for any N.
            sizes = (f"--batch_size={options.batch_size * count}", f"--epochs={count}")
            fixed = (f"--model={options.model}", "--validation_examples=0", *sizes)
            done = timed([*launcher, f"--workers={count}", "--", *TASK[3:], *fixed, *options.flags])
            rate = done.metrics["examples_per_second"]
            runs.append(record.run(turn=turn, workers=count, digits_per_second=rate))
    for count, runs in found.items():
        rate = _median(runs, "digits_per_second")
        record.row(
            workers=count,
            cores=min(count, len(os.sched_getaffinity(0))),
            digits_per_second=rate,
            ratio=rate / _median(found[options.counts[0]], "digits_per_second"),
            step_seconds=options.batch_size * count / rate,
        )


def pictures(record: Record, options: argparse.Namespace) -> None:
    """Numbers and single digits read in pictures made of MNIST's digits (scripts/scenes.py)."""
    sys.path.insert(1, str(ROOT))
    import scenes

    from trainer import data, predict

    if unknown := {*(options.kinds or ())} - {*scenes.KINDS, *scenes.EMPTY_KINDS}:
        raise SystemExit(f"error: scripts/scenes.py has no kind {', '.join(unknown)}")
    dataset = data.load("mnist")
    digits = [getattr(dataset, f"{options.split}_{part}") for part in ("images", "labels")]
    with tempfile.TemporaryDirectory() as directory:
        model_dir = options.model_dir or os.path.join(directory, "run")
        if not options.model_dir:
            flags = (f"--model_dir={model_dir}", f"--model={options.model}", *options.flags)
            subprocess.run([*TASK[:-1], *flags], cwd=ROOT, check=True)
        classify = predict.load_classifier(predict.find_export(model_dir))
    for kinds in (scenes.KINDS, scenes.EMPTY_KINDS):
        rows = []
        for kind in [kind for kind in kinds if kind in (options.kinds or kinds)]:
            readings = [
                _read(scenes.draw(kind, index, *digits, length=length), index, classify)
                for length in ((None, 1) if kinds is scenes.KINDS else (None,))
                for index in range(options.pictures)
            ]
            rows.append({"kind": kind} | _shares(readings, options.pictures))
            record.row(**rows[-1])
            mistakes = [reading._asdict() for reading in readings if reading.read != reading.true]
            record.run(**rows[-1])["mistakes"] = mistakes
        if rows:
            means = {name: statistics.mean(row[name] for row in rows) for name in [*rows[0]][1:]}
            record.row(kind="mean", **means)


class Reading(NamedTuple):
    """A picture of a kind: the numbers in it, those read, whether they are marked, the time."""

    index: int
    true: list[str]
    read: list[str]
    unsure: list[bool]
    processor_seconds: float


def _read(scene: Any, index: int, classify: Callable) -> Reading:
    from trainer import picture
    from trainer.errors import DataError

    found, started = [], time.process_time()
    with contextlib.suppress(DataError):  # nothing to read
        found = picture.read_numbers(picture.decode(io.BytesIO(scene.content)), classify)
    took = time.process_time() - started
    return Reading(index, scene.numbers, [n.number for n in found], [n.unsure for n in found], took)


def _shares(readings: Sequence[Reading], count: int) -> dict[str, float]:
    """Returns a row of the table: `count` pictures of a kind, then as many of single digits."""
    seconds = [reading.processor_seconds for reading in readings]
    times = {"processor_seconds": statistics.median(seconds), "most_seconds": max(seconds)}
    if len(readings) == count:
        return {"nothing_read": statistics.mean(all(r.unsure) for r in readings)} | times
    whole = readings[:count]
    marked = [(len(n), mark) for r in readings for n, mark in zip(r.read, r.unsure, strict=True)]
    right = sum(_agreeing("".join(r.true), "".join(r.read)) for r in whole)
    return {
        "numbers_read": statistics.mean(map(_numbers_right, whole)),
        "digits_in_place": right / sum(len("".join(r.true)) for r in whole),
        "single_digits_read": statistics.mean(map(_numbers_right, readings[count:])),
        "unsure": sum(n * mark for n, mark in marked) / max(1, sum(n for n, _ in marked)),
        **times,
    }


def _numbers_right(reading: Reading) -> float:
    """Returns the share of the numbers that are read exactly, less one for each too many."""
    surplus = max(0, len(reading.read) - len(reading.true))
    return max(0, _agreeing(reading.true, reading.read) - surplus) / len(reading.true)


def _agreeing(true: Sequence, read: Sequence) -> int:
    """Returns how many parts of two sequences agree in the order they have."""
    return sum(b.size for b in difflib.SequenceMatcher(None, true, read).get_matching_blocks())


def _steady_rate(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """Returns the digits a second of the median epoch after the first.

    Args:
      counts: digits at the end of each epoch, summed.
      seconds: of training until then.
    """
    epochs = zip(itertools.pairwise(counts), itertools.pairwise(seconds), strict=True)
    return statistics.median((n - m) / (late - early) for (m, n), (early, late) in epochs)


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows]
    return None if None in values else statistics.median(values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
