import asyncio
import contextlib
from pathlib import Path

import pytest

from kubeapi.errors import ApiError
from kubeapi.store import Limits
from kubeapi.stored import Event
from kubeapi.watch import Watcher
from proto.kit.database import Tx
from tests.kit.wait import eventually
from tests.unit.kubeapi.api import CM, LEASE, Api, config_map


def told(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.type, e.object["metadata"]["name"]) for e in events]


async def test_committed_objects_survive_a_restart(tmp_path: Path) -> None:  # API-1
    api = await Api.open(tmp_path)
    made = await api.create(CM, config_map("a", k="v"))
    await api.create(CM, config_map("b"))
    await api.objects.delete(CM, "default", "b")

    api = await api.reopen()

    assert api.objects.get(CM, "default", "a") == made
    assert api.names(CM) == ["a"]
    await api.close()


async def test_revisions_never_go_back_across_a_restart(tmp_path: Path) -> None:  # API-2
    api = await Api.open(tmp_path)
    for i in range(3):
        await api.create(LEASE, {"metadata": {"name": f"l{i}"}, "spec": {}})
    before = api.store.revision

    api = await api.reopen()
    made = await api.create(CM, config_map("a"))

    assert int(made["metadata"]["resourceVersion"]) > before
    await api.close()


async def test_leases_live_in_memory_and_stay_out_of_the_log(tmp_path: Path) -> None:  # API-6
    api = await Api.open(tmp_path)
    await api.create(LEASE, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "n"}})
    assert api.names(LEASE) == ["l"]
    rows = api.db.read(lambda c: c.execute("SELECT count(*) FROM kube_log WHERE resource LIKE '%leases'").fetchone())
    assert rows == (0,)

    api = await api.reopen()

    assert api.names(LEASE) == []
    await api.close()


async def test_a_watch_sees_every_change_in_order_and_shares_one_frame(api: Api) -> None:  # API-5
    first, second = (api.store.watch(CM, "default", api.store.revision) for _ in range(2))
    await api.create(CM, config_map("a", k="1"))
    await api.update(CM, "a", config_map("a", k="2"))
    await api.objects.delete(CM, "default", "a")

    events, same = await first.batch(), await second.batch()

    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert events[1].previous is not None
    assert events[1].previous["data"] == {"k": "1"}
    assert events[2].object["metadata"]["resourceVersion"] == str(events[2].revision)
    assert all(a.frame is b.frame for a, b in zip(events, same, strict=True))


async def test_a_watch_resumes_from_the_log_after_a_restart(tmp_path: Path) -> None:  # API-4
    api = await Api.open(tmp_path)
    since = api.store.revision
    await api.create(CM, config_map("a", k="1"))
    await api.update(CM, "a", config_map("a", k="2"))
    await api.objects.delete(CM, "default", "a")
    api = await api.reopen()

    events = await api.store.watch(CM, None, since).batch()

    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert events[1].previous is not None
    assert events[1].previous["data"] == {"k": "1"}
    await api.close()


