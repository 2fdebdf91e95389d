"""How many bytes of all streams of a node may be on their way: enough to fill the line, never a queue in front of a twin.

By delay, not by loss (as TCP Vegas, Brakmo 1994): what waits in sockets and brokers shows as a longer way.
"""

LEAST_BYTES = 32 << 10
START_BYTES = 64 << 10
MOST_BYTES = 1 << 20
ALLOWED_S = 0.010  # of waiting on the way before the window shrinks: beside it a twin update is late by as much
BASE_LIFE_S = 30.0  # after this the shortest way is measured anew: the line may have changed


class Pace:
    """The window of one direction. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self.window_bytes = START_BYTES
        self.in_flight_bytes = 0
        self._shortest_s = float("inf")
        self._measured_s = 0.0
        self._shrunk_s = float("-inf")

    @property
    def room(self) -> bool:
        return self.in_flight_bytes < self.window_bytes

    def left(self, cost: int) -> None:
        self.in_flight_bytes += cost

    def lost(self, cost: int) -> None:
        """``cost`` bytes will never be confirmed."""
        self.in_flight_bytes -= cost

    def arrived(self, cost: int, way_s: float, now_s: float) -> None:
        """``cost`` bytes were confirmed ``way_s`` after they left."""
        limited = self.in_flight_bytes > self.window_bytes // 2
        self.in_flight_bytes -= cost
        if way_s <= self._shortest_s or now_s - self._measured_s > BASE_LIFE_S:
            self._shortest_s, self._measured_s = way_s, now_s
        if not limited:
            return  # what is late now waits for others
        if way_s <= self._shortest_s * 1.5 + ALLOWED_S:
            self.window_bytes = min(MOST_BYTES, self.window_bytes + cost)
        elif now_s - self._shrunk_s > way_s:
            self._shrunk_s = now_s
            self.window_bytes = max(LEAST_BYTES, self.window_bytes // 2)
