"""Static pods: files in a folder become Pods in this node's store, with or without a cloud (VOL-8).

The only writer of Pods whose annotation ``kubernetes.io/config.source`` says ``file``. A bad file is said once, by name and line;
the pod of its last good version goes on, and so do the others.
"""

import asyncio
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from edgecore import events
from edgecore.node import Outbox
from edgecore.pods import manifests
from edgecore.pods.manifests import BadManifest, ChildFailed
from kubeapi.kinds import POD
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.clock import Clock, rfc3339
from proto.kit.database import Database, Tx
from proto.kit.errors import Retryable
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.labels import MIRROR, SOURCE
from proto.names import ObjectKey, parse_key

Json = dict[str, Any]
log = Logger("pods")
FILE, HASH = "file", "kubernetes.io/config.hash"
MANIFEST = "edge.skerry.io/manifest"  # annotation, at the node only: file and digest that the pod was read from
SUFFIXES = (".yaml", ".yml", ".json")
MAX_NAME = 253
MAX_FILES = 200  # more pods than a node may run
MAX_MIRROR_BYTES = 250 << 10  # the cloud takes no more; the pod runs all the same
LOOK_EVERY_S = 2.0
GONE, MIRRORED = "pod-gone", "pod-mirror"  # kinds of messages


EVERYTHING: Json = {"operator": "Exists", "effect": "NoExecute"}  # no taint takes a static pod away


class Signature(NamedTuple):
    """Of a file that did not change as long as this does not."""

    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Known:
    """What a file held when it was last good; ``pod`` None: never. ``trouble``: why it is not good now."""

    signature: Signature | None
    digest: str = ""
    pod: Json | None = None
    trouble: str = ""


