"""Promises about the lives of sandboxes and containers, how they end, and their logs."""

import asyncio
import re
from pathlib import Path

import pytest

from edgecore.pods.runtime import NoSuch, Resources, RuntimeRefused, State
from tests.conformance.runtime.world import FOREVER, World
from tests.kit.wait import eventually

STUBBORN = "trap '' TERM; while :; do sleep 1; done"
POLITE = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"


class LifePromises:
    async def test_a_sandbox_is_listed_with_what_it_was_given(self, world: World) -> None:
        config = world.sandbox(labels={"app": "a"}, annotations={"note": "b c"}, attempt=2)

        sandbox_id = await world.run_sandbox(config)

        listed = next(s for s in await world.runtime.sandboxes() if s.id == sandbox_id)
        status = await world.runtime.sandbox_status(sandbox_id)
        for found in (listed, status):
            assert (found.namespace, found.name, found.uid, found.attempt) == ("tests", config.name, config.uid, 2)
            assert found.state is State.RUNNING
            assert found.labels["app"] == "a"
            assert found.annotations["note"] == "b c"
            assert found.created_at_ns > 0
        assert bool(status.ips) is world.node.own_network

    async def test_a_container_is_listed_with_what_it_was_given(self, world: World) -> None:
        container_id = await world.run(*FOREVER, labels={"app": "a"}, annotations={"hash": "1"}, attempt=4)

        listed = next(c for c in await world.runtime.containers() if c.id == container_id)
        status = await world.runtime.container_status(container_id)
        for found in (listed, status):
            assert (found.name, found.attempt, found.state) == ("main", 4, State.RUNNING)
            assert found.labels["app"] == "a"
            assert found.annotations["hash"] == "1"
            assert found.image == world.node.image
            assert found.sandbox_id in {s.id for s in await world.runtime.sandboxes()}

    async def test_a_container_is_created_runs_and_ends(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)

        container_id = await world.runtime.create_container(sandbox_id, world.container("sleep", "0.1"), config)
        created = await world.runtime.container_status(container_id)
        await world.runtime.start_container(container_id)
        ended = await world.ended(container_id)

        assert (created.state, created.started_at_ns, created.finished_at_ns) == (State.CREATED, 0, 0)
        assert created.created_at_ns <= ended.started_at_ns <= ended.finished_at_ns
        assert (ended.exit_code, ended.reason) == (0, "Completed")

    async def test_an_exit_code_is_told_as_an_error(self, world: World) -> None:
        ended = await world.ended(await world.run("sh", "-c", "exit 42"))

        assert (ended.exit_code, ended.reason) == (42, "Error")

    async def test_a_killed_process_ends_with_128_and_its_signal(self, world: World) -> None:
        pod = world.sandbox(host_pid=True)  # the first process of a namespace cannot kill itself

        ended = await world.ended(await world.run("sh", "-c", "kill -SEGV $$", pod=pod))

        assert ended.exit_code == 128 + 11

    async def test_a_container_beyond_its_memory_is_told_as_oom_killed(self, world: World) -> None:
        greedy = "dd if=/dev/zero of=/dev/null bs=200M count=1"

        ended = await world.ended(await world.run("sh", "-c", greedy, resources=Resources(memory_bytes=32 << 20)))

        assert (ended.exit_code, ended.reason) == (137, "OOMKilled")

    async def test_a_program_that_is_not_there_is_refused_by_its_name(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)

        with pytest.raises(RuntimeRefused, match="/no/such/program"):
            await world.add(sandbox_id, config, "/no/such/program")

        assert State.RUNNING not in {c.state for c in await world.runtime.containers() if c.sandbox_id == sandbox_id}

    async def test_an_image_that_is_not_there_is_refused(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)

        with pytest.raises(RuntimeRefused, match="nowhere"):
            await world.add(sandbox_id, config, "true", image="localhost/skerry/nowhere:1")

    async def test_a_container_that_obeys_sigterm_is_not_killed(self, world: World) -> None:
        container_id = await world.run("sh", "-c", POLITE)
        status = await world.runtime.container_status(container_id)
        await eventually(lambda: "ready" in Path(status.log_path).read_text())

        async with asyncio.timeout(10):
            await world.runtime.stop_container(container_id, 30)

        assert (await world.ended(container_id)).exit_code == 5

    async def test_a_container_that_ignores_sigterm_is_killed_after_its_grace(self, world: World) -> None:
        container_id = await world.run("sh", "-c", STUBBORN)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()

        await world.runtime.stop_container(container_id, 1)

        assert 0.9 < loop.time() - begun_s < 6
        assert (await world.ended(container_id)).exit_code == 137

    async def test_without_grace_a_container_is_killed_at_once(self, world: World) -> None:
        container_id = await world.run("sh", "-c", STUBBORN)

        async with asyncio.timeout(20):
            await world.runtime.stop_container(container_id, 0)

        assert (await world.ended(container_id)).exit_code == 137

    async def test_a_stopped_sandbox_is_not_ready_and_what_ran_in_it_has_ended(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)
        container_id = await world.add(sandbox_id, config, *FOREVER)

        await world.runtime.stop_sandbox(sandbox_id)

        assert (await world.runtime.sandbox_status(sandbox_id)).state is State.EXITED
        assert (await world.ended(container_id)).exit_code == 137

    async def test_stop_and_remove_may_be_repeated(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)
        container_id = await world.add(sandbox_id, config, *FOREVER)

        for _ in range(2):
            await world.runtime.stop_container(container_id, 0)
        for _ in range(2):
            await world.runtime.remove_container(container_id)
        await world.runtime.stop_container(container_id, 0)
        for _ in range(2):
            await world.runtime.stop_sandbox(sandbox_id)
        for _ in range(2):
            await world.runtime.remove_sandbox(sandbox_id)
        await world.runtime.stop_sandbox(sandbox_id)

        assert container_id not in {c.id for c in await world.runtime.containers()}
        assert sandbox_id not in {s.id for s in await world.runtime.sandboxes()}

    async def test_what_is_gone_is_no_such(self, world: World) -> None:
        with pytest.raises(NoSuch):
            await world.runtime.sandbox_status("0123456789abcdef")
        with pytest.raises(NoSuch):
            await world.runtime.container_status("0123456789abcdef")
        with pytest.raises(NoSuch):
            await world.runtime.start_container("0123456789abcdef")

    async def test_a_removed_container_is_gone_though_it_ran(self, world: World) -> None:
        container_id = await world.run(*FOREVER)

        await world.runtime.remove_container(container_id)

        with pytest.raises(NoSuch):
            await world.runtime.container_status(container_id)

    async def test_a_new_attempt_stands_beside_the_ended_one(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)
        first = await world.add(sandbox_id, config, "true")
        await world.ended(first)

        second = await world.add(sandbox_id, config, *FOREVER, attempt=1, log_path="main/1.log")

        held = {c.id: (c.attempt, c.state) for c in await world.runtime.containers() if c.sandbox_id == sandbox_id}
        assert held == {first: (0, State.EXITED), second: (1, State.RUNNING)}

    async def test_a_pod_may_get_another_sandbox(self, world: World) -> None:
        config = world.sandbox()
        first = await world.run_sandbox(config)
        await world.runtime.stop_sandbox(first)

        second = await world.run_sandbox(world.sandbox(name=config.name, uid=config.uid, attempt=1))

        states = {s.id: s.state for s in await world.runtime.sandboxes() if s.uid == config.uid}
        assert states == {first: State.EXITED, second: State.RUNNING}

    async def test_a_new_client_finds_everything(self, world: World) -> None:
        container_id = await world.run(*FOREVER, labels={"app": "a"}, annotations={"hash": "1"})
        before = await world.runtime.container_status(container_id)

        other = world.node.reopen()
        after = await other.container_status(container_id)
        await other.close()

        assert after == before

    async def test_changes_name_the_pod_whose_container_ended_by_itself(self, world: World) -> None:
        config = world.sandbox()
        changes = world.runtime.changes()
        heard = asyncio.ensure_future(anext(changes))  # from before the pod was there
        container_id = await world.run("sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.05; done", pod=config)

        await world.says(container_id, "touch", "/tmp/end")
        async with asyncio.timeout(20):
            while await heard != config.uid:
                heard = asyncio.ensure_future(anext(changes))

        assert (await world.runtime.container_status(container_id)).state is State.EXITED
        await changes.aclose()  # type: ignore[attr-defined]

    async def test_changes_name_a_pod_that_ran_before_they_were_asked_for(self, world: World) -> None:
        config = world.sandbox()
        container_id = await world.run("sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.05; done", pod=config)
        changes = world.runtime.changes()
        heard = asyncio.ensure_future(anext(changes))
        await world.says(container_id, "touch", "/tmp/end")

        async with asyncio.timeout(20):
            while await heard != config.uid:
                heard = asyncio.ensure_future(anext(changes))

        await changes.aclose()  # type: ignore[attr-defined]


