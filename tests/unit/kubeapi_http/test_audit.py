"""The audit log: what is in it, what it costs nobody, how much of it is kept (HTTP-13)."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi.audit import MAX_WAITING, Audit, AuditSettings
from kubeapi.http import Request
from kubeapi.server import ApiSettings
from proto.kit.metrics import Metrics
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually
from tests.unit.kubeapi_http.face import Face, open_face, person

CMS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "audit.log"


@pytest.fixture
async def audited(tmp_path: Path, path: Path) -> AsyncIterator[Face]:
    async with open_face(tmp_path, settings=ApiSettings(audit=AuditSettings(path, gather_s=0))) as face:
        yield face


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def text(path: Path) -> str:
    return path.read_text()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_write_is_noted_with_who_what_and_how_it_ended(audited: Face, path: Path) -> None:
    await audited.ask("POST", CMS, {"metadata": {"name": "a"}}, user_agent="kubectl/v1.33")
    (event,) = await eventually(lambda: lines(path))
    assert (event["verb"], event["level"], event["responseStatus"]) == ("create", "Metadata", {"code": 201})
    assert event["user"]["username"] == "admin"
    assert event["objectRef"] == {"resource": "configmaps", "namespace": "default"}
    assert (event["userAgent"], event["requestURI"]) == ("kubectl/v1.33", CMS)
    assert mode(path) == 0o600


async def test_plain_reads_are_left_out_and_reads_of_secrets_and_refusals_are_not(audited: Face, path: Path) -> None:
    await audited.ask("GET", CMS)
    await audited.ask("GET", "/api/v1/namespaces/default/secrets")
    await audited.ask("GET", CMS, who=person("mallory"))
    await audited.ask("GET", CMS, who=None, authorization="Bearer wrong")
    found = await eventually(lambda: len(lines(path)) == 3 and lines(path))
    assert found
    assert [(e["responseStatus"]["code"], e["user"].get("username", "")) for e in found] == [
        (200, "admin"),
        (403, "mallory"),
        (401, ""),
    ]


async def test_no_body_and_no_token_is_ever_noted(audited: Face, path: Path) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}}
    await audited.ask("POST", "/api/v1/namespaces/default/secrets", secret, who=None, authorization="Bearer letmein")
    await eventually(lambda: lines(path))
    assert "hunter2" not in text(path)
    assert "letmein" not in text(path)


async def test_files_are_rotated_and_only_so_many_kept(tmp_path: Path) -> None:
    settings = AuditSettings(tmp_path / "audit.log", max_bytes=100, files=3, reads=True)
    audit = Audit(settings, ManualClock(), Metrics())
    for _ in range(6):
        audit.record(Request("GET", "/a", "", {}, b""), None, None, 200, "")
        await audit._flush()
    assert names(tmp_path) == ["audit.log", "audit.log.1", "audit.log.2"]


async def test_a_disk_that_refuses_costs_only_lines_that_are_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    metrics = Metrics()
    audit = Audit(AuditSettings(tmp_path / "file" / "audit.log", reads=True), ManualClock(), metrics)
    audit.record(Request("GET", "/a", "", {}, b""), None, None, 200, "")
    await audit._flush()
    lost = metrics.counter("skerry_kube_audit_lost_total", "", ("reason",))
    assert lost.value("disk") == 1
    for _ in range(MAX_WAITING + 5):
        audit.record(Request("GET", "/a", "", {}, b""), None, None, 200, "")
    assert lost.value("full") == 5


async def test_what_waits_at_the_end_is_written(tmp_path: Path, path: Path) -> None:
    async with open_face(tmp_path, settings=ApiSettings(audit=AuditSettings(path, gather_s=0))) as face:
        await face.ask("POST", CMS, {"metadata": {"name": "a"}})
    assert len(lines(path)) == 1


async def test_figures_that_a_machine_writes_each_second_do_not_push_out_what_people_did(
    tmp_path: Path, path: Path
) -> None:  # HTTP-13
    machine = person("robot", "system:masters")
    settings = AuditSettings(path, gather_s=0, reporters=frozenset({"robot"}))
    async with open_face(tmp_path, settings=ApiSettings(audit=settings)) as face:
        await face.must("POST", "/api/v1/nodes", {"metadata": {"name": "gw-1"}}, machine)
        await face.must("PATCH", "/api/v1/nodes/gw-1/status", {"status": {"phase": "Running"}}, machine)
        await face.must("PATCH", "/api/v1/nodes/gw-1/status", {"status": {"phase": "Running"}})
        await eventually(lambda: len(lines(path)) == 2)
        seen = [(e["user"]["username"], e["verb"], e["objectRef"].get("subresource")) for e in lines(path)]
        assert seen == [("robot", "create", None), ("admin", "patch", "status")]


async def test_lines_are_gathered_and_none_of_them_waits_for_a_restart(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "audit.log"
    audit = Audit(AuditSettings(path, reads=True), clock, Metrics())
    request = Request("GET", "/api/v1/pods", "", {}, b"")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(audit.run())
        for _ in range(3):
            audit.record(request, None, None, 200, "")
        await eventually(lambda: bool(clock._sleepers))
        assert lines(path) == []
        running.cancel()
    assert len({event["auditID"] for event in lines(path)}) == 3
