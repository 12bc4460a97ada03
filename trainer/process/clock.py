"""Where the time of a run goes, by phase."""

import time

import trainer


class Clock:
    """Counts the seconds of each phase, to the millisecond, from the start of the process."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = trainer.STARTED

    def lap(self, phase: str) -> float:
        """Adds the time since the last lap to `phase`; returns it in seconds."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
        return seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase, in the order of their first lap."""
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}

    @property
    def total(self) -> float:
        """Seconds from the start of the process to the last lap."""
        return round(self._last - trainer.STARTED, 3)
