"""Outages of one to five seconds around a gateway with pods: none is restarted, and the cloud ends up showing what runs."""

from pathlib import Path

import pytest

from tests.chaos.pods import FAULTS, PodSite, PodVerdict, cycle

CYCLES = 8


@pytest.mark.timeout(300)
async def test_no_outage_restarts_a_pod(tmp_path: Path) -> None:
    site = await PodSite.build(tmp_path)
    verdict = PodVerdict()
    try:
        for seed in range(CYCLES):
            await cycle(site, seed, 1.0, 5.0, verdict)
            assert verdict.clean, f"seed {seed}: {verdict}"
    finally:
        await site.close()
    assert (verdict.cycles, set(verdict.faults)) == (CYCLES, set(FAULTS))
