"""A real edgecore on a real containerd whose cloud never answers: cold boot, kills, and the commands of the technician."""

import asyncio
import json
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpclib
import pytest

from edgecore import kinds, offline
from kubeapi.kinds import POD
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.clock import SystemClock
from proto.kit.database import Database
from tests.e2e.conftest import LoneEdge
from tests.kit.containerd import Host, hosted
from tests.kit.images import PYTHON_REF
from tests.kit.platform import CommandFailed, command
from tests.kit.pods import container, pod
from tests.kit.terminal import open_terminal, work_at
from tests.kit.wait import eventually

Json = dict[str, Any]
PACKAGES = Path(grpclib.__file__).parents[1]
HEALTH = """
import asyncio
from grpclib.health.check import ServiceStatus
from grpclib.health.service import Health
from grpclib.server import Server

class Valve:
    def __mapping__(self):
        return {"/valve.Valve/Turn": None}

async def main():
    valve, check = Valve(), ServiceStatus()
    check.set(True)
    server = Server([Health({valve: [check]})])
    await server.start("0.0.0.0", 9000)
    print("listening", flush=True)
    await asyncio.sleep(3)
    check.set(False)
    await server.wait_closed()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hosted(tmp_path_factory.mktemp("host") / "h", subnet="10.91.0.0/16", archives=("busybox", "python")) as one:
        yield one


@pytest.fixture
async def edge(host: Host, lone_edge: LoneEdge) -> AsyncIterator[LoneEdge]:
    """An edge inside the host: it finds containerd where every gateway has it."""
    lone_edge.find_runtime()
    lone_edge.daemon.argv = [*host.argv_prefix, *lone_edge.daemon.argv]
    yield lone_edge
    if not lone_edge.daemon.running:
        await lone_edge.daemon.start()
    for name in [p["metadata"]["name"] for p in offline.objects(lone_edge.directory, POD)]:
        await lone_edge.daemon.kill()
        await seed(lone_edge, gone=name)
    await lone_edge.daemon.kill()


async def seed(edge: LoneEdge, *pods: Json, gone: str = "") -> None:
    """Put pods where the link would, while no daemon runs."""
    db = Database.open(edge.directory.database)
    store = await Store.open(db, kinds.registry(), SystemClock(), decoded_objects=64)
    for one in pods:
        await db.tx(lambda tx, one=one: store.put(tx, POD, one))  # type: ignore[misc]
    if gone:
        await db.tx(lambda tx: store.remove(tx, POD, "default", gone))
    await db.close()


def status(edge: LoneEdge, name: str) -> Json:
    found = next((p for p in offline.objects(edge.directory, POD) if p["metadata"]["name"] == name), {})
    return found.get("status") or {}


def is_ready(edge: LoneEdge, name: str, restarts: int = 0) -> bool:
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status(edge, name).get("conditions") or [])
    return ready and status(edge, name)["containerStatuses"][0]["restartCount"] == restarts


def events(edge: LoneEdge, reason: str) -> list[Json]:
    """What waits for the cloud to be told."""
    with closing(sqlite3.connect(f"file:{edge.directory.database}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT body FROM link_message WHERE kind = 'event'").fetchall()
    return [event for event in (canonical.decode(row[0]) for row in rows) if event["reason"] == reason]


def ids(edge: LoneEdge, *names: str) -> list[str]:
    return [s["containerID"] for name in names for s in status(edge, name)["containerStatuses"]]


async def edgecore(edge: LoneEdge, *words: str) -> str:
    verb, *rest = words
    return await command("edgecore", verb, "--data-dir", str(edge.directory.path), *rest)


async def test_a_cold_boot_without_any_network_runs_twenty_pods(host: Host, edge: LoneEdge) -> None:
    names = [f"p{i}" for i in range(20)]
    await seed(edge, *(pod(name, terminationGracePeriodSeconds=0) for name in names))

    await edge.daemon.start()
    await eventually(lambda: all(is_ready(edge, name) for name in names), 30)
    before = ids(edge, *names)
    await edge.daemon.kill()
    await edge.daemon.start()
    await eventually(lambda: "container runtime answers" in edge.daemon.log.read_text().rpartition("pods are run")[2])
    listed = json.loads(await edgecore(edge, "pods", "-o", "json"))["items"]
    rss = edge.daemon.rss_bytes()
    await edge.daemon.kill()

    assert ids(edge, *names) == before
    assert [row["why"] for row in listed] == [""] * 20
    assert rss < 66 << 20


async def test_the_technician_sees_logs_enters_and_restarts_without_a_cloud(host: Host, edge: LoneEdge) -> None:
    speaks = container(command=("sh", "-c", "echo started; sleep 1000"))
    broken = container(
        command=("sh", "-c", "echo cannot open the valve; exit 7"), terminationMessagePolicy="FallbackToLogsOnError"
    )
    await seed(edge, pod("web", speaks, terminationGracePeriodSeconds=0), pod("bad", broken))
    await edge.daemon.start()
    await eventually(lambda: is_ready(edge, "web"), 20)
    await eventually(lambda: "CrashLoopBackOff" in json.dumps(status(edge, "bad")), 20)

    said = await edgecore(edge, "exec", "web", "--", "sh", "-c", "echo inside; echo aside >&2")
    with pytest.raises(CommandFailed, match="ended with 9"):
        await edgecore(edge, "exec", "web", "-c", "main", "--", "sh", "-c", "exit 9")
    rows = {row["name"]: row for row in json.loads(await edgecore(edge, "pods", "-o", "json"))["items"]}
    restarted = await edgecore(edge, "restart", "web")
    await eventually(lambda: is_ready(edge, "web", 1), 20)
    log = await edgecore(edge, "logs", "default/web", "--tail", "5")
    earlier = await edgecore(edge, "logs", "web", "--previous")
    await edge.daemon.kill()
    offline_log = await edgecore(edge, "logs", "web")

    assert (said, log, earlier, offline_log) == ("inside\n", "started\n", "started\n", "started\n")
    assert restarted == "default/web: all containers restarting\n"
    assert rows["web"]["why"] == ""
    assert rows["bad"]["why"].startswith("container main ends with exit code 7 again and again")
    assert rows["bad"]["why"].endswith(": cannot open the valve")
    with pytest.raises(CommandFailed, match="systemctl start edgecore"):
        await edgecore(edge, "exec", "web", "--", "true")
    with pytest.raises(CommandFailed, match="no pod nothing on this node"):
        await edgecore(edge, "restart", "nothing")


async def test_the_technician_works_in_a_container_as_on_a_terminal(host: Host, edge: LoneEdge) -> None:
    """The size of the window and its changes, keys that interrupt, and how the shell ended: all reach the other side."""
    await seed(edge, pod("shell", terminationGracePeriodSeconds=0))
    await edge.daemon.start()
    await eventually(lambda: is_ready(edge, "shell"), 20)

    words = ["exec", "-i", "-t", "--data-dir", str(edge.directory.path), "shell", "--", "sh"]
    async with open_terminal([sys.executable, "-m", "edgecore", *words], rows=33, columns=101) as person:
        found = person.modes()
        await work_at(person)
        person.type("exit 7\n")
        code = await asyncio.wait_for(person.process.wait(), 10)
        left = person.modes()

    assert (code, left == found) == (7, True), person.screen
    assert is_ready(edge, "shell"), "what the person ended was the shell"


def probing(every: Json, **fields: Any) -> Json:
    return {**every, "periodSeconds": 1, "failureThreshold": 1, **fields}


async def test_probes_reach_a_pod_at_its_own_address(edge: LoneEdge) -> None:
    """POD-9: HTTP with a named port, TCP, and gRPC with a service."""
    serve = ("sh", "-c", "mkdir /www; echo yes > /www/ready; httpd -p 8080 -h /www; sleep 3; rm /www/ready; sleep 1000")
    web = container(
        command=serve,
        ports=[{"name": "web", "containerPort": 8080}],
        startupProbe=probing({"tcpSocket": {"port": "web"}}, failureThreshold=30),
        readinessProbe=probing({"httpGet": {"path": "/ready", "port": "web", "scheme": "HTTP"}}),
        livenessProbe=probing({"tcpSocket": {"port": 8080}}),
    )
    deaf = container(command=("sleep", "1000"), livenessProbe=probing({"tcpSocket": {"port": 8080}}))
    valve = container(
        command=("python3", "-u", "-c", HEALTH),
        image=PYTHON_REF,
        env=[{"name": "PYTHONPATH", "value": "/packages"}],
        volumeMounts=[{"name": "packages", "mountPath": "/packages", "readOnly": True}],
        startupProbe=probing({"tcpSocket": {"port": 9000}}, failureThreshold=60),
        readinessProbe=probing({"grpc": {"port": 9000, "service": "valve.Valve"}}),
    )
    volumes = [{"name": "packages", "hostPath": {"path": str(PACKAGES)}}]
    wanted: Json = {"terminationGracePeriodSeconds": 0}
    await seed(
        edge, pod("probed", web, **wanted), pod("deaf", deaf, **wanted), pod("valve", valve, volumes=volumes, **wanted)
    )
    await edge.daemon.start()

    await eventually(lambda: is_ready(edge, "probed") and is_ready(edge, "valve"), 30)
    await eventually(lambda: not is_ready(edge, "probed") and not is_ready(edge, "valve"), 20)
    await eventually(lambda: status(edge, "deaf")["containerStatuses"][0]["restartCount"] >= 1, 20)

    assert [status(edge, name)["containerStatuses"][0]["restartCount"] for name in ("probed", "valve")] == [0, 0]
    expected = ("statuscode: 404", "NOT_SERVING", "Liveness probe failed")
    await eventually(lambda: all(words in json.dumps(events(edge, "Unhealthy")) for words in expected))


async def test_the_doctor_looks_at_what_pods_stand_on(host: Host, edge: LoneEdge) -> None:
    await seed(edge, pod("looked-at", terminationGracePeriodSeconds=0))
    await edge.daemon.start()
    await eventually(lambda: is_ready(edge, "looked-at"), 20)

    found = {check["name"]: check for check in await doctor(host, edge)}
    said = await inside(host, edge, "status")
    await host.kill()
    try:
        without = {check["name"]: check for check in await doctor(host, edge)}
    finally:
        await host.start()

    assert re.search(r"^Pods +1: 1 ready, 0 ended \(containerd://", said, re.MULTILINE), said
    names = ("pod runtime", "pod network", "image disk", "cgroups", "local API")
    assert {name: found[name]["level"] for name in names} == dict.fromkeys(names, "OK"), found
    assert found["pod runtime"]["message"].startswith("containerd")
    assert (without["pod runtime"]["level"], without["pod runtime"]["next"]) == ("Error", "systemctl status containerd")


async def doctor(host: Host, edge: LoneEdge) -> list[Json]:
    checks: list[Json] = json.loads(await inside(host, edge, "doctor", "-o", "json"))["checks"]
    return checks


async def inside(host: Host, edge: LoneEdge, verb: str, *words: str) -> str:
    """Run a command on the gateway itself; its exit code is not asked."""
    argv = [*host.argv_prefix, sys.executable, "-m", "edgecore", verb, "--data-dir", str(edge.directory.path), *words]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return out.decode()
