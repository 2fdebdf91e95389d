"""Claims and volumes: each claim gets a volume that fits, or a directory of its pod's node. Reads Pod, Node, StorageClass;
writes PersistentVolume and PersistentVolumeClaim.

A ``local-path`` volume is made when the scheduler has chosen the node: the object says where; the node makes the directory.
"""

from typing import Any

from kubeapi.bootstrap import LOCAL_PROVISIONER
from kubeapi.controllers import parts
from kubeapi.controllers.index import Index, Indexes, Place
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import NODE, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, POD, STORAGE_CLASS
from kubeapi.label_selectors import label_test
from kubeapi.local_volumes import LOCAL_PATH, claim_reference, volume_for
from kubeapi.objects import Objects, WriteOptions
from kubeapi.quantities import of
from kubeapi.scheduling.claims import SELECTED_NODE
from kubeapi.scheduling.facts import read_shape
from kubeapi.scheduling.filters import node_selector
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
MANAGER = "volume-controller"
COMPLETED, BY_US = "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"
CLAIM_GUARD, VOLUME_GUARD = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"


def _volume_keys(volume: Json) -> list[Any]:
    spec = volume.get("spec") or {}
    ref = spec.get("claimRef")
    if ref:
        return [("claim", ref.get("namespace"), ref.get("name"))]
    return [("free", spec.get("storageClassName") or "")]