class LogPromises:
    async def test_a_log_line_has_its_time_its_stream_and_a_tag(self, world: World) -> None:
        ended = await world.ended(await world.run("sh", "-c", "echo out; echo err >&2; printf end"))

        lines = world.raw_log(ended).splitlines()
        form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d) (stdout|stderr) [FP] .*")
        assert all(form.fullmatch(line) for line in lines)
        assert ("stdout", "F", "out") in world.log_lines(ended)
        assert ("stderr", "F", "err") in world.log_lines(ended)
        assert [text for _, _, text in world.log_lines(ended)].count("end") == 1

    async def test_a_long_line_comes_in_parts(self, world: World) -> None:
        ended = await world.ended(await world.run("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo"))

        lines = world.log_lines(ended)
        assert (lines[0][1], lines[-1][1]) == ("P", "F")
        assert world.log_text(ended) == "x" * 40_000 + "\n"

    async def test_a_log_that_was_moved_is_opened_anew(self, world: World) -> None:
        script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done"
        container_id = await world.run("sh", "-c", script)
        path = Path((await world.runtime.container_status(container_id)).log_path)
        await eventually(lambda: "line 0" in path.read_text())

        kept = path.with_suffix(".old")
        await asyncio.to_thread(path.rename, kept)
        await world.runtime.reopen_log(container_id)

        await eventually(lambda: path.exists() and "line" in path.read_text())
        numbers = [int(line.rsplit(" ", 1)[1]) for file in (kept, path) for line in file.read_text().splitlines()]
        assert numbers == list(range(len(numbers)))
