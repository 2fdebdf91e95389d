"""Every planted bug must be caught: a simulator that finds nothing proves nothing."""

import pytest

from tests.sim.bugs import BUGS
from tests.sim.scenario import run

SEEDS = 400


@pytest.mark.parametrize("name", list(BUGS))
def test_planted_bug_is_caught(name: str) -> None:
    for seed in range(SEEDS):
        try:
            if run(seed, BUGS[name]):
                return
        except Exception:  # noqa: BLE001  a bug that breaks the world is caught as well
            return
    pytest.fail(f"{SEEDS} seeds did not notice {name}")


def test_there_are_at_least_twenty_planted_bugs() -> None:
    assert len(BUGS) >= 20
