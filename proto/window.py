"""What is in flight: room, cumulative acknowledgements, resends (LINK-30 to LINK-34). Pure; ``now`` comes by the door."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from proto.frames import Body, Lane
from proto.kit.backoff import Rng

START_BYTES = 128 << 10  # a slow line must not get megabytes before its first acknowledgement
MESSAGE_SHARE = 0.75  # messages leave a quarter of the window to states
FIRST_RESEND_FRAMES = 4  # after a timeout, so that a line that is only slow is not flooded
MAX_TRIES = 8


class Limits(Struct, frozen=True, kw_only=True):
    """Sizes and times of one direction."""

    frames: int = 64
    bytes: int = 4 << 20
    frame_bytes: int = 256 << 10
    batch_bytes: int = 32 << 10
    batch_rows: int = 512
    resend_base_s: float = 1.0
    resend_cap_s: float = 15.0


class Flight(Struct):
    """One batch that waits for its acknowledgement: usually one frame, several when it was cut."""

    lane: Lane
    lineage: str
    end: int
    bodies: Sequence[Body]
    size: int
    token: Any  # what the owner wants back when it is acknowledged
    sent_s: float = 0.0
    tries: int = 1


class _Timer:
    """The resend timer of one lane: it watches the oldest flight, and restarts at every progress."""

    __slots__ = ("due_s", "expired_s", "size", "tries")

    def __init__(self) -> None:
        self.due_s: float | None = None
        self.expired_s: float | None = None  # of the last expiry that is not yet recovered from
        self.tries = 0
        self.size = FIRST_RESEND_FRAMES


class Window:
    """Everything unacknowledged of one session and direction."""

    def __init__(self, limits: Limits, rng: Rng) -> None:
        self.limits = limits
        self.rng = rng
        self.flights: dict[Lane, deque[Flight]] = {Lane.STATE: deque(), Lane.MESSAGE: deque()}
        self.timers = {Lane.STATE: _Timer(), Lane.MESSAGE: _Timer()}
        self.in_flight_bytes = 0
        self.in_flight_frames = 0
        self.room_bytes = min(START_BYTES, limits.bytes)  # grows with acknowledgements, halves at a timeout
        self.round_trip_s: float | None = None
        self.resends = 0

    def has_room(self, lane: Lane) -> bool:
        """Whether another batch of ``lane`` may go out; a batch may overshoot by its own size."""
        share = MESSAGE_SHARE if lane is Lane.MESSAGE else 1.0
        return self.in_flight_bytes < self.room_bytes * share and self.in_flight_frames < self.limits.frames * share

    def add(self, flight: Flight, now_s: float) -> None:
        flight.sent_s = now_s
        self.flights[flight.lane].append(flight)
        self.in_flight_bytes += flight.size
        self.in_flight_frames += 1
        timer = self.timers[flight.lane]
        if timer.due_s is None:
            timer.due_s = now_s + self._wait_s(timer)

    def acked(self, lane: Lane, lineage: str, seq: int, now_s: float) -> list[Flight]:
        """Take out and return the flights that are committed at the peer, oldest first (LINK-31)."""
        queue = self.flights[lane]
        count = 0
        for i, flight in enumerate(queue):
            if flight.lineage == lineage and flight.end <= seq:
                count = i + 1
        done = [queue.popleft() for _ in range(count)]
        for flight in done:
            self.in_flight_bytes -= flight.size
            self.in_flight_frames -= 1
            self.room_bytes = min(self.limits.bytes, self.room_bytes + flight.size)
        if done:
            self._progress(lane, done[-1], now_s)
        return done

    def resend(self, now_s: float) -> list[Flight]:
        """Return the flights to send again now; none before its time (LINK-32)."""
        out: list[Flight] = []
        for lane, timer in self.timers.items():
            if timer.due_s is None or timer.due_s > now_s:
                continue
            timer.tries = min(timer.tries + 1, MAX_TRIES)
            timer.expired_s = now_s
            timer.size = FIRST_RESEND_FRAMES
            timer.due_s = now_s + self._wait_s(timer)
            self.room_bytes = max(min(START_BYTES, self.limits.bytes), self.room_bytes // 2)
            out += self._again(lane, timer, now_s)
        return out

    def recover(self, now_s: float) -> list[Flight]:
        """Return further flights sent before the last timeout; call after progress, so that a burst of loss heals fast."""
        out: list[Flight] = []
        for lane, timer in self.timers.items():
            if timer.expired_s is not None and timer.tries == 0:
                timer.size *= 2
                again = self._again(lane, timer, now_s)
                if not again:
                    timer.expired_s = None
                out += again
        return out

    def due_s(self) -> float | None:
        """Return when ``resend`` has something to do; None while nothing is in flight."""
        times = [timer.due_s for timer in self.timers.values() if timer.due_s is not None]
        return min(times) if times else None

    def _again(self, lane: Lane, timer: _Timer, now_s: float) -> list[Flight]:
        assert timer.expired_s is not None
        out = [f for f in self.flights[lane] if f.sent_s < timer.expired_s][: timer.size]
        for flight in out:
            flight.sent_s = now_s
            flight.tries += 1
        self.resends += len(out)
        return out

    def _progress(self, lane: Lane, last: Flight, now_s: float) -> None:
        if last.tries == 1:  # Karn: a repeated frame measures nothing
            sample = now_s - last.sent_s
            self.round_trip_s = sample if self.round_trip_s is None else self.round_trip_s * 0.875 + sample * 0.125
        timer = self.timers[lane]
        timer.tries = 0
        timer.due_s = now_s + self._wait_s(timer) if self.flights[lane] else None

    def _wait_s(self, timer: _Timer) -> float:
        limits = self.limits
        least = max(limits.resend_base_s, 4.0 * (self.round_trip_s or 0.0))
        spread = least * 2.0**timer.tries * (1.0 - self.rng.random())
        return min(least + spread, max(limits.resend_cap_s, least))
