"""Where the time of a run goes: phases that add up."""

from __future__ import annotations

import time

import conftest
import pytest
import runs

import trainer
from trainer.process.stopwatch import Stopwatch


def test_every_moment_since_the_start_belongs_to_one_phase() -> None:
    stopwatch = Stopwatch()
    stopwatch.lap("start")
    for phase in ("one", "two", "one"):
        time.sleep(0.01)
        assert stopwatch.lap(phase) >= 0.01
    elapsed = time.perf_counter() - trainer.STARTED
    assert list(stopwatch.seconds) == ["start", "one", "two"]
    assert stopwatch.seconds["one"] >= 0.02
    assert sum(stopwatch.seconds.values()) == pytest.approx(stopwatch.total, abs=0.002)
    assert stopwatch.total == pytest.approx(elapsed, abs=0.1)


def test_a_run_says_where_its_time_went(trained: conftest.Run) -> None:
    metrics = runs.metrics(trained.directory)
    assert sum(metrics["seconds"].values()) == pytest.approx(metrics["wall_seconds"], abs=0.01)
    for phase in ("imports", "pipeline", "first_loop", "input", "training", "validation", "export"):
        assert metrics["seconds"][phase] > 0