class Volumes:
    """Binds claims; ``start`` after the indexes. A key is a claim's place, or a volume's name without namespace."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._pods = indexes.pods
        self._volumes = Index(self._store, PERSISTENT_VOLUME, _volume_keys)
        self._recorder = Recorder(objects, "persistentvolume-controller")
        self._waiting: set[Place] = set()  # unbound claims: a new volume may fit one
        self.worker: Worker[Place] = Worker("volumes", self._make_right, objects.clock)

    def start(self) -> None:
        self._volumes.start()
        for res in (PERSISTENT_VOLUME_CLAIM, PERSISTENT_VOLUME):
            for item in self._store.items(res, None):
                self.worker.add((item.namespace, item.name))
        self._store.listen(PERSISTENT_VOLUME_CLAIM, self._claim_changed)
        self._store.listen(PERSISTENT_VOLUME, self._volume_changed)
        self._store.listen(POD, self._pod_changed)

    def _claim_changed(self, event: Event) -> None:
        place = (event.stored.namespace, event.stored.name)
        if event.type == DELETED:
            self._waiting.discard(place)
            for volume in self._volumes.get(("claim", *place)):
                self.worker.add(("", volume["metadata"]["name"]))
        self.worker.add(place)

    def _volume_changed(self, event: Event) -> None:
        self.worker.add(("", event.stored.name))
        ref = (event.object.get("spec") or {}).get("claimRef")
        if ref:
            self.worker.add((str(ref.get("namespace")), str(ref.get("name"))))
        elif event.type != DELETED:
            for place in self._waiting:
                self.worker.add(place)

    def _pod_changed(self, event: Event) -> None:
        """A claim that is to go goes when its last pod has."""
        for volume in (event.object.get("spec") or {}).get("volumes") or ():
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            found = self._store.get(PERSISTENT_VOLUME_CLAIM, event.stored.namespace, name) if name else None
            if found is not None and parts.is_deleting(found):
                self.worker.add((event.stored.namespace, str(name)))

    async def _make_right(self, place: Place) -> None:
        if place[0]:
            await self._settle_claim(place)
        else:
            await self._settle_volume(place[1])

    # claims

    async def _settle_claim(self, place: Place) -> None:
        claim = self._store.get(PERSISTENT_VOLUME_CLAIM, *place)
        if claim is None:
            return
        if parts.is_deleting(claim):
            used = any(parts.is_active(p) or parts.is_deleting(p) for p in self._pods.get(("claim", *place)))
            if not used:
                await parts.change(
                    self._objects, PERSISTENT_VOLUME_CLAIM, claim, lambda c: _guarded(c, CLAIM_GUARD, on=False)
                )
            return
        claim = await parts.change(
            self._objects, PERSISTENT_VOLUME_CLAIM, claim, lambda c: _guarded(c, CLAIM_GUARD, on=True)
        )
        if (claim.get("status") or {}).get("phase") == "Bound":
            self._waiting.discard(place)
            if self._store.stored(PERSISTENT_VOLUME, "", claim["spec"].get("volumeName") or "") is None:
                await self._say(claim, {"phase": "Lost"}, "ClaimLost", "Bound claim has lost its PersistentVolume.")
            return
        volume = self._chosen(claim)
        if volume is None and not claim["spec"].get("volumeName"):
            volume = await self._provision(claim)
        if volume is None:
            self._waiting.add(place)
            return
        self._waiting.discard(place)
        await self._bind(claim, volume)

    async def _say(self, claim: Json, status: Json, reason: str, message: str) -> None:
        held = claim.get("status") or {}
        if held.get("phase") != status["phase"]:
            self._recorder.warning(PERSISTENT_VOLUME_CLAIM, claim, reason, message)
            await parts.write_status(self._objects, PERSISTENT_VOLUME_CLAIM, claim, {**held, **status})

    def _chosen(self, claim: Json) -> Json | None:
        """Return the smallest existing volume that fits; the one it names, or that names it, before all others."""
        metadata, spec = claim["metadata"], claim["spec"]
        if spec.get("volumeName"):
            named = self._store.get(PERSISTENT_VOLUME, "", spec["volumeName"])
            ref = ((named or {}).get("spec") or {}).get("claimRef")
            return named if named is not None and (not ref or _refers(ref, claim)) else None
        reserved = [
            v
            for v in self._volumes.get(("claim", metadata["namespace"], metadata["name"]))
            if _refers(v["spec"]["claimRef"], claim)
        ]
        if reserved:
            return reserved[0]
        node = (metadata.get("annotations") or {}).get(SELECTED_NODE)
        if not node and self._waits(claim):
            return None
        free = [
            v for v in self._volumes.get(("free", spec.get("storageClassName") or "")) if self._fits(claim, v, node)
        ]
        return min(free, key=lambda v: of(v["spec"]["capacity"]["storage"]), default=None)

    def _class_of(self, claim: Json) -> Json | None:
        name = claim["spec"].get("storageClassName")
        return self._store.get(STORAGE_CLASS, "", name) if name else None

    def _waits(self, claim: Json) -> bool:
        found = self._class_of(claim)
        return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"

    def _fits(self, claim: Json, volume: Json, node: str | None) -> bool:
        wanted, has = claim["spec"], volume["spec"]
        free = not parts.is_deleting(volume) and (volume.get("status") or {}).get("phase") in (
            "Available",
            "Pending",
            None,
        )
        selector = wanted.get("selector")
        suits = (
            free
            and set(wanted.get("accessModes") or ()) <= set(has.get("accessModes") or ())
            and wanted.get("volumeMode") == has.get("volumeMode")
            and (selector is None or label_test(selector)(volume["metadata"].get("labels") or {}))
            and of((has.get("capacity") or {}).get("storage", "0")) >= of(wanted["resources"]["requests"]["storage"])
        )
        if not suits or node is None:
            return suits
        found = self._store.get(NODE, "", node)
        return found is not None and node_selector((has.get("nodeAffinity") or {}).get("required"))(read_shape(found))

    async def _provision(self, claim: Json) -> Json | None:
        """Make a ``local-path`` volume on the chosen node; None when it is not ours to make, or not yet."""
        found, node = self._class_of(claim), (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
        if found is None or found.get("provisioner") != LOCAL_PROVISIONER:
            return None
        held = self._store.get(NODE, "", node) if node else None
        if held is None:
            self._recorder.normal(
                PERSISTENT_VOLUME_CLAIM,
                claim,
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
            )
            return None
        body = volume_for(claim, found, held)
        name = body["metadata"]["name"]
        try:
            made = await self._objects.create(PERSISTENT_VOLUME, "", body, WriteOptions(field_manager=MANAGER))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                self._recorder.warning(PERSISTENT_VOLUME_CLAIM, claim, "ProvisioningFailed", error.message)
                raise
            made = self._objects.get(PERSISTENT_VOLUME, "", name)
        self._recorder.normal(
            PERSISTENT_VOLUME_CLAIM, claim, "ProvisioningSucceeded", f"Successfully provisioned volume {name}"
        )
        return made

    async def _bind(self, claim: Json, volume: Json) -> None:
        """Say on both sides that they belong together; safe to repeat after a crash in between."""
        reference, name = claim_reference(claim), volume["metadata"]["name"]

        def take(held: Json) -> Json:
            status = {**(held.get("status") or {}), "phase": "Bound"}
            return {
                **_guarded(held, VOLUME_GUARD, on=True),
                "spec": {**held["spec"], "claimRef": reference},
                "status": status,
            }

        def given(held: Json) -> Json:
            annotations = {**(held["metadata"].get("annotations") or {}), COMPLETED: "yes", BY_US: "yes"}
            status = {
                "phase": "Bound",
                "accessModes": volume["spec"]["accessModes"],
                "capacity": volume["spec"]["capacity"],
            }
            metadata = {**held["metadata"], "annotations": annotations}
            return {**held, "metadata": metadata, "spec": {**held["spec"], "volumeName": name}, "status": status}

        await parts.change(self._objects, PERSISTENT_VOLUME, volume, take)
        await parts.change(self._objects, PERSISTENT_VOLUME_CLAIM, claim, given)

    # volumes

    async def _settle_volume(self, name: str) -> None:
        volume = self._store.get(PERSISTENT_VOLUME, "", name)
        if volume is None:
            return
        ref = volume["spec"].get("claimRef")
        claim = self._store.get(PERSISTENT_VOLUME_CLAIM, ref["namespace"], ref["name"]) if ref else None
        held = claim is not None and _refers(ref, claim)
        if parts.is_deleting(volume):
            if not held:
                await parts.change(
                    self._objects, PERSISTENT_VOLUME, volume, lambda v: _guarded(v, VOLUME_GUARD, on=False)
                )
            return
        if held:
            return
        if ref and ref.get("uid"):
            await self._release(volume)
            return
        phase = "Available"
        await parts.change(
            self._objects,
            PERSISTENT_VOLUME,
            volume,
            lambda v: {**_guarded(v, VOLUME_GUARD, on=True), "status": {**(v.get("status") or {}), "phase": phase}},
        )

    async def _release(self, volume: Json) -> None:
        """The claim is gone: the volume goes too if it was made for it, and stays for a person otherwise."""
        released = await parts.write_status(
            self._objects, PERSISTENT_VOLUME, volume, {**(volume.get("status") or {}), "phase": "Released"}
        )
        annotations = volume["metadata"].get("annotations") or {}
        if volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete" and LOCAL_PATH in annotations:
            await parts.delete_all(self._objects, PERSISTENT_VOLUME, [released])


def _refers(ref: Json, claim: Json) -> bool:
    metadata = claim["metadata"]
    same = (ref.get("namespace"), ref.get("name")) == (metadata["namespace"], metadata["name"])
    return same and ref.get("uid") in (None, "", metadata["uid"])


def _guarded(obj: Json, finalizer: str, *, on: bool) -> Json:
    held = obj["metadata"].get("finalizers") or []
    if (finalizer in held) == on:
        return obj
    metadata = {k: v for k, v in obj["metadata"].items() if k != "finalizers"}
    finalizers = [*held, finalizer] if on else [f for f in held if f != finalizer]
    return {**obj, "metadata": {**metadata, **({"finalizers": finalizers} if finalizers else {})}}
