"""How often statuses are written, by how much devices report.

A write to the API costs many times what a report costs, and a watcher cannot read faster than writes are made. Under
light load every status is written at once. When devices report more than that, a node's statuses are written at once too,
but its next ones are taken only after an interval, by when newer states have replaced older ones; what was between is in
history.
"""

from proto.kit.clock import Clock

WINDOW_S = 0.25  # how fast load is noticed
EASY_RATIO = 0.6  # load must fall this far below the threshold before every status is written at once again


class Pace:
    """Counts reports; ``interval_s`` is the least time between two batches of one node, 0 while load is light."""

    def __init__(self, clock: Clock, *, busy_reports_per_s: float, busy_interval_s: float) -> None:
        self._clock = clock
        self._threshold = busy_reports_per_s
        self._busy_interval_s = busy_interval_s
        self._window_at_s = clock.now_s()
        self._reports = 0
        self.rate_per_s = 0.0
        self.busy = False

    def note(self, reports: int) -> None:
        """Count ``reports`` that a status stands for."""
        self._reports += reports
        now_s = self._clock.now_s()
        passed_s = now_s - self._window_at_s
        if passed_s < WINDOW_S:
            return
        rate = self._reports / passed_s
        self.rate_per_s += (rate - self.rate_per_s) * min(1.0, passed_s / (2 * WINDOW_S))
        self._window_at_s, self._reports = now_s, 0
        self.busy = self.rate_per_s > self._threshold * (EASY_RATIO if self.busy else 1.0)

    def interval_s(self) -> float:
        if self.busy and self._clock.now_s() - self._window_at_s > 4 * WINDOW_S:
            self.busy, self.rate_per_s = False, 0.0  # reports have stopped: nothing would call ``note``
        return self._busy_interval_s if self.busy else 0.0