class StaticPods:
    """Keeps the store's static pods as the folder says. ``mirrors``: key -> uid of the mirror pods in the cloud."""

    def __init__(
        self,
        folder: Path,
        node: str,
        db: Database,
        store: Store,
        outbox: Outbox,
        *,
        mirrors: Callable[[], Mapping[str, str]],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._folder, self._node, self._db, self._store, self._outbox = folder, node, db, store, outbox
        self._mirrors, self._clock = mirrors, clock
        self._known: dict[str, Known] = {}
        self._told: dict[str, str] = {}  # key -> what the cloud was last told of it
        self._seen: set[str] = set()  # keys of mirrors at the last look
        self._shadowed: dict[str, str] = {}  # file -> why its pod is not run
        self._begun = False
        metrics.gauge(
            "skerry_edge_static_pods_bad_files",
            "Files in the folder of static pods that are no pod.",
            source=lambda: sum(bool(known.trouble) for known in self._known.values()),
        )

    async def run(self) -> None:
        """Look at the folder for ever; it is made where it is missing, so that people find it."""
        with suppress(OSError):
            await asyncio.to_thread(self._folder.mkdir, mode=0o700, exist_ok=True)
        before = ""
        while True:
            trouble = await self._try_turn()
            if trouble != before and trouble:
                log.warning("static pods wait", reason=trouble, folder=self._folder)
            elif trouble != before:
                log.info("static pods are read again", folder=self._folder)
            before = trouble
            await self._clock.sleep(LOOK_EVERY_S)

    async def _try_turn(self) -> str:
        """Return why it did not work, "" when it did."""
        try:
            await self.turn()
        except Retryable as error:
            return str(error)
        except OSError as error:
            return error.strerror or "the folder cannot be read"
        except Exception:  # what is wrong with one file must not end the daemon
            log.exception("static pods failed")
            return "failed"
        return ""

    async def turn(self) -> None:
        """Look once; the store and what the cloud is to hear are right afterwards. Raises Retryable, OSError."""
        if not self._begun:
            self._known = {name: Known(None, digest, pod) for name, digest, pod in self._held_files()}
            self._begun = True
        found = await asyncio.to_thread(_look, self._folder)
        for name in [name for name in self._known if name not in found]:
            del self._known[name]
        for name, signature in found.items():
            known = self._known.get(name)
            if known is None or known.signature != signature:
                await self._read(name, signature, known or Known(None))
        await self._apply(self._wanted())

    def _held_files(self) -> list[tuple[str, str, Json]]:
        out = []
        for pod in self._held().values():
            name, _, digest = str(pod["metadata"]["annotations"].get(MANIFEST, "")).rpartition("@")
            out.append((name, digest, pod))
        return out

    def _held(self) -> dict[tuple[str, str], Json]:
        pods = self._store.list(POD, None)
        return {_name(pod): pod for pod in pods if is_static(pod)}

    async def _read(self, name: str, signature: Signature, known: Known) -> None:
        try:
            content = await asyncio.to_thread(_content, self._folder / name)
            digest = sha256(content).hexdigest()[:32]
            if digest == known.digest and known.pod is not None:
                self._known[name] = replace(known, signature=signature, trouble="")
                return
            answer = await manifests.parse(content)
            pod = adopted(answer.pod, self._node, answer.digest, f"{name}@{digest}")
        except BadManifest as error:
            where = f" line {error.line}" if error.line else ""
            await self._complain(name, signature, known, f"{self._folder / name}{where}: {error.message}")
        except ChildFailed as error:
            log.warning("static pod waits", file=self._folder / name, reason=error)  # read again at the next look
        except OSError as error:
            await self._complain(name, signature, known, f"{self._folder / name}: {error.strerror}")
        else:
            log.info("static pod read", file=self._folder / name, pod="/".join(_name(pod)))
            self._known[name] = Known(signature, digest, pod)

    async def _complain(self, name: str, signature: Signature, known: Known, text: str) -> None:
        if known.trouble != text:
            log.warning("static pod is bad", reason=text)
            said = events.Said("Warning", "BadStaticPod", text[:1000])
            body = events.body(self._node, said, rfc3339(self._clock.wall()))
            await self._db.tx(lambda tx: self._outbox.put_message(tx, events.KIND, body))
        self._known[name] = replace(known, signature=signature, trouble=text)

    def _wanted(self) -> dict[tuple[str, str], Json]:
        out: dict[tuple[str, str], Json] = {}
        shadowed: dict[str, str] = {}
        for file, known in sorted(self._known.items()):
            if known.pod is None:
                continue
            name = _name(known.pod)
            foreign = self._store.get(POD, *name)
            if name in out:
                shadowed[file] = f"another file in {self._folder} makes pod {'/'.join(name)}"
            elif foreign is not None and not is_static(foreign):
                shadowed[file] = f"pod {'/'.join(name)} comes from the API"
            else:
                out[name] = known.pod
        for file in shadowed.keys() - self._shadowed.keys():
            log.warning("static pod is not run", file=self._folder / file, reason=shadowed[file])
        self._shadowed = shadowed
        return out

    async def _apply(self, wanted: dict[tuple[str, str], Json]) -> None:
        held, mirrors = self._held(), self._mirrors()
        gone = [name for name in held if name not in wanted]
        new = [pod for name, pod in wanted.items() if name not in held or _differs(held[name], pod)]
        told = {key: what for key, what in self._to_tell(wanted, mirrors).items() if self._told.get(key) != what}
        if not (gone or new or told):
            return

        def write(tx: Tx) -> None:
            for namespace, name in gone:
                self._store.remove(tx, POD, namespace, name)
            for pod in new:
                self._put(tx, pod)
            for key, what in told.items():
                self._tell(tx, key, what, wanted)

        await self._db.tx(write)
        self._told |= told

    def mirrors_changed(self) -> None:
        """A mirror appeared or went. Told at each change, so that one that lived between two looks is made again, too."""
        now = set(self._mirrors())
        for key in self._seen - now:
            self._told.pop(key, None)
        self._seen = now

    def _to_tell(self, wanted: Mapping[tuple[str, str], Json], mirrors: Mapping[str, str]) -> dict[str, str]:
        """Return key -> ``+HASH`` of a mirror to make, again when somebody deleted it; ``-UID`` of one to delete."""
        names = {_key(*name): pod for name, pod in wanted.items()}
        self.mirrors_changed()
        self._told = {key: what for key, what in self._told.items() if key in names or key in mirrors}
        out = {key: f"-{uid}" for key, uid in mirrors.items() if key not in names}
        return out | {key: f"+{pod['metadata']['annotations'][HASH]}" for key, pod in names.items()}

    def _put(self, tx: Tx, pod: Json) -> None:
        namespace, name = _name(pod)
        before = self._store.peek(POD, namespace, name)
        if before is not None and before.object["metadata"].get("uid") != pod["metadata"]["uid"]:
            self._store.remove(tx, POD, namespace, name)  # watchers see the end of the old one
            before = None
        kept: Json = {}
        created = rfc3339(self._clock.wall())
        if before is not None:
            kept = {"status": before.object["status"]} if "status" in before.object else {}
            created = before.object["metadata"].get("creationTimestamp", created)
        self._store.put(tx, POD, {**pod, **kept, "metadata": {**pod["metadata"], "creationTimestamp": created}})

    def _tell(self, tx: Tx, key: str, what: str, wanted: Mapping[tuple[str, str], Json]) -> None:
        namespace, name = _of_key(key)
        if what.startswith("+"):
            body = canonical.encode({"pod": mirror_of(wanted[namespace, name])})
            if len(body) <= MAX_MIRROR_BYTES:
                self._outbox.put_message(tx, MIRRORED, body)
            else:
                log.warning("static pod has no mirror: it is too large", pod=f"{namespace}/{name}", bytes=len(body))
        else:
            gone = canonical.encode({"namespace": namespace, "name": name, "uid": what[1:]})
            self._outbox.put_message(tx, GONE, gone)


def adopted(pod: Json, node: str, digest: str, manifest: str) -> Json:
    """Return the pod as this node runs it: its name, a uid that lasts as long as its content, its marks (pure). Raises BadManifest."""
    metadata = pod["metadata"]
    name = f"{metadata['name']}-{node}"
    if len(name) > MAX_NAME:
        raise BadManifest(f"its name with the node's, {name[:40]}…, is longer than {MAX_NAME} characters")
    uid = sha256(f"{node}/{metadata['namespace']}/{name}/{digest}".encode()).hexdigest()
    annotations = {**(metadata.get("annotations") or {}), SOURCE: FILE, HASH: digest, MANIFEST: manifest}
    annotations.pop(MIRROR, None)
    kept = {"labels": metadata["labels"]} if metadata.get("labels") else {}
    tolerations = [t for t in pod["spec"].get("tolerations") or () if t != EVERYTHING]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "uid": f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:32]}",
            **kept,
            "annotations": annotations,
        },
        "spec": {**pod["spec"], "nodeName": node, "tolerations": [*tolerations, EVERYTHING]},
    }


