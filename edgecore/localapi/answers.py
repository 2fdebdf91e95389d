"""What this node has run by itself is not run again: the cloud's pod of the same Job gets the status of the pod that ran.

While the cloud is away its own controllers go on: they make the same Job (its name is its time), and the pod for it comes
here with the next session. Writes the status of such a pod; nobody else touches it then.
"""

from typing import Any

from edgecore.pods.writer import body, status_key
from kubeapi.kinds import JOB, POD
from kubeapi.store import Store
from kubeapi.stored import DELETED, Event
from proto import labels
from proto.kit.clock import Clock, rfc3339
from proto.kit.database import Tx
from proto.kit.log import Logger
from proto.link.outbox import Outbox

Json = dict[str, Any]
MARK = labels.CONTINUED.encode()
INDEX = "batch.kubernetes.io/job-completion-index"
RANK = {"Succeeded": 0, "Running": 1, "Pending": 1, "Failed": 2}
PODS = f"{POD.storage}/"
log = Logger("continuation")


class Answers:
    """``adopt`` runs in the link's transaction, before a pod of the cloud is stored; everything else on the loop."""

    def __init__(self, store: Store, outbox: Outbox, clock: Clock) -> None:
        self._store, self._outbox, self._clock = store, outbox, clock
        self._places: dict[tuple[str, str], str] = {}  # (namespace, pod that ran) -> pod of the cloud
        for item in store.items(POD, None):
            self._note(item.object)
        store.listen(POD, self._changed)

    def adopt(self, tx: Tx, key: str, obj: Json) -> None:
        """Mark a pod of the cloud for which one has run here already."""
        job = job_of(obj) if key.startswith(PODS) else ""
        if not job:
            return
        metadata = obj["metadata"]
        held = self._store.peek(POD, metadata["namespace"], metadata["name"])
        if held is not None and held.object["metadata"].get("uid") == metadata.get("uid"):
            chosen = _annotation(held.object, labels.ANSWERED_BY)
        else:
            chosen = "" if phase(obj) in ("Succeeded", "Failed") else self._pick(tx, obj, job)
        if chosen:
            metadata["annotations"] = {**(metadata.get("annotations") or {}), labels.ANSWERED_BY: chosen}

    def _pick(self, tx: Tx, obj: Json, job: str) -> str:
        """Choose the pod whose outcome the cloud has not got yet: a success before one that runs, and that before a failure."""
        found: list[Json] = []
        for item in self._store.peek_all(POD):
            if MARK in item.body and item.namespace == obj["metadata"]["namespace"]:
                pod = item.object
                fits = _annotation(pod, labels.CONTINUED) == job and _annotation(pod, INDEX) == _annotation(obj, INDEX)
                if fits and not _annotation(pod, labels.ANSWERS) and not _is_leaving(pod):
                    found.append(pod)
        if not found:
            return ""
        chosen = min(found, key=lambda p: (RANK.get(phase(p), 1), p["metadata"]["name"]))
        metadata = chosen["metadata"]
        annotations = {**metadata["annotations"], labels.ANSWERS: str(obj["metadata"].get("uid", ""))}
        self._store.put(tx, POD, {**chosen, "metadata": {**metadata, "annotations": annotations}})
        return str(metadata["name"])

    def _note(self, pod: Json) -> None:
        ran = _annotation(pod, labels.ANSWERED_BY)
        if ran:
            self._places[pod["metadata"]["namespace"], ran] = pod["metadata"]["name"]

    def _changed(self, event: Event) -> None:
        pod = event.object
        namespace, name = event.stored.namespace, event.stored.name
        ran = _annotation(pod, labels.ANSWERED_BY)
        if ran and event.type == DELETED:
            self._places.pop((namespace, ran), None)
        elif ran:
            self._places[namespace, ran] = name
            self._tell(namespace, ran)
        elif (namespace, name) in self._places:
            self._tell(namespace, name)

    def tell_all(self) -> None:
        """Say again what was not said: the last process may have ended in between."""
        for namespace, ran in list(self._places):
            self._tell(namespace, ran)

    def _tell(self, namespace: str, ran: str) -> None:
        mine = self._store.get(POD, namespace, ran)
        theirs = self._store.get(POD, namespace, self._places[namespace, ran])
        if theirs is None or phase(theirs) in ("Succeeded", "Failed") or _is_leaving(theirs):
            return
        if mine is None or not _same(mine.get("status"), theirs.get("status")):
            uid = theirs["metadata"]["uid"]
            name = theirs["metadata"]["name"]
            written = self._store.db.submit(lambda tx: self._write(tx, namespace, ran, name, uid))
            written.add_done_callback(_noted)

    def _write(self, tx: Tx, namespace: str, ran: str, name: str, uid: str) -> None:
        mine, theirs = self._store.peek(POD, namespace, ran), self._store.peek(POD, namespace, name)
        if theirs is None or theirs.object["metadata"].get("uid") != uid:
            return
        obj = theirs.object
        if mine is None:  # it was taken away before it ended: then the cloud's runs
            metadata = dict(obj["metadata"])
            metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != labels.ANSWERED_BY}
            self._store.put(tx, POD, {**obj, "metadata": metadata})
            return
        status = mine.object.get("status")
        if not status:
            return
        self._store.put(tx, POD, {**obj, "status": status})
        # the pod that ran has no version in the cloud; the store's revision grows with each of its statuses
        self._outbox.put_state(tx, status_key(namespace, name), body(uid, mine.revision, status))

    def forget_old(self, tx: Tx) -> None:
        """Drop pods that ran here, when the cloud's own is gone, or their Job is."""
        present = {item.object["metadata"].get("uid", ""): item for item in self._store.peek_all(POD)}
        for item in list(present.values()):
            if MARK not in item.body:
                continue
            pod = item.object
            job, answers = _annotation(pod, labels.CONTINUED), _annotation(pod, labels.ANSWERS)
            kept = answers in present if answers else self._store.peek(JOB, item.namespace, job) is not None
            if job and not kept:
                log.debug("a run is handed over", pod=f"{item.namespace}/{item.name}", at=rfc3339(self._clock.wall()))
                self._store.remove(tx, POD, item.namespace, item.name)


def job_of(pod: Json) -> str:
    """Return the Job that controls a pod, "" for none."""
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") == "Job":
            return str(owner.get("name") or "")
    return ""


def phase(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def _annotation(obj: Json, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name) or "")


def _is_leaving(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _same(mine: Json | None, theirs: Json | None) -> bool:
    return not mine or mine == theirs


def _noted(written: Any) -> None:
    if not written.cancelled() and written.exception() is not None:
        log.warning("a status could not be kept", error=str(written.exception()))
