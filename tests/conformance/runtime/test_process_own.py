"""What only plain processes have: a supervisor that may be killed, a root of the node's own, and nothing that may stay behind."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgecore.pods import mounts
from edgecore.pods.process.runtime import ProcessRuntime
from edgecore.pods.runtime import Mount, Resources, RuntimeRefused, Security, State
from proto.kit.channels import ChannelsClosed
from proto.kit.clock import SystemClock
from tests.conformance.runtime import test_process
from tests.conformance.runtime.world import FOREVER, Node, World, everything
from tests.kit.containerd import Host
from tests.kit.leftovers import alive, cgroup_folders, cgroup_processes, end_all
from tests.kit.wait import eventually

host, node = test_process.host, test_process.node


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    one = World(node.reopen(), node, tmp_path)
    yield one
    await one.close()


def supervisor(host: Host, sandbox_id: str) -> int:
    """The pid of a pod's supervisor."""
    for entry in Path("/proc").iterdir():  # also one that has just ended: it is listed, but says nothing
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"main" in words and any(word.endswith(sandbox_id.encode()) for word in words):
                return int(entry.name)
    return 0


async def test_secrets_of_an_environment_rest_on_no_disk_and_go_with_their_container(host: Host, world: World) -> None:
    """PROC-3: also a container that an earlier edgecore made is started with all that it was made with."""
    pod = world.sandbox()
    sandbox_id = await world.run_sandbox(pod)
    argv = ("sh", "-c", 'test "$KEY" = hush-1234 && sleep 1000')
    config = world.container(*argv, env=(("KEY", "hush-1234"),))
    container_id = await world.runtime.create_container(sandbox_id, config, pod)
    (link,) = (host.folder / "data" / "process").rglob(f"{container_id}/plan.json")
    plan = link.readlink()
    assert (plan.stat().st_mode & 0o777, plan.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"hush-1234" in plan.read_bytes()
    assert mounts.covering(plan).kind == "tmpfs"  # type: ignore[union-attr]
    written = [
        path for path in (host.folder / "data" / "process").rglob("*") if path.is_file() and not path.is_symlink()
    ]
    assert [path for path in written if b"hush-1234" in path.read_bytes()] == []

    later = world.node.reopen()
    await later.update_resources(container_id, Resources(memory_bytes=64 << 20))
    await later.start_container(container_id)
    assert (await later.container_status(container_id)).state is State.RUNNING
    assert link.is_symlink()

    await later.remove_sandbox(sandbox_id)
    await later.close()
    assert not plan.exists()


async def test_a_killed_supervisor_takes_its_pod_along_and_that_is_told(host: Host, world: World) -> None:
    """PROC-2, PROC-4."""
    pod = world.sandbox(host_pid=True)  # nothing ends by itself here
    sandbox_id = await world.run_sandbox(pod)
    created = await world.runtime.create_container(sandbox_id, world.container("true"), pod)
    container_id = await world.add(sandbox_id, pod, "sh", "-c", "sleep 1000 & sleep 1001", name="b")
    changes = world.runtime.changes()
    heard = asyncio.ensure_future(anext(changes))
    await world.runtime.sandboxes()
    await eventually(lambda: len(cgroup_processes(pod.cgroup_parent)) >= 3)

    os.kill(supervisor(host, sandbox_id), signal.SIGKILL)

    async with asyncio.timeout(20):
        assert await heard == pod.uid
    ended = await world.runtime.container_status(container_id)
    assert (ended.state, ended.exit_code, ended.reason) == (State.EXITED, 137, "Error")
    assert "not seen" in ended.message
    assert (await world.runtime.sandbox_status(sandbox_id)).state is State.EXITED
    assert (await world.runtime.container_status(created)).state is State.CREATED
    await eventually(lambda: cgroup_processes(pod.cgroup_parent) == [])
    assert await world.runtime.container_status(container_id) == ended
    with pytest.raises(RuntimeRefused):
        await world.runtime.start_container(created)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_after_a_power_cut_everything_is_known_as_ended_and_runs_anew(host: Host, world: World) -> None:
    """PROC-3, PROC-4."""
    pod = world.sandbox()
    container_id = await world.run(*FOREVER, pod=pod)
    sandbox_id = (await world.runtime.container_status(container_id)).sandbox_id
    address = (await world.runtime.sandbox_status(sandbox_id)).ips
    end_all(lambda: [supervisor(host, sandbox_id), *cgroup_processes(pod.cgroup_parent)])

    later = world.node.reopen()
    listed = {c.id: c.state for c in await later.containers()}
    again = await world.run_sandbox(world.sandbox(name=pod.name, uid=pod.uid, attempt=1))

    assert listed[container_id] is State.EXITED
    assert (await world.runtime.sandbox_status(again)).ips == address
    await later.close()


async def test_a_removed_pod_leaves_nothing_behind(host: Host, world: World) -> None:
    """PROC-4."""
    before = host.run("ip", "-o", "link")
    mounts = host.run("cat", "/proc/self/mountinfo")
    pod = world.sandbox()
    sandbox_id = await world.run_sandbox(pod)
    await world.add(sandbox_id, pod, "sh", "-c", "sleep 1000 & sleep 1001")
    first = supervisor(host, sandbox_id)

    await world.runtime.stop_sandbox(sandbox_id)
    await world.runtime.remove_sandbox(sandbox_id)

    assert not alive(first)
    links = [line.split(":")[1] for line in host.run("ip", "-o", "link").splitlines()]
    assert [name for name in links if name.strip().startswith("sk") and "skerry0" not in name] == []
    assert len(links) - len(before.splitlines()) <= 1  # the bridge stays
    assert host.run("cat", "/proc/self/mountinfo") == mounts
    assert [f for f in cgroup_folders(pod.cgroup_parent) if any(f.iterdir()) and list(f.glob("*/"))] == []
    assert not list((host.folder / "data" / "process" / "sandboxes").glob(sandbox_id))


async def test_a_container_may_stand_on_the_nodes_own_root(host: Host, world: World) -> None:
    """PROC-8."""
    secret = host.folder / "data" / "secret"
    secret.write_text("of the node")
    folder = world.folder / "volume"
    folder.mkdir()

    said = await world.shell(
        f"cat {secret} || echo hidden; touch /usr/x || echo refused; touch /tmp/x && echo scratch; echo y > /volume/y",
        image="host",
        mounts=(Mount("/volume", str(folder)),),
    )

    assert [word for word in ("hidden", "refused", "scratch") if word in said] == ["hidden", "refused", "scratch"]
    assert (folder / "y").read_text() == "y\n"
    assert await world.runtime.pull("docker.io/library/host:latest") == "host"


async def test_two_pods_cannot_have_the_same_host_port(world: World) -> None:
    """PROC-5."""
    from edgecore.pods.runtime import PortMapping

    ports = (PortMapping(8080, 18081),)
    await world.run_sandbox(world.sandbox(ports=ports))

    with pytest.raises(RuntimeRefused, match="hostPort 18081/TCP"):
        await world.run_sandbox(world.sandbox(ports=ports))


async def test_a_fast_command_is_never_lost(world: World) -> None:
    container_id = await world.run()

    for number in range(40):
        done = await world.runtime.exec_sync(container_id, ("sh", "-c", f"exit {number}"), 5)
        assert done.exit_code == number


async def test_a_name_of_a_user_that_the_image_lacks_is_refused(world: World) -> None:
    with pytest.raises(RuntimeRefused, match="nosuch"):
        await world.run("true", security=Security(user_name="nosuch"))


async def test_a_slow_reader_of_an_attach_is_cut_and_the_container_goes_on(world: World) -> None:
    """PROC-10."""
    container_id = await world.run("sh", "-c", "while :; do head -c 200000 /dev/zero | tr '\\0' x; echo; done")
    channels = await world.runtime.attach(container_id, stdin=False, stdout=True, stderr=True, tty=False)
    log = Path((await world.runtime.container_status(container_id)).log_path)

    await eventually(lambda: log.stat().st_size > 20_000_000, 30.0)

    with pytest.raises(ChannelsClosed, match="too slow"):
        await everything(channels)
    await channels.close()
    await world.runtime.stop_container(container_id, 0)


async def test_a_terminal_is_the_containers_own(world: World) -> None:
    container_id = await world.run("sh", "-c", "tty; read line; echo got $line", tty=True, stdin=True)
    channels = await world.runtime.attach(container_id, stdin=True, stdout=True, stderr=False, tty=True)

    await channels.write(0, b"hello\n")
    ended = await world.ended(container_id)
    await channels.close()

    assert "/dev/pts/0" in world.log_text(ended)
    assert "got hello" in world.log_text(ended)


async def test_supervisors_are_small(host: Host, world: World) -> None:
    """PROC-1."""
    pod = world.sandbox()
    sandbox_id = await world.run_sandbox(pod)
    await world.add(sandbox_id, pod, *FOREVER)
    await world.says((await world.runtime.containers())[-1].id, "true")
    status = host.run("cat", f"/proc/{supervisor(host, sandbox_id)}/status")
    private_kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))

    assert private_kb < 7_000


async def test_without_bubblewrap_the_node_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = ProcessRuntime(host.folder / "other", SystemClock())
    monkeypatch.setenv("PATH", "/nowhere")

    health = await runtime.health()

    assert (health.ready, health.reason) == (False, "NoBubblewrap")


def test_the_supervisor_needs_nothing_but_the_standard_library() -> None:
    """PROC-1."""
    from edgecore.pods.process import boot

    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import edgecore.pods.process.shim.main; print(len(sys.modules))"
    )
    done = subprocess.run(
        [boot.PYTHON, "-I", "-S", "-E", "-c", code, boot.ROOT], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) < 110
