"""Writes that were made at a node, made again in the API: in order, as the user who made them, once each.

A write names the fields that it changes as they were at the node. What the cloud has changed since in another way is a
conflict: nothing is overwritten, both versions are kept in a WriteConflict, and the node is told. Rules: LOCAL-n in
``edgecore/localapi/README.md``.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from cloudcore.hub.effects import Effects
from cloudcore.hub.scope import Scope
from cloudcore.hub.write_outcomes import Outcomes
from cloudcore.hub.write_rights import Denied, Rights
from cloudcore.kube.client import MERGE_PATCH, KubeClient
from cloudcore.kube.errors import ApiRefused, ApiUnavailable, Conflict, NotFound
from cloudcore.kube.resources import Kind
from kubeapi.patch.threeway import covers, diff, merge
from proto import conflicts, writes
from proto.kit.errors import MalformedMessage, StorageFull
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow
from proto.names import ObjectKey, parse_key
from proto.writes import Write, WriteResult

Json = dict[str, Any]
Send = Callable[[str, str, bytes], Awaitable[object]]
ATTEMPTS = 5  # somebody else writes the same object at the same time
MAX_FIELDS = 20  # named in a message
MAX_CONFLICTS = 1_000  # kept of one node, as many as the node keeps itself
CONFLICTS = Kind(conflicts.GROUP, conflicts.VERSION, conflicts.PLURAL, conflicts.KIND)
SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
# The rest is the API server's: some answer a resourceVersion here with 500, which is asked again for ever.
OWN_METADATA = ("name", "namespace", "labels", "annotations", "ownerReferences", "finalizers")
SUBRESOURCES = ("", "status", "ephemeralcontainers")
log = Logger("replay")


class Clashed(Exception):
    """The cloud has moved on in another way."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Replay:
    """Carries out messages of kind ``write``; doing one again answers it again."""

    def __init__(
        self,
        client: KubeClient,
        scope: Scope,
        outcomes: Outcomes,
        send: Send,
        tell: Callable[[], Effects],
        metrics: Metrics,
    ) -> None:
        self._client, self._outcomes, self._send, self._tell = client, outcomes, send, tell
        self._scope = scope
        self._rights = Rights(client, scope)
        self._unsent = metrics.counter(
            "skerry_cloud_write_answers_unsent_total", "Answers to writes for which the node has too many waiting"
        )
        self._unkept = metrics.counter(
            "skerry_cloud_write_conflicts_unkept_total", "Conflicts that were told and not kept in the cloud"
        )
        self._done = metrics.counter(
            "skerry_cloud_writes_replayed_total", "Writes of nodes that were carried out, by outcome", ("outcome",)
        )

    async def carry(self, node: str, row: MessageRow, _body: Json) -> None:
        """Make one write and answer it. Raises MalformedMessage for what is no write at all, ApiUnavailable, SqlUnavailable."""
        write = writes.decode_write(row.body)
        answer = await self._outcomes.find(node, write)
        if answer is None:
            result = await self._result(node, write)
            answer = await self._outcomes.keep(node, write, result)
            self._done.inc(result.outcome)
        try:
            await self._send(node, writes.RESULT, answer)
        except StorageFull as error:  # a node that takes no answers must not hold up the others: it will ask again
            self._unsent.inc()
            log.warning("an answer was not sent", node=node, seq=write.seq, reason=error)

    async def _result(self, node: str, write: Write) -> WriteResult:
        result = WriteResult(write.seq, write.key, writes.APPLIED)
        try:
            key = parse_key(write.key)
            kind = _kind(write, key)
        except MalformedMessage as error:  # a newer node's, or a forged one: answered, or it would come again for ever
            result.outcome, result.reason, result.message = writes.REFUSED, "Malformed", str(error)
            await self._report(node, write, result, ObjectKey("", "", "", ""))
            return result
        try:
            result.object = await self._made(node, write, kind, key)
        except Clashed as error:
            result.outcome, result.reason, result.message = writes.CONFLICT, error.reason, str(error)
        except Denied as error:
            result.outcome, result.reason, result.message = writes.REFUSED, error.reason, str(error)
        except ApiRefused as error:
            result.outcome, result.reason, result.message = writes.REFUSED, error.reason, str(error)
        if result.outcome != writes.APPLIED:
            theirs = await self._find(kind, key)
            result.object = theirs if theirs is not None and self._rights.concerns(node, write.key, theirs) else None
            await self._report(node, write, result, key)
        if result.object is not None:
            result.object["metadata"].pop("managedFields", None)
        return result

    async def _made(self, node: str, write: Write, kind: Kind, key: ObjectKey) -> Json | None:
        """Make the write; return the object as it is now. Raises Clashed, Denied, ApiRefused, ApiUnavailable."""
        self._rights.check_kind(write, key)
        await self._rights.check_user(node, write, kind, key)
        make = {writes.CREATE: self._create, writes.PATCH: self._patch, writes.DELETE: self._delete}[write.verb]
        for _ in range(ATTEMPTS):
            theirs = await self._find(kind, key)
            if writes.has_seen(theirs, node, write.journal, write.seq):
                return theirs  # a crash came between the write and its outcome
            try:
                return await make(node, write, kind, key, theirs)
            except (Conflict, NotFound) as error:
                if isinstance(error, NotFound) and (theirs is None or "namespaces" in str(error)):
                    raise
                log.debug("changed meanwhile", key=write.key, reason=error)
        raise ApiUnavailable(f"{write.key} changes faster than a write can be compared with it")

    async def _create(self, node: str, write: Write, kind: Kind, key: ObjectKey, theirs: Json | None) -> Json | None:
        if theirs is not None and not self._rights.concerns(node, write.key, theirs):
            raise Clashed("AlreadyExists", f"{kind.kind} {key.name} exists in the cloud, and is not of this node")
        if theirs is not None:
            merged, clashes = merge({}, write.mine, theirs)
            if _is_same_run(write.mine, theirs):  # both sides fired it: their pods are answered with what ran there
                return await self._mark(node, write, kind, key, theirs)
            if clashes or diff(_content(theirs), _content(merged)):
                raise Clashed("AlreadyExists", f"{kind.kind} {key.name} was made in the cloud, too{_named(clashes)}")
            return await self._mark(node, write, kind, key, theirs)
        self._rights.check_target(node, write, None)
        body = await self._with_cloud_uids(node, write)
        await self._rights.check_content(node, key, None, body)
        metadata = {k: v for k, v in body["metadata"].items() if k in OWN_METADATA}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), writes.mark_of(node): writes.mark(write)}
        return await self._client.create(kind, key.namespace, {**body, "metadata": metadata})

    async def _patch(self, node: str, write: Write, kind: Kind, key: ObjectKey, theirs: Json | None) -> Json | None:
        if theirs is None:
            raise Clashed("Deleted", f"{kind.kind} {key.name} was deleted in the cloud")
        self._rights.check_target(node, write, theirs)
        await self._check_same(node, write, theirs)
        merged, clashes = merge(write.base, write.mine, theirs)
        if clashes:
            raise Clashed("FieldChanged", f"changed in the cloud, too{_named(clashes)}")
        merged |= {"apiVersion": theirs["apiVersion"], "kind": theirs["kind"]}
        await self._rights.check_content(node, key, theirs, merged)
        change = diff(theirs, merged)
        if write.subresource:
            if not change:
                return theirs
            change.setdefault("metadata", {})["resourceVersion"] = theirs["metadata"]["resourceVersion"]
            return await self._client.patch(
                kind, key.namespace, key.name, change, content_type=MERGE_PATCH, subresource=write.subresource
            )
        return await self._mark(node, write, kind, key, theirs, change)

    async def _mark(
        self, node: str, write: Write, kind: Kind, key: ObjectKey, theirs: Json, change: Json | None = None
    ) -> Json:
        """Write ``change`` and the sign that this write is in it, unless ``theirs`` is no longer what is there."""
        change = dict(change or {})
        metadata = dict(change.get("metadata") or {})
        annotations = metadata.get("annotations") or {}
        metadata["annotations"] = {**annotations, writes.mark_of(node): writes.mark(write)}
        metadata["resourceVersion"] = theirs["metadata"]["resourceVersion"]
        change["metadata"] = metadata
        return await self._client.patch(kind, key.namespace, key.name, change, content_type=MERGE_PATCH)

    async def _delete(self, node: str, write: Write, kind: Kind, key: ObjectKey, theirs: Json | None) -> Json | None:
        if theirs is None:
            return None
        self._rights.check_target(node, write, theirs)
        await self._check_same(node, write, theirs)
        if not covers(write.base, theirs):
            raise Clashed("Changed", f"{kind.kind} {key.name} was changed in the cloud after the node had seen it")
        metadata = theirs["metadata"]
        await self._client.delete(
            kind,
            key.namespace,
            key.name,
            uid=metadata["uid"],
            grace_s=write.grace_period_s,
            propagation=write.propagation,
            resource_version=metadata["resourceVersion"],
        )
        left = await self._find(kind, key)
        return left if left is not None and left["metadata"]["uid"] == metadata["uid"] else None

    async def _check_same(self, node: str, write: Write, theirs: Json) -> None:
        """Raise Clashed when the object of that name is another one than the node knew."""
        uid = str(theirs["metadata"].get("uid", ""))
        if not write.uid or write.uid == uid:
            return
        ours = await self._outcomes.cloud_uids(node, write.journal, {write.uid})
        if ours.get(write.uid) != uid:
            raise Clashed("Replaced", f"{write.key} was deleted and made again in the cloud")

    async def _with_cloud_uids(self, node: str, write: Write) -> Json:
        """Return the object to create; owners that were made at the node, too, get the uid that they have here."""
        owners = write.mine["metadata"].get("ownerReferences") or []
        ours = await self._outcomes.cloud_uids(node, write.journal, {str(owner.get("uid")) for owner in owners})
        if not ours:
            return write.mine
        renamed = [{**owner, "uid": ours.get(str(owner.get("uid")), owner.get("uid"))} for owner in owners]
        return {**write.mine, "metadata": {**write.mine["metadata"], "ownerReferences": renamed}}

    async def _find(self, kind: Kind, key: ObjectKey) -> Json | None:
        try:
            return await self._client.get(kind, key.namespace, key.name)
        except NotFound:
            return None

    async def _report(self, node: str, write: Write, result: WriteResult, key: ObjectKey) -> None:
        """Keep both versions where people find them. Raises ApiUnavailable."""
        name = f"{node}-{write.journal[:6]}-{write.seq}"
        if self._scope.count(node, CONFLICTS) < MAX_CONFLICTS:
            await self._keep(node, write, result, key, name)
        else:
            self._unkept.inc()
            result.message += (
                f"; kept at the node only: {MAX_CONFLICTS} WriteConflicts of node {node} wait, delete some"
            )
        if not key.name:
            return
        involved = {"apiVersion": write.api_version, "kind": write.kind, "name": key.name, "namespace": key.namespace}
        said = conflicts.sentence(write, result)[:1024]
        self._tell().tell("Warning", involved, conflicts.REASONS[result.outcome], said, name=f"{key.name}.{name}")

    async def _keep(self, node: str, write: Write, result: WriteResult, key: ObjectKey, name: str) -> None:
        for namespace in dict.fromkeys((key.namespace or "default", "default")):
            result.conflict = f"{namespace}/{name}"
            body = conflicts.make(node, name, namespace, write, result)
            try:
                await self._client.create(CONFLICTS, namespace, body)
            except Conflict:  # made before a crash
                return
            except ApiRefused as error:  # the namespace is gone, or the definition is not installed
                self._unkept.inc()
                log.warning("a conflict could not be kept", key=write.key, reason=error)
            else:
                return


