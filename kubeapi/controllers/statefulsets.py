"""StatefulSets: numbered pods with their own volumes, made and replaced in order. Writes Pod, PersistentVolumeClaim, revisions."""

from typing import Any

from kubeapi.controllers import parts, revisions
from kubeapi.controllers.index import Indexes, Place, controller_of
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.revisions import HASH
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import PERSISTENT_VOLUME_CLAIM, POD, STATEFUL_SET
from kubeapi.objects import Objects, WriteOptions
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
MANAGER = "statefulset-controller"
POD_NAME, POD_INDEX = "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"


class StatefulSets:
    """Keeps the pods of every StatefulSet; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._pods, self._revisions = indexes.pods, indexes.revisions
        self._recorder = Recorder(objects, MANAGER)
        self.worker: Worker[Place] = Worker("statefulsets", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(STATEFUL_SET, None):
            self.worker.add((item.namespace, item.name))
        self._store.listen(STATEFUL_SET, self._changed)
        self._store.listen(POD, self._pod_changed)

    def _changed(self, event: Event) -> None:
        if event.type != DELETED and not parts.only_status(event):
            self.worker.add((event.stored.namespace, event.stored.name))

    def _pod_changed(self, event: Event) -> None:
        for pod in filter(None, (event.previous, event.object)):
            owner = controller_of(pod)
            if owner is not None and owner.get("kind") == "StatefulSet":
                self.worker.add((event.stored.namespace, str(owner.get("name"))))
            elif owner is None:
                name = event.stored.name.rpartition("-")[0]
                if name and self._store.stored(STATEFUL_SET, event.stored.namespace, name) is not None:
                    self.worker.add((event.stored.namespace, name))

    async def _make_right(self, place: Place) -> None:
        sts = self._store.get(STATEFUL_SET, *place)
        if sts is None or parts.is_deleting(sts):
            return
        update, held = await revisions.history(self._objects, self._revisions, STATEFUL_SET, sts, MANAGER)
        current = self._current(sts, held) or update
        claimed = await parts.claim(self._objects, self._pods, POD, STATEFUL_SET, sts, sts["spec"]["selector"])
        pods = {n: p for p in claimed if (n := ordinal(sts, p)) is not None}
        problem = ""
        try:
            await self._step(sts, pods, current, update)
        except ApiError as error:
            problem = error.message
            self._recorder.warning(STATEFUL_SET, sts, "FailedCreate", problem)
        await self._own_claims(sts, pods)
        await self._say(place, sts, current, update)
        used = {(p["metadata"].get("labels") or {}).get(HASH, "") for p in claimed}
        await revisions.forget(
            self._objects, sts, held, used | {current["metadata"]["labels"][HASH], update["metadata"]["labels"][HASH]}
        )
        if problem:
            raise ApiError(503, "ServiceUnavailable", problem)

    def _current(self, sts: Json, held: list[Json]) -> Json | None:
        name = (sts.get("status") or {}).get("currentRevision")
        return next((r for r in held if r["metadata"]["name"] == name), None)

    async def _step(self, sts: Json, pods: dict[int, Json], current: Json, update: Json) -> None:
        """Do what may be done now, in order: make and mend upwards, shrink downwards, then replace downwards."""
        spec = sts["spec"]
        start = (spec.get("ordinals") or {}).get("start", 0)
        wanted = range(start, start + spec.get("replicas", 1))
        at_once = spec.get("podManagementPolicy") == "Parallel"
        partition = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition") or 0
        for number in wanted:
            if (
                not await self._ensure(sts, number, pods, current if number < partition + start else update)
                and not at_once
            ):
                return
        condemned = sorted((n for n in pods if n not in wanted), reverse=True)
        for number in condemned:
            pod = pods[number]
            if not parts.is_deleting(pod):
                if not at_once and not all(self._works(sts, pods[n]) for n in wanted if n in pods):
                    return
                await self._delete(sts, pod)
                await self._drop_claims(sts, pod)
            if not at_once:
                return
        if (spec.get("updateStrategy") or {}).get("type") == "RollingUpdate" and not condemned:
            await self._replace(sts, pods, [n for n in reversed(wanted) if n >= partition + start], update)

    async def _ensure(self, sts: Json, number: int, pods: dict[int, Json], revision: Json) -> bool:
        """Make the pod if it is missing; returns whether the next one may be looked at."""
        pod = pods.get(number)
        if pod is None:
            await self._create(sts, number, revision)
            return False
        if not parts.is_deleting(pod) and (pod.get("status") or {}).get("phase") in parts.FINISHED:
            self._recorder.warning(
                STATEFUL_SET,
                sts,
                "RecreatingFailedPod",
                f"StatefulSet {sts['metadata']['namespace']}/{sts['metadata']['name']} is recreating failed Pod {pod['metadata']['name']}",
            )
            await self._delete(sts, pod)
            return False
        return self._works(sts, pod)

    async def _create(self, sts: Json, number: int, revision: Json) -> None:
        body = numbered_pod(sts, number, revision)
        namespace = sts["metadata"]["namespace"]
        for claim in claims_of(sts, body["metadata"]["name"]):
            if self._store.stored(PERSISTENT_VOLUME_CLAIM, namespace, claim["metadata"]["name"]) is None:
                await self._objects.create(
                    PERSISTENT_VOLUME_CLAIM, namespace, claim, WriteOptions(field_manager=MANAGER)
                )
        try:
            await self._objects.create(POD, namespace, body, WriteOptions(field_manager=MANAGER))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return
        name = body["metadata"]["name"]
        self._recorder.normal(
            STATEFUL_SET,
            sts,
            "SuccessfulCreate",
            f"create Pod {name} in StatefulSet {sts['metadata']['name']} successful",
        )

    async def _delete(self, sts: Json, pod: Json) -> None:
        for gone in await parts.delete_all(self._objects, POD, [pod]):
            text = f"delete Pod {gone['metadata']['name']} in StatefulSet {sts['metadata']['name']} successful"
            self._recorder.normal(STATEFUL_SET, sts, "SuccessfulDelete", text)

    async def _drop_claims(self, sts: Json, pod: Json) -> None:
        if (sts["spec"].get("persistentVolumeClaimRetentionPolicy") or {}).get("whenScaled") != "Delete":
            return
        names = [c["metadata"]["name"] for c in claims_of(sts, pod["metadata"]["name"])]
        found = (self._store.get(PERSISTENT_VOLUME_CLAIM, sts["metadata"]["namespace"], name) for name in names)
        await parts.delete_all(self._objects, PERSISTENT_VOLUME_CLAIM, [c for c in found if c is not None])

    async def _own_claims(self, sts: Json, pods: dict[int, Json]) -> None:
        """Let claims go with their set, or stay, as its policy now says."""
        metadata = sts["metadata"]
        owner = _claim_owner(sts)

        def owned(claim: Json) -> Json:
            refs = claim["metadata"].get("ownerReferences") or []
            kept = [ref for ref in refs if ref.get("uid") != metadata["uid"]] + ([owner] if owner is not None else [])
            rest = {k: v for k, v in claim["metadata"].items() if k != "ownerReferences"}
            return {**claim, "metadata": {**rest, **({"ownerReferences": kept} if kept else {})}}

        for pod in pods.values():
            for claim in claims_of(sts, pod["metadata"]["name"]):
                held = self._store.get(PERSISTENT_VOLUME_CLAIM, metadata["namespace"], claim["metadata"]["name"])
                if held is not None and not parts.is_deleting(held):
                    has = any(r.get("uid") == metadata["uid"] for r in held["metadata"].get("ownerReferences") or ())
                    if has != (owner is not None):
                        await parts.change(self._objects, PERSISTENT_VOLUME_CLAIM, held, owned)

    async def _replace(self, sts: Json, pods: dict[int, Json], order: list[int], update: Json) -> None:
        """Delete the highest pod of an older template once all above it work again."""
        for number in order:
            pod = pods.get(number)
            if pod is None or parts.is_deleting(pod):
                return
            if (pod["metadata"].get("labels") or {}).get(HASH) != update["metadata"]["labels"][HASH]:
                await self._delete(sts, pod)
                return
            if not self._works(sts, pod):
                return

    def _works(self, sts: Json, pod: Json) -> bool:
        least_s = sts["spec"].get("minReadySeconds") or 0
        return parts.is_active(pod) and parts.available_in_s(pod, least_s, self._objects.clock.wall()) == 0

    async def _say(self, place: Place, sts: Json, current: Json, update: Json) -> None:
        pods = [p for p in self._pods.get(("owner", sts["metadata"]["uid"])) if ordinal(sts, p) is not None]
        now, least_s = self._objects.clock.wall(), sts["spec"].get("minReadySeconds") or 0
        names = {"current": current["metadata"]["labels"][HASH], "update": update["metadata"]["labels"][HASH]}
        active = [p for p in pods if parts.is_active(p)]
        waits = [parts.available_in_s(p, least_s, now) for p in active]
        has = {
            kind: sum(1 for p in active if (p["metadata"].get("labels") or {}).get(HASH) == name)
            for kind, name in names.items()
        }
        replicas = sts["spec"].get("replicas", 1)
        done = has["update"] == len(active) == replicas and all(w is not None for w in waits)
        status: Json = {
            "observedGeneration": sts["metadata"].get("generation", 0),
            "replicas": len(pods),
            "readyReplicas": sum(1 for w in waits if w is not None),
            "availableReplicas": sum(1 for w in waits if w == 0),
            "currentReplicas": has["update"] if done else has["current"],
            "updatedReplicas": has["update"],
            "currentRevision": (update if done else current)["metadata"]["name"],
            "updateRevision": update["metadata"]["name"],
            "collisionCount": 0,
        }
        kept = (
            "observedGeneration",
            "replicas",
            "availableReplicas",
            "currentRevision",
            "updateRevision",
            "collisionCount",
        )
        await parts.write_status(self._objects, STATEFUL_SET, sts, {k: v for k, v in status.items() if v or k in kept})
        soonest = min((w for w in waits if w), default=None)
        if soonest is not None:
            self.worker.add_after(place, soonest)


def ordinal(sts: Json, pod: Json) -> int | None:
    """Return the pod's number, None when its name is not one of the set's."""
    name, _, number = pod["metadata"]["name"].rpartition("-")
    return int(number) if name == sts["metadata"]["name"] and number.isdigit() else None


def _claim_owner(sts: Json) -> Json | None:
    """Return the reference by which claims go with their set; None when they stay."""
    if (sts["spec"].get("persistentVolumeClaimRetentionPolicy") or {}).get("whenDeleted") != "Delete":
        return None
    owner = parts.owner_reference(STATEFUL_SET, sts)
    return {k: v for k, v in owner.items() if k not in ("controller", "blockOwnerDeletion")}


def claims_of(sts: Json, pod: str) -> list[Json]:
    """Return the claims that belong to one pod of the set."""
    out = []
    owner = _claim_owner(sts)
    for template in sts["spec"].get("volumeClaimTemplates") or ():
        metadata = template.get("metadata") or {}
        labels = {**(metadata.get("labels") or {}), **((sts["spec"]["selector"] or {}).get("matchLabels") or {})}
        made: Json = {"name": f"{metadata['name']}-{pod}", "labels": labels}
        if metadata.get("annotations"):
            made["annotations"] = metadata["annotations"]
        if owner is not None:
            made["ownerReferences"] = [owner]
        out.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": made, "spec": template["spec"]})
    return out


def numbered_pod(sts: Json, number: int, revision: Json) -> Json:
    """Return the body of one pod by the template of a revision."""
    template = {k: v for k, v in revision["data"]["spec"]["template"].items() if k != "$patch"}
    name = f"{sts['metadata']['name']}-{number}"
    labels = {POD_NAME: name, POD_INDEX: str(number), HASH: revision["metadata"]["labels"][HASH]}
    body = parts.pod_of(STATEFUL_SET, sts, template, **labels)
    del body["metadata"]["generateName"]
    body["metadata"]["name"] = name
    spec = body["spec"]
    spec["hostname"] = name
    if sts["spec"].get("serviceName"):
        spec["subdomain"] = sts["spec"]["serviceName"]
    own = {
        c["metadata"]["name"]: f"{c['metadata']['name']}-{name}" for c in sts["spec"].get("volumeClaimTemplates") or ()
    }
    kept = [v for v in spec.get("volumes") or () if v.get("name") not in own]
    added = [{"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, claim in own.items()]
    if kept or added:
        spec["volumes"] = [*kept, *added]
    return body
