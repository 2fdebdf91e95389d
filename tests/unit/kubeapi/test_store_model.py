"""The store against a model, through rollbacks, restarts and kills."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubeapi.errors import ApiError
from kubeapi.store import Limits
from kubeapi.stored import Event
from proto.kit.database import Tx, connect
from proto.kit.errors import StorageFull
from tests.unit.kubeapi.api import CM, Api

Json = dict[str, Any]
Step = tuple[str, str, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "remove", "fail", "restart", "both"]), st.sampled_from("abc"), st.integers(0, 9)
    ),
    max_size=25,
)


class Stop(Exception):
    pass


def obj(name: str, value: int) -> Json:
    return {"metadata": {"name": name, "namespace": "default"}, "data": {"v": str(value)}}


def write(api: Api, step: Step, tx: Tx) -> None:
    kind, name, value = step
    if kind == "remove":
        api.store.remove(tx, CM, "default", name)
        return
    api.store.put(tx, CM, obj(name, value))
    if kind == "both":
        api.store.put(tx, CM, obj(name, value + 1))
        api.store.remove(tx, CM, "default", name)
        api.store.put(tx, CM, obj(name, value + 2))
    if kind == "fail":
        raise Stop


def model(state: dict[str, str], step: Step) -> None:
    kind, name, value = step
    if kind in ("put", "both"):
        state[name] = str(value + (2 if kind == "both" else 0))
    elif kind == "remove":
        state.pop(name, None)


def replayed(state: dict[str, str], events: list[Event]) -> dict[str, str]:
    for event in events:
        name = event.object["metadata"]["name"]
        assert (event.previous is not None) == (name in state)
        if event.type == "DELETED":
            del state[name]
        else:
            assert event.type == ("MODIFIED" if name in state else "ADDED")
            state[name] = event.object["data"]["v"]
    return state


async def run(plan: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        api = await Api.open(Path(folder), limits=Limits(rows=1000))
        since, live = api.store.revision, api.store.watch(CM, None, api.store.revision)
        expected: dict[str, str] = {}
        seen: dict[str, str] = {}
        for step in plan:
            if step[0] == "restart":
                replayed(seen, drained(live))
                at = live.revision
                api = await api.reopen(Limits(rows=1000))
                live = api.store.watch(CM, None, at)
                continue
            with contextlib.suppress(Stop):
                await api.db.tx(partial(write, api, step))
            model(expected, step)
        held = {o["metadata"]["name"]: o["data"]["v"] for o in api.store.list(CM, None)}
        assert held == expected
        assert replayed(seen, drained(live)) == expected
        assert replayed({}, drained(api.store.watch(CM, None, since))) == expected
        await api.close()


def drained(watch: Any) -> list[Event]:
    events = list(watch._events)
    watch._events.clear()
    if events:
        watch.revision = events[-1].revision
    return events


@settings(max_examples=20, deadline=None)
@given(steps)
def test_state_watch_and_replay_agree_with_the_model(plan: list[Step]) -> None:  # API-5
    asyncio.run(run(plan))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "remove", "fail", "both"]), st.sampled_from("ab"), st.integers(0, 9)),
        max_size=30,
    )
)
def test_transactions_of_one_group_commit_in_order_or_not_at_all(plan: list[Step]) -> None:  # API-3
    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as folder:
            api = await Api.open(Path(folder))
            live = api.store.watch(CM, None, api.store.revision)
            expected: dict[str, str] = {}
            jobs = [api.db.submit(partial(write, api, step)) for step in plan]
            await asyncio.gather(*jobs, return_exceptions=True)
            for step in plan:
                model(expected, step)
            assert {o["metadata"]["name"]: o["data"]["v"] for o in api.store.list(CM, None)} == expected
            assert replayed({}, drained(live)) == expected
            assert not api.store._pending
            await api.close()

    asyncio.run(scenario())


async def resumed(plan: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(rows=4, batch=2)
        api = await Api.open(Path(folder), limits=limits)
        known: dict[int, dict[str, str]] = {api.store.revision: {}}
        for step in plan:
            if step[0] == "restart":
                api = await api.reopen(limits)
            else:
                with contextlib.suppress(Stop):
                    await api.db.tx(partial(write, api, step))
            known[api.store.revision] = {o["metadata"]["name"]: o["data"]["v"] for o in api.store.list(CM, None)}
        final = known[api.store.revision]
        for revision, state in known.items():
            try:
                watch = api.store.watch(CM, None, revision or None)
            except ApiError:
                assert revision < api.store._history.compacted
                continue
            assert revision >= api.store._history.compacted
            assert replayed(dict(state), drained(watch)) == final
        await api.close()


@settings(max_examples=20, deadline=None)
@given(steps)
def test_a_watch_from_any_revision_is_complete_or_410(plan: list[Step]) -> None:  # API-4
    asyncio.run(resumed(plan))


async def test_a_full_disk_refuses_writes_and_lets_them_through_again(tmp_path: Path) -> None:  # API-3
    api = await Api.open(tmp_path)
    made = await api.create(CM, obj("a", 1))
    pages = await api.db.tx(lambda tx: tx.execute("PRAGMA page_count").fetchone()[0])
    await api.db.tx(lambda tx: tx.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    watch = api.store.watch(CM, None, api.store.revision)

    results = await asyncio.gather(
        *(api.create(CM, {"metadata": {"name": f"big{i}"}, "data": {"v": "x" * 5000}}) for i in range(20)),
        return_exceptions=True,
    )
    refused = [r for r in results if isinstance(r, StorageFull)]
    stored = [r for r in results if isinstance(r, dict)]
    assert refused
    assert len(refused) + len(stored) == 20
    assert api.names(CM) == sorted(["a", *(o["metadata"]["name"] for o in stored)])
    assert len(drained(watch)) == len(stored)
    assert api.objects.get(CM, "default", "a") == made

    await api.db.tx(lambda tx: tx.execute("PRAGMA max_page_count = 100000").fetchone())
    await api.create(CM, obj("b", 2))
    api = await api.reopen()
    assert "b" in api.names(CM)
    await api.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.unit.kubeapi.api import CM, Api

async def main():
    api = await Api.open(Path(sys.argv[1]))
    n = 0
    while True:
        n += 1
        names = [f"c{n}-{i}" for i in range(8)]
        made = await asyncio.gather(*(api.create(CM, {"metadata": {"name": name}}) for name in names))
        for obj in made:
            print(obj["metadata"]["name"], obj["metadata"]["resourceVersion"], flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:  # API-1
    with subprocess.Popen(  # noqa: ASYNC220  nothing else runs on this loop
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    ) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline().split() for _ in range(60)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [parts for line in child.stdout if len(parts := line.split()) == 2]

    api = await Api.open(tmp_path)
    try:
        for name, revision in acknowledged[:-1]:
            found = api.store.get(CM, "default", name)
            assert found is not None
            assert found["metadata"]["resourceVersion"] == revision
        assert api.store.revision >= int(acknowledged[-2][1])
    finally:
        await api.close()


async def test_a_commit_that_fails_leaves_memory_as_it_was(tmp_path: Path) -> None:
    api = await Api.open(tmp_path)
    made = await api.create(CM, obj("a", 1))
    blocker = connect(tmp_path / "kube.db")
    api.db._writer.execute("PRAGMA busy_timeout = 10")
    blocker.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(
        *(api.patch(CM, "a", {"data": {"v": str(n)}}) for n in range(5, 8)), return_exceptions=True
    )
    blocker.execute("ROLLBACK")
    blocker.close()
    assert not any(isinstance(r, dict) for r in results)
    assert api.objects.get(CM, "default", "a") == made
    assert (await api.patch(CM, "a", {"data": {"v": "9"}}))["data"] == {"v": "9"}
    await api.close()
