"""Probes in manual time over scripted checks, and the checks themselves against real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from edgecore.pods.checks import Checks, Found, judge_http, port_of, request_head
from edgecore.pods.entry import Entry
from edgecore.pods.events import PodEvents
from edgecore.pods.hooks import LifecycleHooks
from edgecore.pods.probes import Probes
from edgecore.pods.runtime import RuntimeAway
from edgecore.pods.timers import Timers
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.metrics import Metrics
from tests.kit.clock import ManualClock
from tests.kit.memory_runtime import MemoryRuntime
from tests.kit.pods import container, pod

Json = dict[str, Any]


class ScriptedChecks(Checks):
    """Answers what ``found`` says; ``hang`` holds every check until it is set."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(MemoryRuntime(clock))
        self.found: Found | Exception = Found(True)
        self.asked: list[str] = []
        self.hang: asyncio.Event | None = None

    async def run(self, container: Json, check: Json, container_id: str, host: str, timeout_s: float) -> Found:
        self.asked.append(container["name"])
        if self.hang is not None:
            await self.hang.wait()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Bench:
    """One running container named main with probes."""

    def __init__(self, **probes: Any) -> None:
        self.clock = ManualClock()
        self.checks = ScriptedChecks(self.clock)
        self.timers = Timers(self.clock)
        metrics = Metrics()
        self.events = PodEvents("gw-1", self.clock, metrics)
        self.probes = Probes(
            self.checks,
            self.timers,
            self.events,
            clock=self.clock,
            rng=Rng(1),
            metrics=metrics,
            target=lambda _: "127.0.0.1",
        )
        self.pod = pod("web", container(**probes))
        self.entry = Entry("uid-web", "default", "web")
        self.held = self.entry.memory.held("main")
        self.changes = 0
        self.probes.pod_of = lambda _: self.pod
        self.probes.changed = self._changed
        self.supervisor = Supervisor(self.clock)

    def _changed(self, entry: Entry) -> None:
        self.changes += 1
        self.probes.sync(entry, self.pod, {"main": "c1"})

    def start(self) -> None:
        first = self.pod["spec"]["containers"][0]
        self.held.about(
            "c1", started="startupProbe" not in first, ready="readinessProbe" not in first, now_s=self.clock.now_s()
        )
        self.probes.sync(self.entry, self.pod, {"main": "c1"})

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            for _ in range(20):
                await asyncio.sleep(0)
            self.clock.advance(1.0)
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def bench(**probes: Any) -> AsyncIterator[Bench]:
    one = Bench(**probes)
    one.supervisor.spawn(one.timers.run(), "timers")
    one.supervisor.spawn(one.probes.run(), "probes")
    await asyncio.sleep(0)
    one.start()
    yield one
    await one.supervisor.close()


async def test_a_timeout_that_comes_late_blames_no_container_unless_it_always_does() -> None:
    """POD-9."""
    killed = []
    async with bench(livenessProbe={"exec": {}, "periodSeconds": 1, "failureThreshold": 1}) as b:
        b.checks.found = Found(False, "timed out after 1s", timed_out=True)
        b.checks.hang = asyncio.Event()
        for _ in range(4):
            await b.pass_time(3)
            hang, b.checks.hang = b.checks.hang, asyncio.Event()  # the next one hangs, too
            hang.set()
            await b.pass_time(0)
            killed.append(b.held.kill is not None)

    assert killed == [False, False, False, True]


