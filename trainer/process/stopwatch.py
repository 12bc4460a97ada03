"""Where the time of a run goes, by phase.

Apart because the job and its loop share one.
"""

from __future__ import annotations

import time

import trainer


class Stopwatch:
    """Counts the seconds of each phase, from the start of the process; no moment counts twice."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = trainer.STARTED

    def lap(self, phase: str) -> float:
        """Gives a phase the time since the last lap; returns how many seconds that is."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
        return seconds

    @property
    def total(self) -> float:
        """Seconds from the start of the process to the last lap, to the millisecond."""
        return round(self._since - trainer.STARTED, 3)

    @property
    def seconds(self) -> dict[str, float]:
        """The phases in the order in which they began, to the millisecond."""
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}
