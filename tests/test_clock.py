"""Where the time of a run goes: phases that add up."""

import time

import pytest

import trainer
from trainer.process.clock import Clock


def test_every_moment_since_the_start_belongs_to_one_phase() -> None:
    clock = Clock()
    clock.lap("start")
    for phase in ("one", "two", "one"):
        time.sleep(0.01)
        assert clock.lap(phase) >= 0.01
    assert list(clock.seconds) == ["start", "one", "two"]
    assert clock.seconds["one"] >= 0.02
    assert sum(clock.seconds.values()) == pytest.approx(clock.total, abs=0.002)
    assert clock.total == pytest.approx(time.perf_counter() - trainer.STARTED, abs=0.1)
