"""A cloud is saved while it serves, lost, and put back: edges go on, and what was lost is said."""

import shutil
from pathlib import Path

import msgspec
import pytest

from tests.kit.devices import MODEL, oven, report
from tests.kit.kube import DEVICES, KubeError
from tests.kit.platform import Edge, Platform, command
from tests.kit.wait import eventually

STATUS = f"{DEVICES}/namespaces/default/devicestatuses/kiln"


async def has_device(edge: Edge) -> bool:
    return bool((await edge.status())["devices"]["total"])


async def reported(platform: Platform) -> str:
    status = (await platform.kube.find(STATUS) or {}).get("status") or {}
    return next((str(t["reported"]["value"]) for t in status.get("twins", []) if "reported" in t), "")


async def values(platform: Platform) -> list[str]:
    out = await command("cloudcore", "history", "kiln", "-o", "json", "--data-dir", str(platform.cloud_dir))
    return [row["value"] for row in msgspec.json.decode(out)]


async def no_revision_comes_twice(platform: Platform, seen: str) -> None:
    """Who watched the lost cloud is told to list again, and never takes new objects for old ones."""
    now = (await platform.kube.get(f"{DEVICES}/devices"))["metadata"]["resourceVersion"]
    assert int(now) > int(seen)
    with pytest.raises(KubeError, match="too old resource version") as told:
        await platform.kube.get(f"{DEVICES}/devices?watch=true&resourceVersion={seen}")
    assert told.value.status == 410


async def test_edges_go_on_after_their_cloud_was_restored_from_a_backup(platform: Platform, tmp_path: Path) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: has_device(edge))
    await report(edge.mqtt_port, temperature="1")
    await edge.drained()
    saved, where = str(tmp_path / "save.tar"), ("--data-dir", str(platform.cloud_dir))

    await command("cloudcore", "backup", saved, *where)
    await report(edge.mqtt_port, temperature="2")
    await edge.drained()
    seen = (await platform.kube.get(f"{DEVICES}/devices"))["metadata"]["resourceVersion"]
    await platform.kill_cloud()
    shutil.rmtree(platform.cloud_dir)
    await command("cloudcore", "restore", saved, *where)
    await platform.start_cloud()
    await edge.connected(30)
    await report(edge.mqtt_port, temperature="3")

    async def arrived() -> bool:
        return await reported(platform) == "3"

    await eventually(arrived, 30)
    await edge.drained()
    assert await values(platform) == ["1", "3"]
    await no_revision_comes_twice(platform, seen)


async def test_a_restore_over_a_serving_cloud_is_refused(platform: Platform, tmp_path: Path) -> None:
    saved, where = str(tmp_path / "save.tar"), ("--data-dir", str(platform.cloud_dir))
    await command("cloudcore", "backup", saved, *where)

    said = await command("cloudcore", "restore", saved, *where, check=False)

    assert said == ""
    assert platform.cloud.running
