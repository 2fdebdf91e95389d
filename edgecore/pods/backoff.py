"""When a container that ended may run again: at once, then after 10 s doubling to 300 s (pure; POD-6)."""

from dataclasses import dataclass

FIRST_S = 10.0
CAP_S = 300.0
CALM_S = 600.0  # a container that ran this long has recovered


@dataclass(slots=True)
class CrashBackoff:
    """Of one container. Monotonic seconds; ``delay_s`` 0: the next restart is immediate."""

    delay_s: float = 0.0
    next_at_s: float = float("-inf")
    ended_id: str = ""  # the container whose end was counted

    def ended(self, container_id: str, ran_s: float, now_s: float) -> None:
        """Count the end of a container once."""
        if container_id == self.ended_id:
            return
        self.ended_id = container_id
        if ran_s >= CALM_S:
            self.delay_s = 0.0
        self.next_at_s = now_s + self.delay_s

    def restarting(self) -> None:
        """A restart goes out: the next one waits longer."""
        self.delay_s = min(CAP_S, max(FIRST_S, self.delay_s * 2))

    def forgive(self) -> None:
        """Restart at once: a person asked, or the spec changed."""
        self.delay_s, self.next_at_s = 0.0, float("-inf")


def shown(seconds: float) -> str:
    """``10s``, ``1m20s``, ``5m0s``: how kubelet writes a back-off."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
