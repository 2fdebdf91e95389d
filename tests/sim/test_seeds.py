"""The link in virtual time under seeded faults: 1,000 seeds must be clean (LINK-1 to LINK-40 together)."""

import gc

import pytest

from tests.sim.bugs import QuotaScenario
from tests.sim.scenario import run

BLOCKS, BLOCK = 20, 50


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_seed_breaks_an_invariant(block: int) -> None:
    failed = {seed: found for seed in range(block * BLOCK, (block + 1) * BLOCK) if (found := run(seed))}
    gc.collect()
    assert not failed, f"replay with: python -m tests.sim --seed {next(iter(failed))} --trace; {failed}"


def test_a_full_outbox_drops_only_with_gap_rows() -> None:
    failed = {seed: found for seed in range(60) if (found := run(seed, QuotaScenario))}
    assert not failed
