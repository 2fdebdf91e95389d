"""Real processes, three brokers in between, seeded faults: 0 acknowledged updates lost, 0 applied twice, 0 out of order."""

from pathlib import Path

import pytest

from tests.chaos.brokers import NAMES
from tests.chaos.episodes import World, episode
from tests.chaos.ledger import Verdict

EPISODES = 8


@pytest.mark.timeout(600)
@pytest.mark.parametrize("broker", NAMES)
async def test_no_acknowledged_update_is_lost_doubled_or_disordered(tmp_path: Path, broker: str) -> None:
    world = await World.build(tmp_path, broker)
    total = Verdict()
    try:
        for seed in range(EPISODES):
            try:
                total.add(await episode(world, seed))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, faults {world.faults}: {error}") from error
            assert total.clean, f"seed {seed}, faults {world.faults}: {total}"
    finally:
        await world.close()
    assert total.acknowledged > EPISODES * 30
