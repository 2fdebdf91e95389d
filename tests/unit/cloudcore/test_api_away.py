"""The API server goes away and comes back: nothing is lost, nothing is acknowledged too early."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from cloudcore.kube.resources import EVENT
from cloudcore.settings import Api
from proto.kit.errors import Retryable
from tests.kit.cloud import bare_api, hub_on, status_change
from tests.kit.ports import free_port
from tests.kit.wait import eventually


async def test_a_status_is_acknowledged_only_once_an_api_server_that_was_away_has_it(tmp_path: Path) -> None:
    options = Api(host="127.0.0.1", port=free_port())
    async with AsyncExitStack() as api:
        kubeconfig = await api.enter_async_context(bare_api(tmp_path, options))
        async with hub_on(kubeconfig) as cloud:
            uid = (await cloud.device("kiln"))["metadata"]["uid"]
            await eventually(lambda: cloud.hub.scope.devices("gw-1"))
            await api.aclose()
            change = status_change("kiln", uid, 1)

            answers: list[str] = []

            async def as_the_link_does() -> None:
                while not answers or answers[-1] != "written":
                    try:
                        await cloud.hub.upstream.apply("gw-1", [change])
                    except Retryable:
                        answers.append("again")
                        await asyncio.sleep(0.05)
                    else:
                        answers.append("written")

            async with asyncio.TaskGroup() as group:
                group.create_task(as_the_link_does())
                await eventually(lambda: answers)
                await api.enter_async_context(bare_api(tmp_path, options))

            assert answers[0] == "again"
            assert (await cloud.status("kiln"))["state"] == "online"


async def test_what_changed_while_it_was_away_is_seen_when_it_is_back(tmp_path: Path) -> None:
    options = Api(host="127.0.0.1", port=free_port())
    async with AsyncExitStack() as api:
        kubeconfig = await api.enter_async_context(bare_api(tmp_path, options))
        async with hub_on(kubeconfig) as cloud:
            await cloud.device("kiln")
            await eventually(lambda: cloud.hub.scope.devices("gw-1"))

            await api.aclose()
            await eventually(lambda: not cloud.cluster.devices.connected)
            assert cloud.hub.scope.devices("gw-1")
            await api.enter_async_context(bare_api(tmp_path, options))
            await eventually(lambda: cloud.cluster.devices.connected)
            await cloud.device("oven")

            await eventually(lambda: len(cloud.hub.scope.devices("gw-1")) == 2)


async def test_people_are_told_of_a_fenced_copy_once_the_server_is_back(tmp_path: Path) -> None:
    options = Api(host="127.0.0.1", port=free_port())
    async with AsyncExitStack() as api:
        kubeconfig = await api.enter_async_context(bare_api(tmp_path, options))
        async with hub_on(kubeconfig) as cloud:
            await api.aclose()
            await eventually(lambda: not cloud.cluster.devices.connected)

            await cloud.hub.replica.fenced("gw-1", "epoch 3 was granted to another disk")
            await api.enter_async_context(bare_api(tmp_path, options))

            async def told() -> bool:
                try:
                    events = (await cloud.client.list(EVENT))["items"]
                except Retryable:
                    return False
                return [event["reason"] for event in events] == ["NodeFenced"]

            await eventually(told, 20)
