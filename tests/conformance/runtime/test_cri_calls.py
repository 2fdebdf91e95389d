"""What other runtimes than Debian's containerd do: calls they have or lack, odd answers, processes out of sight."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edgecore.pods.cri import CriRuntime, changes
from edgecore.pods.runtime import (
    ContainerConfig,
    NoSuch,
    PortMapping,
    RuntimeAway,
    RuntimeRefused,
    SandboxConfig,
    Security,
)
from proto.gen import cri_pb2 as pb
from proto.kit.clock import SystemClock
from tests.kit import images
from tests.kit.cri_server import CriServer, serving
from tests.kit.wait import eventually

UID = "the-uid"


class Pods:
    """One pod with one container, as lists and statuses show them."""

    def __init__(self, pid: int = 0) -> None:
        self.state = pb.CONTAINER_RUNNING
        self.pid = pid

    def answers(self) -> dict[str, Any]:
        return {
            "ListPodSandbox": lambda _: pb.ListPodSandboxResponse(
                items=[pb.PodSandbox(id="sandbox", metadata=pb.PodSandboxMetadata(uid=UID))]
            ),
            "ListContainers": lambda _: pb.ListContainersResponse(
                containers=[pb.Container(id="container", pod_sandbox_id="sandbox", state=self.state)]
            ),
            "PodSandboxStatus": lambda _: pb.PodSandboxStatusResponse(info={"info": f'{{"pid":{self.pid}}}'}),
            "ContainerStatus": self.container_status,
        }

    def container_status(self, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
        status = pb.ContainerStatus(id=request.container_id, state=self.state, finished_at=-6795364578871345152)
        return pb.ContainerStatusResponse(status=status, info={"info": f'{{"pid":{self.pid}}}'})


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[CriRuntime]:
    one = CriRuntime(tmp_path / "cri.sock", SystemClock(), quick_s=2.0)
    yield one
    await one.close()


async def refused(runtime: CriRuntime, status: Status, text: str = "no") -> Exception:
    def refuse(_: Any) -> Any:
        raise GRPCError(status, text)

    async with serving(CriServer({"Version": refuse}), runtime.socket):
        with pytest.raises((RuntimeAway, RuntimeRefused)) as refusal:
            await runtime.version()
    return refusal.value


@pytest.mark.parametrize(
    ("config", "driver"),
    [
        ('{"containerd":{"defaultRuntimeName":"r","runtimes":{"r":{"options":{"SystemdCgroup":true}}}}}', "systemd"),
        ('{"containerd":{"defaultRuntimeName":"r","runtimes":{"r":{"options":{}},"q":{"options":null}}}}', "cgroupfs"),
        ('{"systemdCgroup":true}', "systemd"),
        ("", "cgroupfs"),
    ],
)
async def test_without_runtime_config_the_driver_is_read_from_the_configuration_once(
    runtime: CriRuntime, config: str, driver: str
) -> None:
    server = CriServer({"Status": lambda _: pb.StatusResponse(info={"config": config})})
    async with serving(server, runtime.socket):
        assert [await runtime.cgroup_driver() for _ in range(2)] == [driver, driver]

    assert (server.calls["RuntimeConfig"], server.calls["Status"]) == (1, 1)


async def test_with_systemd_a_path_of_cgroups_becomes_a_slice(runtime: CriRuntime, tmp_path: Path) -> None:
    asked: list[pb.RunPodSandboxRequest] = []

    def run(request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse:
        asked.append(request)
        return pb.RunPodSandboxResponse(pod_sandbox_id="x")

    driver = pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.SYSTEMD))
    async with serving(CriServer({"RuntimeConfig": lambda _: driver, "RunPodSandbox": run}), runtime.socket):
        await runtime.run_sandbox(SandboxConfig("ns", "name", "uid", cgroup_parent="/kubepods/burstable/pod1-2"))

    assert asked[0].config.linux.cgroup_parent == "kubepods-burstable-pod1_2.slice"


async def test_events_are_used_where_the_runtime_has_them(runtime: CriRuntime) -> None:
    pods = Pods()
    async with serving(CriServer(pods.answers(), has_events=True), runtime.socket) as server:
        heard = asyncio.ensure_future(anext(runtime.changes()))
        event = pb.ContainerEventResponse(container_id="container", container_event_type=pb.CONTAINER_STOPPED_EVENT)
        server.events.put_nowait(event)

        async with asyncio.timeout(20):
            assert await heard == UID
        assert server.calls["ContainerStatus"] == 0


async def test_a_stream_of_events_that_ends_at_once_is_given_up(runtime: CriRuntime) -> None:
    server = CriServer(Pods().answers(), has_events=True)
    server.events.put_nowait(None)
    async with serving(server, runtime.socket):
        heard = asyncio.ensure_future(anext(runtime.changes()))
        await eventually(lambda: server.calls["ContainerStatus"] > 0)  # by process now

        assert server.calls["GetContainerEvents"] == 1
        heard.cancel()


async def test_what_began_by_our_own_call_is_no_change(runtime: CriRuntime) -> None:
    async with serving(CriServer(Pods().answers(), has_events=True), runtime.socket) as server:
        heard = asyncio.ensure_future(anext(runtime.changes()))
        for uid, kind in (("a", pb.CONTAINER_STARTED_EVENT), ("b", pb.CONTAINER_STOPPED_EVENT)):
            status = pb.PodSandboxStatus(metadata=pb.PodSandboxMetadata(uid=uid))
            server.events.put_nowait(
                pb.ContainerEventResponse(container_id="c", container_event_type=kind, pod_sandbox_status=status)
            )

        async with asyncio.timeout(20):
            assert await heard == "b"


async def test_a_change_while_the_events_were_cut_is_told(runtime: CriRuntime) -> None:
    pods = Pods()
    heard = asyncio.ensure_future(anext(runtime.changes()))
    async with serving(CriServer(pods.answers(), has_events=True), runtime.socket) as server:
        await eventually(lambda: server.calls["ListContainers"] == 1)
    pods.state = pb.CONTAINER_EXITED

    async with serving(CriServer(pods.answers(), has_events=True), runtime.socket), asyncio.timeout(10):
        assert await heard == UID


@pytest.mark.parametrize("pid", [0, 1, 4_000_000])
async def test_processes_out_of_sight_are_looked_for_more_often(
    runtime: CriRuntime, monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    monkeypatch.setattr(changes, "BLIND_RELIST_S", 0.05)
    pods = Pods(pid)
    async with serving(CriServer(pods.answers()), runtime.socket) as server:
        heard = asyncio.ensure_future(anext(runtime.changes()))
        await eventually(lambda: server.calls["ListContainers"] > 4)
        assert server.calls["ContainerStatus"] == 2  # for its process, and whether it runs; not again at each look
        pods.state = pb.CONTAINER_EXITED

        async with asyncio.timeout(20):
            assert await heard == UID


async def test_an_answer_beyond_the_bound_is_refused(runtime: CriRuntime) -> None:
    huge = pb.VersionResponse(runtime_name="x" * (17 << 20))
    async with serving(CriServer({"Version": lambda _: huge}), runtime.socket):
        with pytest.raises(RuntimeRefused, match="bytes"):
            await runtime.version()


async def test_the_year_one_is_never(runtime: CriRuntime) -> None:
    async with serving(CriServer(Pods().answers()), runtime.socket):
        status = await runtime.container_status("container")

    assert (status.finished_at_ns, status.sandbox_id) == (0, "sandbox")


async def test_errors_of_a_runtime_are_told_apart(runtime: CriRuntime) -> None:
    assert isinstance(await refused(runtime, Status.NOT_FOUND), NoSuch)
    assert isinstance(await refused(runtime, Status.UNAVAILABLE), RuntimeAway)
    assert isinstance(await refused(runtime, Status.UNKNOWN, "server is not initialized yet"), RuntimeAway)
    assert str(await refused(runtime, Status.UNKNOWN, "the kernel says no")) == "the kernel says no"


async def test_without_a_socket_the_runtime_is_away(runtime: CriRuntime) -> None:
    with pytest.raises(RuntimeAway, match=r"cri\.sock"):
        await runtime.version()


async def test_health_names_the_worst(runtime: CriRuntime) -> None:
    conditions = [
        pb.RuntimeCondition(type="RuntimeReady", status=True),
        pb.RuntimeCondition(type="NetworkReady", status=False, reason="NoCni", message="cni plugin not initialized"),
    ]
    answer = pb.StatusResponse(status=pb.RuntimeStatus(conditions=conditions))
    async with serving(CriServer({"Status": lambda _: answer}), runtime.socket):
        health = await runtime.health()

    assert (health.ready, health.network_ready, health.reason) == (True, False, "NoCni")


async def test_an_archive_for_cri_o_is_refused_with_the_way_that_works(runtime: CriRuntime) -> None:
    answer = pb.VersionResponse(runtime_name="cri-o", runtime_version="1.30")
    async with serving(CriServer({"Version": lambda _: answer}), runtime.socket):
        with pytest.raises(RuntimeRefused, match="skopeo copy"):
            await runtime.import_archive(images.archive("busybox"))


async def test_an_archive_without_ctr_is_refused_with_what_is_missing(
    runtime: CriRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    answer = pb.VersionResponse(runtime_name="containerd", runtime_version="2")
    async with serving(CriServer({"Version": lambda _: answer}), runtime.socket):
        with pytest.raises(RuntimeRefused, match="'ctr'"):
            await runtime.import_archive(images.archive("busybox"))


@pytest.mark.parametrize(
    "odd",
    [
        {"hostname": "\ud800"},
        {"ports": (PortMapping(80, 1 << 40),)},
        {"ports": (PortMapping(80, 8080, "CARRIER-PIGEON"),)},
        {"security": Security(uid=1 << 70)},
    ],
)
async def test_a_setting_without_a_place_in_cri_is_refused(runtime: CriRuntime, odd: dict[str, Any]) -> None:
    async with serving(CriServer({"RuntimeConfig": lambda _: pb.RuntimeConfigResponse()}), runtime.socket):
        with pytest.raises(RuntimeRefused, match="cannot be told"):
            await runtime.run_sandbox(SandboxConfig("ns", "name", "uid", **odd))


async def test_a_folder_of_logs_that_cannot_be_made_is_a_refusal(runtime: CriRuntime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sandbox = SandboxConfig("ns", "name", "uid", log_directory=str(tmp_path / "file"))
    async with serving(CriServer({"RuntimeConfig": lambda _: pb.RuntimeConfigResponse()}), runtime.socket):
        with pytest.raises(RuntimeRefused, match="folder of the logs"):
            await runtime.create_container("x", ContainerConfig("main", "image", log_path="main/0.log"), sandbox)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\nthe token is gone", RuntimeRefused, "the token is gone"),
        (b"", RuntimeAway, "ended"),
        (b"x" * 40_000, RuntimeRefused, "refuses"),
    ],
)
async def test_a_stream_that_cannot_be_opened_says_why(
    runtime: CriRuntime, answer: bytes, kind: type[Exception], said: str
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    streams = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{streams.sockets[0].getsockname()[1]}/exec/abc"
    async with serving(CriServer({"Exec": lambda _: pb.ExecResponse(url=url)}), runtime.socket):
        with pytest.raises(kind, match=said):
            await runtime.exec("c", ("true",), stdin=False, stdout=True, stderr=True, tty=False)
    streams.close()


@pytest.mark.parametrize(
    ("url", "kind"), [("https://127.0.0.1:1/exec/x", RuntimeRefused), ("http://127.0.0.1:9/exec/x", RuntimeAway)]
)
async def test_streams_are_spoken_to_this_machine_over_http(
    runtime: CriRuntime, url: str, kind: type[Exception]
) -> None:
    async with serving(CriServer({"PortForward": lambda _: pb.PortForwardResponse(url=url)}), runtime.socket):
        with pytest.raises(kind):
            await runtime.port_forward("s", 80)