async def test_a_watch_without_revision_begins_with_what_exists(api: Api) -> None:
    await api.create(CM, config_map("a"))
    watch = api.store.watch(CM, None, None, bookmarks=True, initial_end=True)
    events = await watch.batch()
    assert [e.type for e in events] == ["ADDED", "BOOKMARK"]
    assert events[1].object["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_future_revision_is_gone(api: Api) -> None:
    with pytest.raises(ApiError) as refused:
        api.store.watch(CM, None, api.store.revision + 1)
    assert (refused.value.status, refused.value.reason) == (410, "Expired")


async def test_history_is_compacted_and_older_watches_are_gone(tmp_path: Path) -> None:  # API-4
    api = await Api.open(tmp_path, limits=Limits(rows=20, batch=5))
    await api.create(CM, config_map("a"))
    since = api.store.revision
    for i in range(60):
        await api.update(CM, "a", config_map("a", k=str(i)))

    with pytest.raises(ApiError, match="too old resource version") as refused:
        api.store.watch(CM, None, since)
    assert refused.value.status == 410
    count = await api.db.tx(lambda tx: tx.execute("SELECT count(*) FROM kube_log").fetchone()[0])
    assert count <= 30
    api = await api.reopen()
    assert api.objects.get(CM, "default", "a")["data"] == {"k": "59"}
    with pytest.raises(ApiError):
        api.store.watch(CM, None, since)
    await api.close()


async def test_a_slow_watcher_gets_410_and_is_counted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:  # API-5
    monkeypatch.setattr("kubeapi.watch.MAX_QUEUED_EVENTS", 3)
    watch = api.store.watch(CM, None, api.store.revision)
    for i in range(5):
        await api.create(CM, config_map(f"a{i}"))
    with pytest.raises(ApiError, match="too slow") as refused:
        await watch.batch()
    assert refused.value.status == 410
    assert api.store.slow_watchers == 1


async def test_what_a_watch_begins_with_is_not_slowness(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeapi.watch.MAX_QUEUED_EVENTS", 3)
    for i in range(8):
        await api.create(CM, config_map(f"a{i}"))
    watch = api.store.watch(CM, None, None)
    for i in range(3):
        await api.create(CM, config_map(f"b{i}"))
    seen = [await anext(watch) for _ in range(9)]
    await api.create(CM, config_map("c"))
    seen += await watch.batch()
    assert [e.object["metadata"]["name"] for e in seen] == [*(f"a{i}" for i in range(8)), "b0", "b1", "b2", "c"]


async def test_a_quiet_watch_gets_bookmarks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeapi.store.BOOKMARK_EVERY", 5)
    quiet = api.store.watch(LEASE, None, api.store.revision, bookmarks=True)
    for i in range(6):
        await api.create(CM, config_map(f"a{i}"))
    events = await quiet.batch()
    assert {e.type for e in events} == {"BOOKMARK"}
    assert quiet.bookmark().revision == api.store.revision


async def test_a_transaction_that_fails_leaves_nothing(api: Api) -> None:  # API-3
    before = api.store.revision

    def write(tx: Tx) -> None:
        api.store.put(tx, CM, {"metadata": {"name": "a", "namespace": "default"}})
        assert api.store.peek(CM, "default", "a") is not None
        raise KeyError("stop")

    with pytest.raises(KeyError):
        await api.db.tx(write)

    assert api.names(CM) == []
    assert api.store.revision == before
    assert await api.db.tx(lambda _: api.store.peek(CM, "default", "a")) is None


async def test_writes_in_one_group_see_each_other(api: Api) -> None:
    made = await api.create(CM, config_map("a", k="0"))
    racing = [api.objects.update(CM, "default", "a", {**made, "data": {"k": str(i + 1)}}) for i in range(8)]

    results = await asyncio.gather(*racing, return_exceptions=True)

    assert sum(isinstance(r, dict) for r in results) == 1
    assert sum(isinstance(r, ApiError) and r.status == 409 for r in results) == 7


async def test_a_closed_watch_ends(api: Api) -> None:
    watch = api.store.watch(CM, None, api.store.revision)
    seen: list[Event] = []

    async def read(watch: Watcher) -> None:
        with contextlib.suppress(ApiError):
            seen.extend([event async for event in watch])

    async with asyncio.TaskGroup() as group:
        group.create_task(read(watch))
        await api.create(CM, config_map("a"))
        await eventually(lambda: not watch._events)
        watch.close()
    assert told(seen) == [("ADDED", "a")]


async def test_only_the_newest_objects_stay_decoded(tmp_path: Path) -> None:
    api = await Api.open(tmp_path)
    api.store._decoded._limit = 2
    for i in range(5):
        await api.create(CM, config_map(f"a{i}"))
    held = [s for s in api.store.items(CM, None) if s._object is not None]
    assert len(held) <= 2
    assert len(api.store.list(CM, None)) == 5
    await api.close()