def _kind(write: Write, key: ObjectKey) -> Kind:
    """Raises MalformedMessage."""
    group, _, version = write.api_version.rpartition("/")
    odd = write.verb not in (writes.CREATE, writes.PATCH, writes.DELETE) or write.subresource not in SUBRESOURCES
    if odd or not version or (group != key.group and (key.group, key.plural) != ("", "events")):
        raise MalformedMessage(f"write {write.seq} of {key} is none that an API server takes")
    mine = write.mine.get("metadata") or {}
    if write.verb == writes.CREATE and (mine.get("name"), mine.get("namespace") or "") != (key.name, key.namespace):
        raise MalformedMessage(f"write {write.seq} of {key} creates something else")
    said = write.mine.get("apiVersion"), write.mine.get("kind")
    if write.verb == writes.CREATE and said != (write.api_version, write.kind):
        raise MalformedMessage(f"write {write.seq} of {key} creates another kind")
    return Kind(group, version, key.plural, write.kind, bool(key.namespace))


def _is_same_run(mine: Json, theirs: Json) -> bool:
    """Whether two Jobs of one name are the same time of the same CronJob."""
    runs = [(_cron_uid(job), (job["metadata"].get("annotations") or {}).get(SCHEDULED_AT)) for job in (mine, theirs)]
    return runs[0] == runs[1] and all(runs[0])


def _cron_uid(job: Json) -> str:
    owners = job["metadata"].get("ownerReferences") or ()
    return next((str(o.get("uid") or "") for o in owners if o.get("controller") and o.get("kind") == "CronJob"), "")


def _content(obj: Json) -> Json:
    return {k: v for k, v in obj.items() if k not in ("metadata", "status")}


def _named(clashes: list[Any]) -> str:
    fields = [clash.path for clash in clashes[:MAX_FIELDS]]
    return f": {', '.join(fields)}" if fields else ""