async def test_liveness_and_readiness_begin_when_the_startup_probe_has_passed() -> None:
    """POD-9."""
    probe = {"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 1}
    async with bench(startupProbe=probe | {"failureThreshold": 9}, livenessProbe=probe, readinessProbe=probe) as b:
        b.checks.found = Found(False, "not yet")
        await b.pass_time(4)
        before = (b.held.started, b.held.kill)
        b.checks.found = Found(True)
        await b.pass_time(3)

        assert before == (False, None)
        assert (b.held.started, b.held.ready, b.held.kill) == (True, True, None)


@pytest.mark.parametrize(("kind", "policy"), [("livenessProbe", "Always"), ("startupProbe", "OnFailure")])
async def test_a_probe_that_fails_often_enough_stops_the_container(kind: str, policy: str) -> None:
    """POD-9."""
    probe = {"exec": {}, "periodSeconds": 2, "failureThreshold": 3, "terminationGracePeriodSeconds": 7}
    async with bench(**{kind: probe}) as b:
        b.pod["spec"]["restartPolicy"] = policy
        b.checks.found = Found(False, "boom")
        await b.pass_time(3)
        two = b.held.kill
        await b.pass_time(2)

        assert two is None
        assert b.held.kill is not None
        assert (b.held.kill.container_id, b.held.kill.restart, b.held.kill.grace_s) == ("c1", True, 7.0)
        assert b.held.kill.message == f"Container main failed {kind.removesuffix('Probe')} probe, will be restarted"
        unhealthy = [e for e in b.events.due() if b"Unhealthy" in e]
        assert len(unhealthy) == 1


async def test_readiness_follows_its_thresholds_both_ways() -> None:
    probe = {"exec": {}, "periodSeconds": 1, "successThreshold": 2, "failureThreshold": 2, "initialDelaySeconds": 3}
    async with bench(readinessProbe=probe) as b:
        await b.pass_time(2)
        early = list(b.checks.asked)
        await b.pass_time(1)
        one = b.held.ready
        await b.pass_time(1)
        up = b.held.ready
        b.checks.found = Found(False, "down")
        await b.pass_time(1)
        still = b.held.ready
        await b.pass_time(1)

        assert (early, one, up, still, b.held.ready) == ([], False, True, True, False)


async def test_a_probe_that_hangs_is_not_asked_twice_at_once() -> None:
    """POD-9."""
    async with bench(livenessProbe={"exec": {}, "periodSeconds": 1}) as b:
        b.checks.hang = asyncio.Event()
        await b.pass_time(10)
        waiting = len(b.checks.asked)
        b.checks.hang.set()
        await b.pass_time(3)

        assert waiting == 1
        assert len(b.checks.asked) > 2


async def test_a_runtime_that_is_away_is_no_verdict() -> None:
    """POD-9."""
    async with bench(livenessProbe={"exec": {}, "periodSeconds": 1, "failureThreshold": 1}) as b:
        b.checks.found = RuntimeAway("gone")
        await b.pass_time(5)

        assert (b.held.kill, len(b.checks.asked) > 3) == (None, True)


async def test_probes_end_with_their_container() -> None:
    async with bench(livenessProbe={"exec": {}, "periodSeconds": 1}) as b:
        await b.pass_time(2)
        b.probes.sync(b.entry, b.pod, {})
        asked = len(b.checks.asked)
        await b.pass_time(5)

        assert len(b.checks.asked) == asked


# the checks themselves


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # a TCP probe says nothing
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heads


def checks() -> Checks:
    return Checks(MemoryRuntime(SystemClock()))


async def test_an_http_probe_sends_its_path_and_headers_to_a_named_port() -> None:
    async with server(b"HTTP/1.1 204 No Content\r\n\r\n") as (port, heads):
        action = {"path": "/healthz?full=1", "port": "web", "httpHeaders": [{"name": "host", "value": "me.example"}]}
        main = container(ports=[{"name": "web", "containerPort": port}])

        found = await checks().run(main, {"httpGet": action}, "c1", "127.0.0.1", 2.0)

    assert found.ok
    assert heads[0].startswith(b"GET /healthz?full=1 HTTP/1.1\r\nHost: me.example\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nbusy", "HTTP probe failed with statuscode: 503: busy"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is no HTTP"),
        (b"", "the answer is no HTTP"),
    ],
)
async def test_an_http_probe_says_why_it_failed(answer: bytes, message: str) -> None:
    async with server(answer) as (port, _):
        found = await checks().run(container(), {"httpGet": {"port": port}}, "c1", "127.0.0.1", 2.0)

    assert found == Found(False, message)


async def test_a_tcp_probe_connects_or_says_why_not() -> None:
    async with server(b"") as (port, _):
        assert (await checks().run(container(), {"tcpSocket": {"port": port}}, "c1", "127.0.0.1", 2.0)).ok
    refused = await checks().run(container(), {"tcpSocket": {"port": port}}, "c1", "127.0.0.1", 2.0)

    assert not refused.ok
    assert refused.message


async def test_a_server_that_never_answers_costs_the_timeout() -> None:
    left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        found = await checks().run(container(), {"httpGet": {"port": port}}, "c1", "127.0.0.1", 0.05)
        await left.wait()

    assert found == Found(False, "timed out after 0.05s")


async def test_a_grpc_probe_asks_the_health_service() -> None:
    from grpclib.server import Server, Stream

    class Health:
        def __mapping__(self) -> Json:
            from grpclib.const import Cardinality, Handler

            async def check(stream: "Stream[Any, Any]") -> None:
                asked = await stream.recv_message()
                await stream.send_message(1 if asked == b"\x0a\x02db" else 2)

            return {"/grpc.health.v1.Health/Check": Handler(check, Cardinality.UNARY_UNARY, None, None)}

    class Codec:
        __content_subtype__ = "proto"

        def encode(self, message: Any, message_type: Any) -> bytes:
            return bytes((0x08, message))

        def decode(self, content: bytes, message_type: Any) -> bytes:
            return content

    one: Any = Server([Health()], codec=Codec())  # type: ignore[arg-type]
    await one.start("127.0.0.1", 0)
    port = one._server.sockets[0].getsockname()[1]
    well = await checks().run(container(), {"grpc": {"port": port, "service": "db"}}, "c1", "127.0.0.1", 2.0)
    ill = await checks().run(container(), {"grpc": {"port": port}}, "c1", "127.0.0.1", 2.0)
    one.close()
    await one.wait_closed()
    nobody = await checks().run(container(), {"grpc": {"port": port}}, "c1", "127.0.0.1", 2.0)

    assert (well.ok, ill.ok, nobody.ok) == (True, False, False)
    assert ill.message == "service unhealthy (responded with 'NOT_SERVING')"


def test_ports_headers_and_answers_that_are_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="no port named 'web'"):
        port_of(container(), "web")
    with pytest.raises(ValueError, match="line break"):
        request_head({"path": "/a\r\nX: y"}, "h", 1)
    assert not judge_http(b"HTTP/1.1 abc\r\n\r\n", b"").ok


async def test_hooks_say_what_failed_and_sleep_sleeps() -> None:
    clock = ManualClock()
    scripted = ScriptedChecks(clock)
    hooks = LifecycleHooks(scripted, clock, lambda _: "127.0.0.1")
    scripted.found = Found(False, "exit 1")
    failed = await hooks.run(pod("web"), container(), {"exec": {"command": ["x"]}}, "c1", 5.0)
    sleeping: Callable[[], bool]
    supervisor = Supervisor(clock)
    task = supervisor.spawn(hooks.run(pod("web"), container(), {"sleep": {"seconds": 5}}, "c1", 3.0), "sleep")
    await asyncio.sleep(0)
    sleeping = task.done
    before = sleeping()
    clock.advance(3.0)
    await task

    assert (failed, before, task.result()) == ("exit 1", False, "")
