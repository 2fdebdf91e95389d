"""Watches: order, resume, bookmarks, ends, shapes (HTTP-8)."""

from pathlib import Path

from kubeapi.http import Response
from kubeapi.routes.watching import WatchTimes
from kubeapi.server import ApiSettings
from tests.kit.wait import eventually
from tests.unit.kubeapi_http.face import TABLE, Face, Watching, open_face

CMS = "/api/v1/namespaces/default/configmaps"


async def watch(face: Face, query: str = "", accept: str = "") -> Watching:
    return Watching(await face.raw("GET", f"{CMS}?watch=true&{query}", accept=accept))


async def test_a_watch_from_a_list_sees_what_came_after_it_in_order(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "before"}})
    revision = (await face.must("GET", CMS))["metadata"]["resourceVersion"]
    watching = await watch(face, f"resourceVersion={revision}")
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    await face.must("PATCH", f"{CMS}/a", {"data": {"k": "v"}})
    await face.must("DELETE", f"{CMS}/a")
    events = [await watching.next() for _ in range(3)]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in events] == [
        ("ADDED", "a"),
        ("MODIFIED", "a"),
        ("DELETED", "a"),
    ]
    await watching.close()


async def test_a_watch_resumes_at_the_revision_it_saw(face: Face) -> None:
    first = await face.must("POST", CMS, {"metadata": {"name": "a"}})
    await face.must("POST", CMS, {"metadata": {"name": "b"}})
    watching = await watch(face, f"resourceVersion={first['metadata']['resourceVersion']}")
    assert (await watching.next())["object"]["metadata"]["name"] == "b"
    await watching.close()


async def test_a_watch_without_a_revision_begins_with_what_there_is(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    watching = await watch(face)
    assert (await watching.next())["type"] == "ADDED"
    await watching.close()


async def test_initial_events_end_with_their_bookmark(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    watching = await watch(face, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
    assert (await watching.next())["object"]["metadata"]["name"] == "a"
    mark = await watching.next()
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    await watching.close()


async def test_initial_events_need_their_companions(face: Face) -> None:
    for query in (
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
    ):
        assert (await face.ask("GET", f"{CMS}?watch=1&{query}")).status == 400


async def test_a_selector_turns_entering_and_leaving_into_added_and_deleted(face: Face) -> None:
    revision = (await face.must("GET", CMS))["metadata"]["resourceVersion"]
    watching = await watch(face, f"resourceVersion={revision}&labelSelector=on%3Dyes")
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    await face.must("PATCH", f"{CMS}/a", {"metadata": {"labels": {"on": "yes"}}})
    await face.must("PATCH", f"{CMS}/a", {"metadata": {"labels": {"on": "no"}}})
    assert [(await watching.next())["type"] for _ in range(2)] == ["ADDED", "DELETED"]
    await watching.close()


async def test_a_name_in_the_path_watches_one_object(face: Face) -> None:
    for name in "ab":
        await face.must("POST", CMS, {"metadata": {"name": name}})
    watching = Watching(await face.raw("GET", f"{CMS}/b?watch=true"))
    assert (await watching.next())["object"]["metadata"]["name"] == "b"
    await watching.close()


async def test_the_old_spelling_of_watch_works(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    watching = Watching(await face.raw("GET", "/api/v1/watch/namespaces/default/configmaps"))
    assert (await watching.next())["type"] == "ADDED"
    await watching.close()


async def test_a_revision_from_nowhere_is_410(face: Face) -> None:
    refused = await face.ask("GET", f"{CMS}?watch=true&resourceVersion=99999999")
    assert (refused.status, refused.reason) == (410, "Expired")


async def test_a_watch_that_falls_behind_ends_with_an_error_event(face: Face) -> None:
    watching = await watch(face)
    opened = face.store._watchers["core/configmaps"]
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    assert (await watching.next())["type"] == "ADDED"
    (watcher,) = opened
    watcher._overflow = True
    watcher._notify()
    error = await watching.next()
    assert error["type"] == "ERROR"
    assert (error["object"]["kind"], error["object"]["code"]) == ("Status", 410)


async def test_a_table_watch_sends_one_row_per_event(face: Face) -> None:
    watching = await watch(face, accept=TABLE)
    await face.must("POST", CMS, {"metadata": {"name": "a"}, "data": {"k": "v"}})
    event = await watching.next()
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"] == ["a", 1, "0s"]
    await watching.close()


async def test_a_watch_ends_when_its_time_is_over_and_is_counted(tmp_path: Path) -> None:
    settings = ApiSettings(watch=WatchTimes(bookmark_every_s=0.01))
    async with open_face(tmp_path, settings=settings) as face:
        watching = await watch(face, "timeoutSeconds=5&allowWatchBookmarks=true")
        assert (await watching.next())["type"] == "BOOKMARK"
        assert face.server._watches.open == 1
        face.clock.advance(6)
        lines = [line async for line in watching._chunks]
        assert len(lines) <= 1
        assert face.server._watches.open == 0
        ended = face.metrics.counter("skerry_kube_watches_ended_total", "", ("reason",))
        assert ended.value("timeout") == 1


async def test_a_watch_in_yaml_is_406(face: Face) -> None:
    refused = await face.raw("GET", f"{CMS}?watch=true", accept="application/yaml")
    assert isinstance(refused, Response)
    assert refused.status == 406


async def test_a_closed_watch_leaves_nothing_behind(face: Face) -> None:
    watching = await watch(face)
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    await watching.next()
    await watching.close()
    await eventually(lambda: not face.store._watchers.get("core/configmaps"))
