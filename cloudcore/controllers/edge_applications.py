"""One application, made for several groups of nodes. Reads EdgeApplication, NodeGroup and what was made; writes the objects that
its manifests describe (server-side apply, owned by it), and ``EdgeApplication.status``.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from cloudcore.controllers import overriders
from cloudcore.controllers.overriders import Unusable
from cloudcore.controllers.queue import KeyQueue
from cloudcore.kube.client import MERGE_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import ApiRefused, Conflict, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import (
    DAEMON_SET,
    DEPLOYMENT,
    EDGE_APPLICATION,
    JOB,
    REPLICA_SET,
    STATEFUL_SET,
    Kind,
    is_owned_by,
)
from proto.kit.log import Logger

CONTAINED = "apps.kubeedge.io/last-contained-resources"  # annotation: JSON list of what was made
MANAGER = "skerry-edge-applications"
LOOK_AGAIN_S = 60.0  # at what no informer reads: somebody may have deleted or changed it
WORKERS = 2
MAX_OBJECTS = 500  # per application
WATCHED = (DEPLOYMENT, DAEMON_SET, STATEFUL_SET, JOB, REPLICA_SET)
DISCOVERED_S = 300.0
# We may do everything, who writes an application may not: it gives no rights, and makes no other applications.
REFUSED_GROUPS = frozenset({"rbac.authorization.k8s.io", "apps.kubeedge.io"})
log = Logger("edge-applications")
Json = dict[str, Any]
Piece = tuple[int, Json]  # place of the manifest, object to make


class Teller(Protocol):
    """Who raises events (cloudcore.hub.effects)."""

    def tell(self, kind: str, involved: Mapping[str, str], reason: str, message: str, *, name: str) -> None: ...


class EdgeApplications:
    """Makes, changes and removes what applications consist of."""

    def __init__(self, cluster: Cluster, teller: Callable[[], Teller]) -> None:
        self._cluster, self._teller = cluster, teller
        self._apps = cluster.of(EDGE_APPLICATION)
        self._kinds: dict[str, tuple[float, dict[str, Kind]]] = {}  # apiVersion -> since, kind -> Kind
        self.queue: KeyQueue[Name] = KeyQueue(
            "edge-applications", self._reconcile, workers=WORKERS, clock=cluster.clock, rng=cluster.rng
        )
        self._apps.listen(self._on_app)
        for kind in WATCHED:
            cluster.of(kind).listen(self._on_made)

    async def run(self) -> None:
        await self._cluster.wait_synced()
        await self._apps.synced.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run())
            while True:
                await self._cluster.clock.sleep(LOOK_AGAIN_S)
                for name in self._apps.objects:
                    self.queue.add(name)

    def _on_app(self, name: Name, old: Json | None, new: Json | None) -> None:
        if new is not None and (old is None or old.get("spec") != new.get("spec")):
            self.queue.add(name)

    def _on_made(self, name: Name, old: Json | None, new: Json | None) -> None:
        for item in (old, new):
            for owner in (item or {"metadata": {}})["metadata"].get("ownerReferences") or ():
                if owner.get("kind") == EDGE_APPLICATION.kind:
                    self.queue.add(Name(name.namespace, str(owner.get("name"))))

    async def _reconcile(self, name: Name) -> None:
        app = self._apps.objects.get(name)
        if app is None or app["metadata"].get("deletionTimestamp"):
            return  # the garbage collector takes what it owned
        statuses: list[Json] = []
        made: list[tuple[Kind, Json]] = []
        problems: list[str] = []
        for ordinal, piece in self._pieces(app, problems):
            try:
                kind = await self._kind(piece)
                made.append((kind, piece))
                statuses.append(await self._make(app, ordinal, kind, piece))
            except (Unusable, ApiRefused) as error:
                problems.append(f"manifest {ordinal}: {error}")
                statuses.append(_status(ordinal, None, piece, available=False))
        await self._prune(app, made, whole=not problems)
        await self._say(name, app, statuses)
        for text in problems:
            self._tell(app, text)

    def _pieces(self, app: Json, problems: list[str]) -> Iterator[Piece]:
        """Yield every object that should be there."""
        spec = app.get("spec") or {}
        targets = overriders.targets(spec.get("workloadScope") or {})
        count = 0
        for ordinal, manifest in enumerate((spec.get("workloadTemplate") or {}).get("manifests") or ()):
            try:
                whole = _complete(app, manifest)
                pods = overriders.describes_pods(whole)
                for piece in [overriders.made_for(whole, t) for t in targets] if pods else [whole]:
                    count += 1
                    if count <= MAX_OBJECTS:
                        yield ordinal, piece
            except (Unusable, KeyError, TypeError, AttributeError) as error:
                why = str(error) if isinstance(error, Unusable) else f"no object of a known shape ({error!r})"
                problems.append(f"manifest {ordinal}: {why}")
        if count > MAX_OBJECTS:
            problems.append(
                f"{count - MAX_OBJECTS} objects are left out: an application consists of {MAX_OBJECTS} at most"
            )

    async def _kind(self, obj: Json) -> Kind:
        """Return the resource of an object, as the API server serves it. Raises Unusable."""
        version, now_s = str(obj["apiVersion"]), self._cluster.clock.now_s()
        since, known = self._kinds.get(version, (float("-inf"), {}))
        if (obj["kind"] not in known and now_s - since > 1.0) or now_s - since > DISCOVERED_S:
            known = await self._discover(version)
            self._kinds[version] = (now_s, known)
        found = known.get(str(obj["kind"]))
        if found is None:
            raise Unusable(f"the API server does not serve {obj['kind']} in {version}")
        if not found.namespaced:
            raise Unusable(f"{found.kind} belongs to no namespace: an application cannot own it")
        return found

    async def _discover(self, version: str) -> dict[str, Kind]:
        group, _, name = version.rpartition("/")
        try:
            listed = await self._cluster.client.raw("GET", f"/apis/{version}" if group else f"/api/{version}")
        except NotFound:
            return {}
        return {
            str(each["kind"]): Kind(group, name, str(each["name"]), str(each["kind"]), bool(each.get("namespaced")))
            for each in listed.get("resources") or ()
            if "/" not in str(each.get("name"))
        }

    async def _make(self, app: Json, ordinal: int, kind: Kind, piece: Json) -> Json:
        metadata = piece["metadata"]
        held = await self._find(kind, metadata["namespace"], metadata["name"])
        if held is not None and not is_owned_by(held, app["metadata"]["uid"]):
            raise Unusable(f"{kind.kind} {metadata['name']} is there already and belongs to somebody else")
        now = await self._cluster.client.apply(kind, metadata["namespace"], metadata["name"], piece, manager=MANAGER)
        return _status(ordinal, kind, piece, available=is_available(now))

    async def _find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        try:
            return await self._cluster.client.get(kind, namespace, name)
        except NotFound:
            return None

    async def _prune(self, app: Json, made: list[tuple[Kind, Json]], *, whole: bool) -> None:
        """Delete what the application consisted of and does not any more, then remember what it consists of.

        Not ``whole``: some of it could not be made, and nothing is deleted.
        """
        now = [[*kind, obj["metadata"]["name"]] for kind, obj in made]
        before = _contained(app)
        gone = [row for row in before if row not in now]
        for *fields, name in gone if whole else ():
            await self._remove(app, Kind(*fields), str(name))
        now += [] if whole else gone
        if before != now:
            patch = {"metadata": {"annotations": {CONTAINED: json.dumps(now)}}}
            metadata = app["metadata"]
            await self._cluster.client.patch(
                EDGE_APPLICATION, metadata["namespace"], metadata["name"], patch, content_type=MERGE_PATCH
            )

    async def _remove(self, app: Json, kind: Kind, name: str) -> None:
        namespace = app["metadata"]["namespace"]
        held = await self._find(kind, namespace, name)
        if held is None or not is_owned_by(held, app["metadata"]["uid"]):
            return
        try:
            uid = held["metadata"]["uid"]
            await self._cluster.client.delete(kind, namespace, name, uid=uid, propagation="Background")
        except (NotFound, Conflict):
            return

    async def _say(self, name: Name, app: Json, statuses: list[Json]) -> None:
        if (app.get("status") or {}).get("workloadStatus", []) == statuses:
            return
        patch = {"status": {"workloadStatus": statuses}}
        try:
            await self._cluster.client.patch(
                EDGE_APPLICATION, *name, patch, content_type=MERGE_PATCH, subresource="status"
            )
        except NotFound:
            return

    def _tell(self, app: Json, text: str) -> None:
        metadata = app["metadata"]
        involved = {
            "apiVersion": EDGE_APPLICATION.api_version,
            "kind": EDGE_APPLICATION.kind,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        digest = hashlib.sha256(f"{metadata['uid']}/{text}".encode()).hexdigest()[:16]
        log.warning("part of an application is not made", app=f"{metadata['namespace']}/{metadata['name']}", why=text)
        self._teller().tell(
            "Warning", involved, "ManifestNotApplied", text[:1024], name=f"{metadata['name'][:200]}.{digest}"
        )


def _complete(app: Json, manifest: Json) -> Json:
    """Return a manifest in the application's namespace, owned by it. Raises Unusable."""
    metadata, own = dict(manifest["metadata"]), app["metadata"]
    if metadata.setdefault("namespace", own["namespace"]) != own["namespace"]:
        raise Unusable(f"it is for namespace {metadata['namespace']}, the application is in {own['namespace']}")
    if not metadata.get("name") or not manifest.get("apiVersion") or not manifest.get("kind"):
        raise Unusable("apiVersion, kind or metadata.name is missing")
    if str(manifest["apiVersion"]).partition("/")[0] in REFUSED_GROUPS:
        raise Unusable(f"{manifest['kind']} cannot be part of an application")
    metadata["ownerReferences"] = [
        {
            "apiVersion": EDGE_APPLICATION.api_version,
            "kind": EDGE_APPLICATION.kind,
            "name": own["name"],
            "uid": own["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    for field in ("uid", "resourceVersion", "managedFields", "creationTimestamp", "generation"):
        metadata.pop(field, None)
    return {**{k: v for k, v in manifest.items() if k != "status"}, "metadata": metadata}


def _contained(app: Json) -> list[list[Any]]:
    text = (app["metadata"].get("annotations") or {}).get(CONTAINED, "")
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return []
    return [row for row in found if isinstance(row, list) and len(row) == 6] if isinstance(found, list) else []


def is_available(obj: Json) -> bool:
    """Whether an object is as it should be: a workload when all of its pods are ready, anything else when it is there."""
    status, spec = obj.get("status") or {}, obj.get("spec") or {}
    if obj.get("kind") in ("Deployment", "StatefulSet", "ReplicaSet"):
        current = status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
        return bool(current and status.get("readyReplicas", 0) == spec.get("replicas", 1))
    if obj.get("kind") == "DaemonSet":
        current = status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
        return bool(current and status.get("numberReady", 0) == status.get("desiredNumberScheduled", 0))
    if obj.get("kind") == "Job":
        return any(c.get("type") == "Complete" and c.get("status") == "True" for c in status.get("conditions") or ())
    return True


def _status(ordinal: int, kind: Kind | None, piece: Json, *, available: bool) -> Json:
    group, _, version = str(piece["apiVersion"]).rpartition("/")
    metadata = piece["metadata"]
    identifier = {
        "ordinal": ordinal,
        "group": group,
        "version": version,
        "kind": piece["kind"],
        "resource": kind.plural if kind is not None else "",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
    }
    return {"identifier": identifier, "conditions": "Available" if available else "Processing"}
