"""Who did what: one JSON line (audit.k8s.io/v1, level Metadata) per write, per way into a node or a secret, per refusal.

Recording never waits: lines go to a bounded queue that a task of its own writes out, in a thread. What does not fit, or
cannot be written, is counted. Files are private, rotated by size, and only so many are kept.
"""

import asyncio
import os
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeapi.access import Attributes, User
from kubeapi.http import Request
from kubeapi.stored import encode
from kubeapi.virtual_kinds import CONNECTIONS
from proto.kit.clock import Clock, rfc3339_micro
from proto.kit.log import Logger
from proto.kit.metrics import Metrics

log = Logger("audit")

READS = ("get", "list", "watch")
QUIET = frozenset({"leases", "events", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"})
MAX_WAITING = 10_000
MAX_URI = 2048
MAX_AGENT = 256


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Where the log is and how much of it is kept. ``reads``: also plain reads, which are most of the traffic.

    Lines of ``gather_s`` are written together: a visit to the file costs more than a write to the API. A crash loses them.

    What the ``reporters``, users by name, write into the status of objects is left out: machines' figures, many each second,
    would push out what people did.
    """

    path: Path
    max_bytes: int = 16 << 20
    files: int = 5
    reads: bool = False
    gather_s: float = 0.1
    reporters: frozenset[str] = frozenset()


class Audit:
    """``record`` from the loop; ``run`` until cancelled."""

    def __init__(self, settings: AuditSettings, clock: Clock, metrics: Metrics) -> None:
        self._settings, self._clock = settings, clock
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._failing = False
        self._run, self._count = str(uuid.uuid4()).rpartition("-")[0], 0  # ids are unique as UUIDs, and cost nothing
        self._lost = metrics.counter("skerry_kube_audit_lost_total", "Audit lines that were not written", ("reason",))

    def record(
        self, request: Request, user: User | None, wanted: Attributes | None, status: int, received: str
    ) -> None:
        """Note an answered request, if it is of those that are kept."""
        if not self._kept(user, wanted, status):
            return
        if len(self._waiting) >= MAX_WAITING:
            self._lost.inc("full")
            return
        self._waiting.append(encode(self._event(request, user, wanted, status, received)) + b"\n")
        self._wake.set()

    async def run(self) -> None:
        """Write what is recorded; at the end, what is left."""
        try:
            while True:
                await self._wake.wait()
                if self._settings.gather_s:
                    await self._clock.sleep(self._settings.gather_s)
                self._wake.clear()
                await self._flush()
        finally:
            await self._flush()

    def _kept(self, user: User | None, wanted: Attributes | None, status: int) -> bool:
        if status in (401, 403) or self._settings.reads:
            return True
        if wanted is None or not wanted.resource or wanted.resource in QUIET:
            return False
        if wanted.subresource == "status" and user is not None and user.name in self._settings.reporters:
            return False
        inside = wanted.subresource in CONNECTIONS or wanted.resource == "secrets"
        return inside or wanted.verb not in READS

    def _event(
        self, request: Request, user: User | None, wanted: Attributes | None, status: int, received: str
    ) -> dict[str, Any]:
        self._count += 1
        uri = request.path + (f"?{request.query_string}" if request.query_string else "")
        event: dict[str, Any] = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": f"{self._run}-{self._count:012x}",
            "stage": "ResponseComplete",
            "requestURI": uri[:MAX_URI],
            "verb": wanted.verb if wanted is not None else request.method.lower(),
            "user": user.body() if user is not None else {},
            "sourceIPs": [request.peer_host],
            "userAgent": request.headers.get("user-agent", "")[:MAX_AGENT],
            "responseStatus": {"code": status},
            "requestReceivedTimestamp": received,
            "stageTimestamp": rfc3339_micro(self._clock.wall()),
        }
        if wanted is not None and wanted.resource:
            named = {
                "resource": wanted.resource,
                "namespace": wanted.namespace,
                "name": wanted.name,
                "apiGroup": wanted.group,
                "subresource": wanted.subresource,
            }
            event["objectRef"] = {key: value for key, value in named.items() if value}
        return event

    async def _flush(self) -> None:
        if not self._waiting:
            return
        lines = list(self._waiting)
        self._waiting.clear()
        try:
            await asyncio.to_thread(_append, self._settings, lines)
            self._failing = False
        except OSError as error:
            for _ in lines:
                self._lost.inc("disk")
            if not self._failing:  # once down; the counter goes on
                log.warning("the audit log cannot be written", path=self._settings.path, error=error)
            self._failing = True


def _append(settings: AuditSettings, lines: list[bytes]) -> None:
    path = settings.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size >= settings.max_bytes:
        _rotate(settings)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
        file.writelines(lines)


def _rotate(settings: AuditSettings) -> None:
    """``audit.log`` becomes ``audit.log.1`` and so on; the oldest goes."""
    names = [settings.path, *(settings.path.with_name(f"{settings.path.name}.{i}") for i in range(1, settings.files))]
    for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
        if newer.exists():
            newer.replace(older)
    settings.path.unlink(missing_ok=True)
