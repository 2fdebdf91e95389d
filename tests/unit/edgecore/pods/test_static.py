"""Static pods: real files, a real store, and what the cloud is told (VOL-8)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods import manifests, static
from edgecore.pods.static import StaticPods, adopted, mirror_of
from kubeapi.kinds import POD
from kubeapi.resources import Registry
from kubeapi.store import Store
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually

GOOD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: app
    image: edge/app:1
"""
KEY = "core/pods/default/web-gw-1"


class Outbox:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def put_state(self, tx: Any, key: str, body: bytes, *, priority: int) -> None:
        raise AssertionError("statuses are not written here")

    def put_message(self, tx: Any, kind: str, body: bytes) -> None:
        self.sent.append((kind, json.loads(body)))

    def take(self) -> list[tuple[str, Any]]:
        sent, self.sent = self.sent, []
        return sent


class Room:
    def __init__(self, folder: Path, db: Database, store: Store) -> None:
        self.folder, self.db, self.store, self.outbox = folder, db, store, Outbox()
        self.mirrors: dict[str, str] = {}
        self.clock = ManualClock()
        self.restart()

    def restart(self) -> None:
        self.pods = StaticPods(
            self.folder,
            "gw-1",
            self.db,
            self.store,
            self.outbox,
            mirrors=lambda: self.mirrors,
            clock=self.clock,
            metrics=Metrics(),
        )

    async def turn(self, **files: str | None) -> list[dict[str, Any]]:
        for name, text in files.items():
            path = self.folder / f"{name}.yaml"
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        await self.pods.turn()
        return self.store.list(POD, None)


@pytest.fixture
async def room(tmp_path: Path) -> Any:
    folder = tmp_path / "manifests"
    folder.mkdir()
    db = Database.open(tmp_path / "edge.db", ())
    store = await Store.open(db, Registry([POD]), ManualClock())
    yield Room(folder, db, store)
    await db.close()


async def test_a_file_becomes_a_pod_of_this_node_and_a_mirror_of_it(room: Room) -> None:
    (pod,) = await room.turn(web=GOOD)

    assert pod["metadata"]["name"] == "web-gw-1"
    assert pod["metadata"]["annotations"]["kubernetes.io/config.source"] == "file"
    assert pod["spec"]["nodeName"] == "gw-1"
    assert pod["spec"]["restartPolicy"] == "Always"
    ((kind, body),) = room.outbox.take()
    assert kind == "pod-mirror"
    mirror = body["pod"]
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"]
    assert "serviceAccountName" not in mirror["spec"]
    assert static.MANIFEST not in mirror["metadata"]["annotations"]


async def test_a_restart_changes_nothing_and_reads_no_file_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = await room.turn(web=GOOD)
    monkeypatch.setattr(manifests, "parse", None)

    room.restart()
    (after,) = await room.turn()

    assert after is before


async def test_a_changed_file_is_another_pod_and_keeps_its_name(room: Room) -> None:
    (before,) = await room.turn(web=GOOD)
    (same,) = await room.turn(web=GOOD + "# a remark\n")
    (after,) = await room.turn(web=GOOD.replace("app:1", "app:22"))

    assert same["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["metadata"]["name"] == before["metadata"]["name"]


async def test_a_file_that_is_gone_ends_its_pod_and_its_mirror(room: Room) -> None:
    await room.turn(web=GOOD)
    room.mirrors[KEY] = "uid-in-the-cloud"
    room.outbox.take()

    assert await room.turn(web=None) == []
    await room.turn()

    assert room.outbox.take() == [("pod-gone", {"namespace": "default", "name": "web-gw-1", "uid": "uid-in-the-cloud"})]


async def test_a_mirror_that_somebody_deleted_is_made_again(room: Room) -> None:
    await room.turn(web=GOOD)
    room.mirrors[KEY] = "uid-1"
    await room.turn()
    room.outbox.take()

    del room.mirrors[KEY]
    await room.turn()
    await room.turn()

    assert [kind for kind, _ in room.outbox.take()] == ["pod-mirror"]


async def test_a_bad_file_is_said_once_with_its_line_and_the_last_good_pod_goes_on(room: Room) -> None:
    (before,) = await room.turn(web=GOOD)
    room.outbox.take()

    pods = await room.turn(web=GOOD.replace("image:", "imagge:"), other=GOOD.replace("name: web", "name: other"))
    await room.turn()

    assert before["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in pods}
    assert len(pods) == 2
    (said,) = [body for kind, body in room.outbox.take() if kind == "event"]
    assert said["reason"] == "BadStaticPod"
    assert "web.yaml line 7: " in said["message"]
    assert 'unknown field "spec.containers[0].imagge"' in said["message"]


async def test_two_files_of_one_name_make_one_pod(room: Room) -> None:
    assert len(await room.turn(a=GOOD, b=GOOD.replace("app:1", "app:2"))) == 1


async def test_a_pod_from_the_api_is_never_taken_over(room: Room) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-gw-1", "namespace": "default", "uid": "u"},
        "spec": {},
    }
    await room.db.tx(lambda tx: room.store.put(tx, POD, theirs))

    (pod,) = await room.turn(web=GOOD)

    assert pod["metadata"]["uid"] == "u"


async def test_no_folder_is_no_static_pod(room: Room) -> None:
    room.folder.rmdir()

    assert await room.turn() == []


class CountedClock(ManualClock):
    """Knows how often somebody began to wait."""

    waits = 0

    async def sleep(self, delay_s: float) -> None:
        self.waits += 1
        await super().sleep(delay_s)


async def test_the_folder_is_made_and_trouble_with_it_is_said_once(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    room.folder.rmdir()
    room.clock = clock = CountedClock()
    room.restart()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(room.pods.run())
        await eventually(room.folder.is_dir)
        room.folder.rmdir()
        room.folder.write_text("")
        for turn in range(1, 4):
            await eventually(lambda turn=turn: clock.waits == turn)  # type: ignore[misc]
            clock.advance(static.LOOK_EVERY_S)
        await eventually(lambda: clock.waits == 4)
        running.cancel()

    assert [m for m in caplog.messages if m.startswith("static pods wait")] == [
        f'static pods wait reason="Not a directory" folder={room.folder}'
    ]


def test_a_uid_lasts_as_long_as_the_content() -> None:
    pod = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": []}}

    uids = {adopted(pod, node, digest, file)["metadata"]["uid"] for node, digest, file in (
        ("gw-1", "a", "x@1"), ("gw-1", "a", "y@2"), ("gw-1", "b", "x@1"), ("gw-2", "a", "x@1"),
    )}  # fmt: skip

    assert len(uids) == 3
    assert mirror_of(adopted(pod, "gw-1", "a", "x@1"))["metadata"]["name"] == "web-gw-1"


async def test_a_pod_too_large_for_a_mirror_runs_all_the_same(room: Room) -> None:
    large = GOOD + "    args: [" + ", ".join(["x" * 1000] * 260) + "]\n"

    assert len(await room.turn(web=large)) == 1
    assert room.outbox.take() == []


async def test_a_name_that_is_too_long_with_the_node_s_is_said(room: Room) -> None:
    assert await room.turn(web=GOOD.replace("name: web", f"name: {'w' * 250}")) == []
    assert "is longer than 253 characters" in room.outbox.take()[0][1]["message"]
