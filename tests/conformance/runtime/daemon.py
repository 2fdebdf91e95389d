"""Promises of runtimes that are a daemon of their own, which may be away: killed, hanging, started again."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

import pytest

from edgecore.pods.runtime import ContainerRuntime, RuntimeAway, State
from proto.kit.channels import STDOUT
from tests.conformance.runtime.world import FOREVER, World
from tests.kit.wait import eventually


class Daemon(Protocol):
    async def kill(self) -> None: ...
    async def start(self) -> None: ...
    async def pause(self) -> None: ...
    def resume(self) -> None: ...


def every_call(runtime: ContainerRuntime, world: World) -> dict[str, Awaitable[Any]]:
    config = world.sandbox()
    return {
        "version": runtime.version(),
        "health": runtime.health(),
        "sandboxes": runtime.sandboxes(),
        "containers": runtime.containers(),
        "sandbox_status": runtime.sandbox_status("x"),
        "container_status": runtime.container_status("x"),
        "run_sandbox": runtime.run_sandbox(config),
        "stop_sandbox": runtime.stop_sandbox("x"),
        "remove_sandbox": runtime.remove_sandbox("x"),
        "create_container": runtime.create_container("x", world.container("true"), config),
        "start_container": runtime.start_container("x"),
        "stop_container": runtime.stop_container("x", 1),
        "remove_container": runtime.remove_container("x"),
        "exec_sync": runtime.exec_sync("x", ("true",), 1),
        "exec": runtime.exec("x", ("true",), stdin=False, stdout=True, stderr=True, tty=False),
        "attach": runtime.attach("x", stdin=False, stdout=True, stderr=True, tty=False),
        "port_forward": runtime.port_forward("x", 80),
        "usage": runtime.usage(),
        "images": runtime.images(),
        "image": runtime.image("x"),
        "pull": runtime.pull("localhost:9/x:1"),
        "remove_image": runtime.remove_image("x"),
        "image_filesystem": runtime.image_filesystem(),
    }


class DaemonPromises:
    async def test_every_call_says_that_the_runtime_is_away(self, world: World, daemon: Daemon) -> None:
        await world.runtime.version()
        await daemon.kill()

        said = {}
        for name, call in every_call(world.runtime, world).items():
            try:
                said[name] = await call
            except RuntimeAway as error:
                said[name] = str(error) != ""
        await daemon.start()

        assert said == dict.fromkeys(said, True)
        assert (await world.runtime.health()).ready

    async def test_what_runs_outlives_its_runtime(self, world: World, daemon: Daemon) -> None:
        pod = world.sandbox(annotations={"note": "a"})
        container_id = await world.run(*FOREVER, pod=pod, labels={"app": "a"}, annotations={"hash": "1"})
        before = await world.runtime.container_status(container_id)
        sandbox = await world.runtime.sandbox_status(before.sandbox_id)

        await daemon.kill()
        await daemon.start()

        assert await world.runtime.container_status(container_id) == before
        assert await world.runtime.sandbox_status(before.sandbox_id) == sandbox
        assert await world.says(container_id, "echo", "alive") == "alive\n"

    async def test_an_end_while_the_runtime_is_away_is_known_afterwards(self, world: World, daemon: Daemon) -> None:
        pod = world.sandbox()
        container_id = await world.run("sh", "-c", "until [ -e /tmp/end ]; do sleep 0.02; done; exit 6", pod=pod)
        changes = world.runtime.changes()
        heard = asyncio.ensure_future(anext(changes))
        ending = await world.runtime.exec(
            container_id,
            ("sh", "-c", "echo go; sleep 0.5; touch /tmp/end"),
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
        )
        chunk = await ending.read()
        assert chunk is not None
        assert (chunk.channel, chunk.data) == (STDOUT, b"go\n")

        await daemon.kill()
        await ending.close()
        await eventually(lambda: "touch /tmp/end" not in world.node.run("busybox", "ps"))
        await daemon.start()
        ended = await world.ended(container_id)
        async with asyncio.timeout(10):
            while await heard != pod.uid:
                heard = asyncio.ensure_future(anext(changes))
        await changes.aclose()  # type: ignore[attr-defined]

        assert ended.exit_code == 6

    async def test_a_hanging_runtime_is_away_and_then_back(
        self, world: World, impatient: ContainerRuntime, daemon: Daemon
    ) -> None:
        container_id = await world.run(*FOREVER)
        assert (await impatient.container_status(container_id)).state is State.RUNNING
        await daemon.pause()

        try:
            for call in (impatient.version, impatient.containers, impatient.images):
                with pytest.raises(RuntimeAway):
                    await call()
        finally:
            daemon.resume()

        assert (await impatient.container_status(container_id)).state is State.RUNNING
