"""A node's store behind its API, the journal, the outbox and the replica: everything but the socket and the cloud."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgecore import kinds, sync
from edgecore.localapi import journal as offline_writes
from edgecore.localapi.admission import belongs_to
from edgecore.localapi.journal import Journal
from edgecore.localapi.refusals import Refusals
from edgecore.sync import Replica
from kubeapi.access import User
from kubeapi.kinds import CONFIG_MAP
from kubeapi.objects import DeleteOptions, Objects, WriteOptions
from kubeapi.resources import Resource
from kubeapi.store import Store
from proto import writes
from proto.kit import canonical
from proto.kit.backoff import Rng
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from proto.link import edge as link
from proto.link.outbox import Outbox
from proto.link.replica import MessageRow, StateChange
from proto.link.settings import LinkSettings
from proto.writes import Write, WriteResult
from tests.kit.clock import ManualClock

NODE = "gw-1"
ANN = User(writes.admin_of(NODE), (writes.ADMIN_GROUP, "system:authenticated"))
Json = dict[str, Any]


class LocalNode:
    """What happens at one node; ``restarted`` is the next process over the same disk."""

    def __init__(self, db: Database, store: Store, clock: ManualClock, settings: LinkSettings) -> None:
        self.db, self.store, self.clock = db, store, clock
        self.metrics = Metrics()
        self.outbox = Outbox(settings, clock=clock, metrics=self.metrics, read=db.read)
        waiting = db.read(offline_writes.waiting)
        refusals = Refusals(NODE, store, clock)
        self.journal = Journal(NODE, refusals, clock=clock, metrics=self.metrics, waiting=waiting)
        self.replica = Replica(
            NODE,
            db,
            store,
            store.registry,
            statuses_of=dict,
            node_status=lambda: None,
            metrics=self.metrics,
            messages={writes.RESULT: self.journal.answered},
            offline=self.journal,
        )
        self.journal.connect(self.outbox, self.replica.show)
        admission = [belongs_to(NODE, store, Rng(1))]
        self.objects = Objects(
            store,
            store.registry,
            clock,
            admission=admission,
            rng=Rng(1),
            need_namespaces=False,
            record=self.journal.record,
        )

    async def create(self, res: Resource, body: Json) -> Json:
        return await self.objects.create(res, "default", body, WriteOptions(user=ANN))

    async def patch(self, res: Resource, name: str, patch: Json) -> Json:
        raw, kind = canonical.encode(patch), "application/merge-patch+json"
        changed, _ = await self.objects.patch(res, "default", name, raw, kind, WriteOptions(user=ANN))
        return changed

    async def delete(self, res: Resource, name: str, grace_s: int | None = None) -> None:
        await self.objects.delete(res, "default", name, DeleteOptions(user=ANN, grace_period_s=grace_s))

    def get(self, res: Resource, name: str) -> Json | None:
        return self.store.get(res, "default", name)

    def sent(self) -> list[Write]:
        rows = self.db.read(
            lambda conn: conn.execute("SELECT body FROM link_message WHERE kind = 'write' ORDER BY seq").fetchall()
        )
        return [writes.decode_write(body) for (body,) in rows]

    def journalled(self) -> list[tuple[int, str]]:
        return self.db.read(lambda c: c.execute("SELECT seq, outcome FROM pending_write ORDER BY seq").fetchall())

    async def cloud_says(self, key: str, obj: Json | None) -> None:
        """By the state lane."""
        body = None if obj is None else canonical.encode(obj)
        await self.db.tx(lambda tx: self.replica.apply(tx, [StateChange(key, body)]))

    async def cloud_answers(self, result: WriteResult, times: int = 1) -> None:
        """By the message lane."""
        row = MessageRow(result.seq, writes.RESULT, writes.encode(result))
        for _ in range(times):
            await self.db.tx(lambda tx: self.replica.apply_messages(tx, [row]))

    def marked(self, obj: Json, write: Write) -> Json:
        """``obj`` as the cloud has it once ``write`` is in it."""
        annotations = {**(obj["metadata"].get("annotations") or {}), writes.mark_of(NODE): writes.mark(write)}
        return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LocalNode]:
    db = Database.open(tmp_path / "edge.db", [link.SCHEMA, sync.SCHEMA, offline_writes.SCHEMA])
    clock = ManualClock()
    store = await Store.open(db, kinds.registry(), clock)
    yield LocalNode(db, store, clock, LinkSettings(message_quota_bytes=20_000))
    await db.close()


def config_map(name: str = "a", uid: str = "", **data: str) -> Json:
    metadata = {"name": name, "namespace": "default", **({"uid": uid} if uid else {})}
    return {"apiVersion": "v1", "kind": CONFIG_MAP.kind, "metadata": metadata, "data": data}


def pod(name: str = "p", uid: str = "", **spec: Any) -> Json:
    metadata = {"name": name, "namespace": "default", **({"uid": uid} if uid else {})}
    spec = {"containers": [{"name": "main", "image": "saw:1"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