def mirror_of(pod: Json) -> Json:
    """Return what the cloud shows of a static pod (pure)."""
    metadata = pod["metadata"]
    annotations = {key: text for key, text in metadata["annotations"].items() if key != MANIFEST}
    shown = {key: metadata[key] for key in ("name", "namespace", "labels") if key in metadata}
    spec = {key: value for key, value in pod["spec"].items() if key not in {"serviceAccountName", "serviceAccount"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**shown, "annotations": {**annotations, MIRROR: annotations[HASH]}},
        "spec": spec,
    }


def is_static(pod: Json) -> bool:
    """Whether a pod of the store comes from a file of this node."""
    return (pod["metadata"].get("annotations") or {}).get(SOURCE) == FILE


def _differs(held: Json, pod: Json) -> bool:
    marks = [(p["metadata"]["uid"], p["metadata"]["annotations"].get(MANIFEST)) for p in (held, pod)]
    return marks[0] != marks[1]


def _look(folder: Path) -> dict[str, Signature]:
    """Return the files of the folder, the first MAX_FILES by name; none when there is no folder."""
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    except FileNotFoundError:
        return {}
    if len(names) > MAX_FILES:
        log.warning("folder of static pods: the rest is not read", folder=folder, files=len(names), read=MAX_FILES)
    out = {}
    for name in names[:MAX_FILES]:
        try:
            status = (folder / name).stat()
        except OSError:  # gone meanwhile, or a link to nothing
            continue
        if stat.S_ISREG(status.st_mode):
            out[name] = Signature(status.st_ino, status.st_size, status.st_mtime_ns)
    return out


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(manifests.MAX_BYTES + 1)


def _name(pod: Json) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _key(namespace: str, name: str) -> str:
    return str(ObjectKey("", "pods", namespace, name))


def _of_key(key: str) -> tuple[str, str]:
    found = parse_key(key)
    return found.namespace, found.name
