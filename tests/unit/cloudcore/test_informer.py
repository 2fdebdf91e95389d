"""The list-watch: a clean close, a dropped connection, a 410 as event or as HTTP, a half-open connection: all resume."""

import asyncio
from typing import Any

import pytest

from cloudcore.kube.informer import Informer, InformerSettings, Name
from cloudcore.kube.resources import DEVICE
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.metrics import Metrics
from tests.kit.scripted_api import ScriptedApi, scripted_api
from tests.kit.wait import eventually

QUICK = InformerSettings(idle_timeout_s=0.2, backoff_cap_s=0.1)


def make(client: Any, settings: InformerSettings = QUICK) -> Informer:
    return Informer(client, DEVICE, clock=SystemClock(), rng=Rng(1), metrics=Metrics(), settings=settings)


async def put_and_see(api: ScriptedApi, informer: Informer, name: str) -> None:
    await api.put(name)
    await eventually(lambda: informer.get("default", name))


@pytest.mark.parametrize("fault", ["close", "reset", "gone", "http-gone", "silent"])
async def test_a_fault_of_the_watch_loses_no_event(fault: str) -> None:
    async with scripted_api() as (api, client), asyncio.TaskGroup() as group:
        informer = make(client)
        task = group.create_task(informer.run())
        await put_and_see(api, informer, "before")

        api.faults.append(fault)
        await api.end_watch()
        await eventually(lambda: not api.faults)
        await put_and_see(api, informer, "after")
        await api.delete("before")
        await eventually(lambda: informer.get("default", "before") is None)

        task.cancel()


async def test_what_was_deleted_during_a_gap_is_told_after_the_new_list() -> None:
    async with scripted_api() as (api, client), asyncio.TaskGroup() as group:
        informer = make(client)
        changes: list[tuple[Name, bool]] = []
        informer.listen(lambda name, _old, new: changes.append((name, new is not None)))
        task = group.create_task(informer.run())
        await put_and_see(api, informer, "kiln")

        api.items.clear()
        api.revision += 1
        api.compact()
        await api.end_watch()
        await eventually(lambda: not informer.objects)

        assert changes == [(Name("default", "kiln"), True), (Name("default", "kiln"), False)]
        task.cancel()


async def test_nothing_is_synced_before_the_first_whole_list() -> None:
    async with scripted_api() as (api, client), asyncio.TaskGroup() as group:
        informer = make(client)
        assert not informer.synced.is_set()

        task = group.create_task(informer.run())
        await informer.synced.wait()

        assert api.lists == 1
        task.cancel()


async def test_a_listener_that_fails_does_not_stop_the_others() -> None:
    def broken(*_: Any) -> None:
        raise ValueError("odd object")

    async with scripted_api() as (api, client), asyncio.TaskGroup() as group:
        informer = make(client)
        seen: list[Name] = []
        informer.listen(broken)
        informer.listen(lambda name, _old, _new: seen.append(name))
        task = group.create_task(informer.run())

        await put_and_see(api, informer, "kiln")

        assert seen == [Name("default", "kiln")]
        task.cancel()


async def test_an_api_server_that_is_away_is_waited_for() -> None:
    async with scripted_api() as (api, client), asyncio.TaskGroup() as group:
        informer = make(client)
        task = group.create_task(informer.run())
        await put_and_see(api, informer, "kiln")
        api.faults += ["reset"] * 5

        await api.end_watch()
        await put_and_see(api, informer, "oven")

        assert informer.connected
        task.cancel()
