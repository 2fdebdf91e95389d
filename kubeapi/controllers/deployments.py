"""Deployments: one ReplicaSet per template, moved from old to new within bounds. Reads and writes Deployment and ReplicaSet."""

from typing import Any

from kubeapi.conditions import condition, with_condition, without_condition
from kubeapi.controllers import parts, rollouts
from kubeapi.controllers.index import Indexes, Place, controller_of
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import DEPLOYMENT, POD, REPLICA_SET
from kubeapi.objects import Objects, WriteOptions
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
MANAGER = "deployment-controller"


class Deployments:
    """Rolls Deployments out; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._indexes = indexes
        self._recorder = Recorder(objects, MANAGER)
        self.worker: Worker[Place] = Worker("deployments", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(DEPLOYMENT, None):
            self.worker.add((item.namespace, item.name))
        self._store.listen(DEPLOYMENT, lambda event: self.worker.add((event.stored.namespace, event.stored.name)))
        self._store.listen(REPLICA_SET, self._set_changed)
        self._store.listen(POD, self._pod_changed)

    def _set_changed(self, event: Event) -> None:
        for rs in filter(None, (event.previous, event.object)):
            owner = controller_of(rs)
            if owner is not None and owner.get("kind") == "Deployment":
                self.worker.add((event.stored.namespace, str(owner.get("name"))))

    def _pod_changed(self, event: Event) -> None:
        """A Recreate rollout waits until the last old pod is really gone."""
        owner = controller_of(event.object) if event.type == DELETED else None
        if owner is None or owner.get("kind") != "ReplicaSet":
            return
        rs = self._store.get(REPLICA_SET, event.stored.namespace, str(owner.get("name")))
        above = None if rs is None else controller_of(rs)
        if above is not None and above.get("kind") == "Deployment":
            self.worker.add((event.stored.namespace, str(above.get("name"))))

    async def _make_right(self, place: Place) -> None:
        deployment = self._store.get(DEPLOYMENT, *place)
        if deployment is None:
            return
        index, selector = self._indexes.replica_sets, deployment["spec"]["selector"]
        sets = await parts.claim(self._objects, index, REPLICA_SET, DEPLOYMENT, deployment, selector)
        sets = [rs for rs in sets if not parts.is_deleting(rs)]
        if parts.is_deleting(deployment):
            await self._say(deployment, rollouts.new_set(deployment, sets), sets)
            return
        deployment = await self._note_pause(deployment)
        paused = bool(deployment["spec"].get("paused"))
        new = rollouts.new_set(deployment, sets)
        if paused or self._was_resized(deployment, sets):
            await self._resize(deployment, new, sets)
        elif not await self._still_runs_old(deployment, new, sets):
            new = await self._ensure_new(deployment, new, sets)
            await self._roll(deployment, new, [rs for rs in sets if rs["metadata"]["uid"] != new["metadata"]["uid"]])
        await self._finish(place, deployment)

    async def _finish(self, place: Place, deployment: Json) -> None:
        sets = self._sets(deployment)
        new = rollouts.new_set(deployment, sets)
        status = await self._say(deployment, new, sets)
        if rollouts.is_complete(deployment, status):
            await self._forget_old(deployment, new, sets)
        wait = rollouts.deadline_in_s(deployment, status.get("conditions") or [], self._objects.clock.wall())
        if wait is not None:
            self.worker.add_after(place, max(wait, 0.0) + 1.0)

    def _sets(self, deployment: Json) -> list[Json]:
        found = self._indexes.replica_sets.get(("owner", deployment["metadata"]["uid"]))
        return [rs for rs in found if not parts.is_deleting(rs)]

    async def _note_pause(self, deployment: Json) -> Json:
        """Keep the clock of the deadline still while a person has paused the rollout."""
        if deployment["spec"].get("progressDeadlineSeconds") is None:
            return deployment
        status = deployment.get("status") or {}
        reason = (condition(status, "Progressing") or {}).get("reason")
        paused = bool(deployment["spec"].get("paused"))
        if reason == rollouts.TIMED_OUT or paused == (reason == "DeploymentPaused"):
            return deployment
        told = ("Unknown", "DeploymentPaused", "Deployment is paused") if paused else (
            "Unknown", "DeploymentResumed", "Deployment is resumed",
        )  # fmt: skip
        conditions = with_condition(
            status.get("conditions") or (), "Progressing", *told, self._objects.clock.wall(), updated=True
        )
        return await parts.write_status(self._objects, DEPLOYMENT, deployment, {**status, "conditions": conditions})

    def _was_resized(self, deployment: Json, sets: list[Json]) -> bool:
        replicas = str(deployment["spec"].get("replicas", 1))
        held = [
            (rs["metadata"].get("annotations") or {}).get(rollouts.DESIRED) for rs in sets if rollouts.wanted(rs) > 0
        ]
        return any(text is not None and text != replicas for text in held)

    async def _resize(self, deployment: Json, new: Json | None, sets: list[Json]) -> None:
        replicas = deployment["spec"].get("replicas", 1)
        active = [rs for rs in sets if rollouts.wanted(rs) > 0]
        newest = new or (rollouts.oldest_first(sets)[-1] if sets else None)
        if len(active) <= 1:
            only = active[0] if active else newest
            if only is not None:
                await self._scale(deployment, only, replicas)
        elif new is not None and rollouts.wanted(new) == replicas == rollouts.count(new, "availableReplicas"):
            for rs in active:
                if rs is not new:
                    await self._scale(deployment, rs, 0)
        elif deployment["spec"]["strategy"]["type"] == "RollingUpdate":
            sizes = rollouts.proportional(deployment, active)
            for rs in active:
                await self._scale(deployment, rs, sizes[rs["metadata"]["name"]])

    async def _ensure_new(self, deployment: Json, new: Json | None, sets: list[Json]) -> Json:
        """Return the ReplicaSet of the present template, made if need be, with its revision and annotations."""
        others = [rs for rs in sets if new is None or rs["metadata"]["uid"] != new["metadata"]["uid"]]
        revision = max(map(rollouts.revision, others), default=0) + 1
        if new is None:
            new = await self._create(deployment, sets, revision)
        else:
            number = max(revision, rollouts.revision(new))
            new = await self._annotate(deployment, new, number)
            await self._found(deployment, new)
        shown = str(rollouts.revision(new))
        if (deployment["metadata"].get("annotations") or {}).get(rollouts.REVISION) != shown:
            await parts.change(
                self._objects, DEPLOYMENT, deployment, lambda held: _annotated(held, {rollouts.REVISION: shown})
            )
        return new

    async def _create(self, deployment: Json, sets: list[Json], revision: int) -> Json:
        metadata, spec = deployment["metadata"], deployment["spec"]
        template = spec["template"]
        collisions = (deployment.get("status") or {}).get("collisionCount") or 0
        hash_ = rollouts.template_hash(template, collisions)
        labels = {**((template.get("metadata") or {}).get("labels") or {}), rollouts.HASH: hash_}
        body: Json = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{metadata['name']}-{hash_}",
                "labels": labels,
                "annotations": {**_copied(deployment), **_sizes(deployment), rollouts.REVISION: str(revision)},
                "ownerReferences": [parts.owner_reference(DEPLOYMENT, deployment)],
            },
            "spec": {
                "replicas": 0,
                "selector": _selecting(spec["selector"], hash_),
                "template": {**template, "metadata": {**(template.get("metadata") or {}), "labels": labels}},
                **({"minReadySeconds": spec["minReadySeconds"]} if spec.get("minReadySeconds") else {}),
            },
        }
        body["spec"]["replicas"] = rollouts.new_size(deployment, body, [*sets, body])
        try:
            made = await self._objects.create(
                REPLICA_SET, metadata["namespace"], body, WriteOptions(field_manager=MANAGER)
            )
        except ApiError as error:
            if error.reason == "AlreadyExists":
                await self._collided(deployment, body["metadata"]["name"], collisions)
            raise
        text = f'Created new replica set "{made["metadata"]["name"]}"'
        await self._progressing(deployment, "NewReplicaSetCreated", text)
        self._scaled(deployment, made, 0)
        return made

    async def _collided(self, deployment: Json, name: str, collisions: int) -> None:
        """Count the collision, unless the name is held by what we wanted (another controller was faster)."""
        namespace = deployment["metadata"]["namespace"]
        held = self._store.get(REPLICA_SET, namespace, name)
        owner = None if held is None else controller_of(held)
        ours = owner is not None and owner.get("uid") == deployment["metadata"]["uid"]
        if (
            held is not None
            and ours
            and rollouts.same_template(held["spec"]["template"], deployment["spec"]["template"])
        ):
            return
        status = {**(deployment.get("status") or {}), "collisionCount": collisions + 1}
        await parts.write_status(self._objects, DEPLOYMENT, deployment, status)

    async def _found(self, deployment: Json, new: Json) -> None:
        if condition(deployment.get("status") or {}, "Progressing") is None:
            await self._progressing(
                deployment, "FoundNewReplicaSet", f'Found new replica set "{new["metadata"]["name"]}"'
            )

    async def _progressing(self, deployment: Json, reason: str, text: str) -> None:
        if deployment["spec"].get("progressDeadlineSeconds") is None:
            return
        now = self._objects.clock.wall()

        def make(held: Json) -> Json:
            status = held.get("status") or {}
            conditions = with_condition(
                status.get("conditions") or (), "Progressing", "True", reason, text, now, updated=True
            )
            return {**held, "status": {**status, "conditions": conditions}}

        await parts.change(self._objects, DEPLOYMENT, deployment, make)

    async def _annotate(self, deployment: Json, new: Json, number: int) -> Json:
        notes = {**_copied(deployment), **_sizes(deployment)}
        held = rollouts.revision(new)
        if number != held:
            notes[rollouts.REVISION] = str(number)
            if held:
                past = (new["metadata"].get("annotations") or {}).get(rollouts.HISTORY, "")
                notes[rollouts.HISTORY] = ",".join(filter(None, (past, str(held))))
        least = deployment["spec"].get("minReadySeconds")

        def make(rs: Json) -> Json:
            spec = {k: v for k, v in rs["spec"].items() if k != "minReadySeconds"}
            return {**_annotated(rs, notes), "spec": {**spec, **({"minReadySeconds": least} if least else {})}}

        return await parts.change(self._objects, REPLICA_SET, new, make)

    async def _roll(self, deployment: Json, new: Json, old: list[Json]) -> None:
        active = [rs for rs in old if rollouts.wanted(rs) > 0]
        size = rollouts.new_size(deployment, new, [new, *old])
        if size != rollouts.wanted(new):
            await self._scale(deployment, new, size)
        elif active:
            sizes = rollouts.old_sizes(deployment, new, active)
            for rs in active:
                await self._scale(deployment, rs, sizes[rs["metadata"]["name"]])

    async def _still_runs_old(self, deployment: Json, new: Json | None, sets: list[Json]) -> bool:
        """Recreate: whether the new pods must wait, because old ones are there; these are told to go."""
        if deployment["spec"]["strategy"]["type"] != "Recreate":
            return False
        old = [rs for rs in sets if new is None or rs["metadata"]["uid"] != new["metadata"]["uid"]]
        for rs in old:
            if rollouts.wanted(rs):
                await self._scale(deployment, rs, 0)
        return any(self._runs(rs) for rs in old)

    def _runs(self, rs: Json) -> bool:
        pods = self._indexes.pods.get(("owner", rs["metadata"]["uid"]))
        return any((pod.get("status") or {}).get("phase") not in parts.FINISHED for pod in pods)

    async def _scale(self, deployment: Json, rs: Json, size: int) -> None:
        before = rollouts.wanted(rs)
        notes = _sizes(deployment)
        changed = await parts.change(
            self._objects,
            REPLICA_SET,
            rs,
            lambda held: {**_annotated(held, notes), "spec": {**held["spec"], "replicas": size}},
        )
        if before != size:
            self._scaled(deployment, changed, before)

    def _scaled(self, deployment: Json, rs: Json, before: int) -> None:
        size, name = rollouts.wanted(rs), rs["metadata"]["name"]
        if size != before:
            way = "up" if size > before else "down"
            text = f"Scaled {way} replica set {name} from {before} to {size}"
            self._recorder.normal(DEPLOYMENT, deployment, "ScalingReplicaSet", text)

    async def _say(self, deployment: Json, new: Json | None, sets: list[Json]) -> Json:
        """Write the status; returns it."""
        current = self._store.get(DEPLOYMENT, deployment["metadata"]["namespace"], deployment["metadata"]["name"])
        if current is None or current["metadata"]["uid"] != deployment["metadata"]["uid"]:
            return {}
        now = self._objects.clock.wall()
        status = rollouts.counted(deployment, new, sets)
        held = (current.get("status") or {}).get("conditions") or []
        conditions = rollouts.availability(deployment, status, held, now)
        if not deployment["spec"].get("paused"):
            conditions = rollouts.progress(
                {**deployment, "status": current.get("status")}, new, status, conditions, now
            )
        failure = next((c for rs in sets if (c := condition(rs.get("status") or {}, "ReplicaFailure"))), None)
        if failure is not None:
            told = (failure["status"], failure.get("reason", ""), failure.get("message", ""))
            conditions = with_condition(conditions, "ReplicaFailure", *told, now, updated=True)
        else:
            conditions = without_condition(conditions, "ReplicaFailure")
        if conditions:
            status["conditions"] = conditions
        await parts.write_status(self._objects, DEPLOYMENT, deployment, status)
        return status

    async def _forget_old(self, deployment: Json, new: Json | None, sets: list[Json]) -> None:
        """Delete what is older than the history that is kept."""
        limit = deployment["spec"].get("revisionHistoryLimit")
        old = [rs for rs in sets if new is None or rs["metadata"]["uid"] != new["metadata"]["uid"]]
        idle = [rs for rs in old if not rollouts.wanted(rs) and not rollouts.count(rs)]
        surplus = len(old) - limit if limit is not None else 0
        if surplus > 0:
            await parts.delete_all(self._objects, REPLICA_SET, sorted(idle, key=rollouts.revision)[:surplus])


def _annotated(obj: Json, notes: dict[str, str]) -> Json:
    annotations = {**(obj["metadata"].get("annotations") or {}), **notes}
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


def _copied(deployment: Json) -> dict[str, str]:
    annotations = deployment["metadata"].get("annotations") or {}
    return {key: value for key, value in annotations.items() if key not in rollouts.NOT_COPIED}


def _sizes(deployment: Json) -> dict[str, str]:
    replicas = deployment["spec"].get("replicas", 1)
    surge, _ = rollouts.bounds(deployment)
    return {rollouts.DESIRED: str(replicas), rollouts.MOST: str(replicas + surge)}


def _selecting(selector: Json, hash_: str) -> Json:
    return {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), rollouts.HASH: hash_}}
