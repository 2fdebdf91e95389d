"""The measured storm in small: edges with the product's link machine agree with the cloud again after its restart."""

from pathlib import Path

from tests.bench import bench_storm


async def test_edges_agree_with_a_cloud_that_was_killed(tmp_path: Path) -> None:
    found = await bench_storm.measure(tmp_path, 8, settle_s=0.2)

    assert (found["edges"], found["sessions_in_storm"] >= 8) == (8, True)
