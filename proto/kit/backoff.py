"""Exponential back-off with full jitter (Brooker 2015), from an injected random source."""

import random
from dataclasses import dataclass, field

Rng = random.Random


@dataclass
class Backoff:
    """Delays for one retried thing; ``reset`` after a success."""

    base_s: float = 0.2
    cap_s: float = 30.0
    rng: Rng = field(default_factory=Rng)
    attempts: int = 0

    def next_s(self) -> float:
        """Return the next delay in seconds: uniform in (0, min(cap, base * 2**attempts)]."""
        ceiling: float = min(self.cap_s, self.base_s * 2.0 ** min(self.attempts, 30))
        self.attempts += 1
        return ceiling * (1.0 - self.rng.random())

    def reset(self) -> None:
        self.attempts = 0
