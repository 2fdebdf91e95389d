"""SIGKILL while volumes are made, changed and taken away: the next look puts everything right (VOL-2, VOL-9)."""

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest

from edgecore.pods import mounts
from edgecore.pods.runtime import Image
from tests.kit.clock import ManualClock
from tests.kit.pod_objects import HeldObjects, Said, builder, container, pod

KILLS = 12
LONGEST_S = 0.08
CHILD = "import sys; from tests.e2e.test_pod_files_killed import churn; churn(sys.argv[1])"
CONTENT = {f"f{n}": f"{n}" * 500 for n in range(20)}


def objects(version: str) -> HeldObjects:
    held = HeldObjects()
    held.put("configmaps", "c", data={name: version + text for name, text in CONTENT.items()})
    held.put("serviceaccounts", "default")
    return held


SPEC = pod(
    container(
        volumeMounts=[
            {"name": "c", "mountPath": "/c"},
            {"name": "t", "mountPath": "/t"},
            {"name": "m", "mountPath": "/m"},
            {"name": "m", "mountPath": "/s", "subPath": "s"},
        ]
    ),
    volumes=[
        {"name": "c", "configMap": {"name": "c"}},
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ],
    securityContext={"fsGroup": 2000},
)


async def once(folder: Path, version: str) -> dict[str, str]:
    """Make everything; what stands in the volume of the ConfigMap afterwards."""
    built = builder(folder, objects(version), ManualClock(), say=Said(), mounting=True)
    await built.prepare(SPEC)
    sandbox = built.sandbox(SPEC, 0)
    first = SPEC["spec"]["containers"][0]
    made = built.container(SPEC, first, attempt=0, image=Image("i"), ips=("1.2.3.4",), sandbox=sandbox)
    place = next(Path(m.host_path) for m in made.mounts if m.container_path == "/c")
    return {path.name: path.read_text() for path in place.iterdir() if not path.name.startswith("..")}


def churn(folder: str) -> None:
    """Until killed: make, change, take away."""

    async def work() -> None:
        print("begun", flush=True)
        for turn in range(1_000_000):
            await once(Path(folder), str(turn))
            if turn % 3 == 2:
                built = builder(Path(folder), objects(""), ManualClock(), say=Said(), mounting=True)
                await built.forget(SPEC["metadata"]["uid"])

    asyncio.run(work())


@pytest.mark.timeout(90)
async def test_a_kill_at_any_moment_is_put_right_by_the_next_look(tmp_path: Path) -> None:
    rng = random.Random(7)
    folder = tmp_path / "edge"
    for turn in range(KILLS):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, str(folder), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        assert await child.stdout.readline() == b"begun\n"
        await asyncio.sleep(rng.random() * LONGEST_S)
        child.send_signal(signal.SIGKILL)
        await child.wait()

        version = f"after-{turn}-"
        assert await once(folder, version) == {name: version + text for name, text in CONTENT.items()}

    built = builder(folder, objects(""), ManualClock(), say=Said(), mounting=True)
    await built.forget(SPEC["metadata"]["uid"])
    assert mounts.below(tmp_path) == []
    assert built.orphans() == set()
    if built.dirs.memory is not None and built.dirs.memory.exists():
        built.dirs.memory.rmdir()
