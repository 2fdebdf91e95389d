"""DaemonSets: one pod on every node that may have it. Reads Node; writes DaemonSet status, Pod, ControllerRevision."""

from typing import Any

from kubeapi.controllers import parts, revisions
from kubeapi.controllers.failures import Failures
from kubeapi.controllers.index import Indexes, Place, controller_of
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.revisions import HASH
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import DAEMON_SET, NODE, POD
from kubeapi.label_selectors import label_test
from kubeapi.objects import Objects
from kubeapi.scheduling.facts import REQUIRED, Shape, read_shape, same_shape
from kubeapi.scheduling.filters import untolerated, wants_node
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
MANAGER = "daemonset-controller"
TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
HOST_TOLERATED = ("node.kubernetes.io/network-unavailable", "NoSchedule")


class Fit:
    """Which nodes one DaemonSet's pods run on; answers are kept until the node or the template changes."""

    def __init__(self, template: Json) -> None:
        self.template = template
        spec = template.get("spec") or {}
        self.tolerations = tolerations(spec)
        self._wants = wants_node(spec)
        self._name = spec.get("nodeName") or ""
        self._held: dict[str, tuple[Shape, bool, bool]] = {}

    def __call__(self, shape: Shape) -> tuple[bool, bool]:
        """Return (should run here, may go on running here)."""
        held = self._held.get(shape.name)
        if held is None or held[0] is not shape:
            held = self._held[shape.name] = (shape, *self.decide(shape))
        return held[1], held[2]

    def decide(self, shape: Shape) -> tuple[bool, bool]:
        """As the call, for a shape that is not the node's present one."""
        if (self._name and self._name != shape.name) or not self._wants(shape):
            return False, False
        stays = untolerated(self.tolerations, shape.taints, ("NoExecute",)) is None
        return stays and untolerated(self.tolerations, shape.taints) is None, stays


class DaemonSets:
    """Keeps the pods of every DaemonSet; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._pods, self._revisions = indexes.pods, indexes.revisions
        self._recorder = Recorder(objects, MANAGER)
        self._shapes: dict[str, Shape] = {}
        self._fits: dict[Place, Fit] = {}
        self._failures: Failures[tuple[str, str, str]] = Failures()  # by the set's uid, template and node
        self.worker: Worker[Place] = Worker("daemonsets", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(NODE, None):
            self._shapes[item.name] = read_shape(item.object)
        for item in self._store.items(DAEMON_SET, None):
            self.worker.add((item.namespace, item.name))
        self._store.listen(NODE, self._node_changed)
        self._store.listen(DAEMON_SET, self._changed)
        self._store.listen(POD, self._pod_changed)

    def _changed(self, event: Event) -> None:
        place = (event.stored.namespace, event.stored.name)
        if event.type == DELETED:
            self._fits.pop(place, None)
            uid = event.object["metadata"]["uid"]
            self._failures.drop(lambda key: key[0] == uid)
        elif not parts.only_status(event):
            self.worker.add(place)

    def _node_changed(self, event: Event) -> None:
        name, old = event.stored.name, self._shapes.get(event.stored.name)
        new = None if event.type == DELETED else read_shape(event.object)
        if old is not None and new is not None and same_shape(old, new):
            return
        if new is None:
            self._shapes.pop(name, None)
        else:
            self._shapes[name] = new
        for item in self._store.items(DAEMON_SET, None):
            fit = self._fit(item.object)
            if (old is None or fit.decide(old)) != (new is None or fit.decide(new)) or old is None or new is None:
                self.worker.add((item.namespace, item.name))

    def _pod_changed(self, event: Event) -> None:
        for pod in filter(None, (event.previous, event.object)):
            owner = controller_of(pod)
            namespace = pod["metadata"].get("namespace", "")
            if owner is None:
                labels = pod["metadata"].get("labels") or {}
                for item in self._store.items(DAEMON_SET, namespace) if labels else ():
                    if label_test(item.object["spec"].get("selector"))(labels):
                        self.worker.add((namespace, item.name))
            elif owner.get("kind") == "DaemonSet":
                self.worker.add((namespace, str(owner.get("name"))))

    def _fit(self, ds: Json) -> Fit:
        place = (ds["metadata"]["namespace"], ds["metadata"]["name"])
        held = self._fits.get(place)
        if held is None or held.template != ds["spec"]["template"]:
            held = self._fits[place] = Fit(ds["spec"]["template"])
        return held

    async def _make_right(self, place: Place) -> None:
        ds = self._store.get(DAEMON_SET, *place)
        if ds is None or parts.is_deleting(ds):
            return
        revision, held = await revisions.history(self._objects, self._revisions, DAEMON_SET, ds, MANAGER)
        hash_ = revision["metadata"]["labels"][HASH]
        pods = await parts.claim(self._objects, self._pods, POD, DAEMON_SET, ds, ds["spec"]["selector"])
        by_node = _by_node(pods)
        problem = await self._manage(ds, by_node, hash_)
        now_there = _by_node(self._pods.get(("owner", ds["metadata"]["uid"])))
        if not problem and ds["spec"]["updateStrategy"]["type"] == "RollingUpdate":
            await self._roll(ds, now_there, hash_)
        await self._say(place, ds, hash_)
        used = {
            (p["metadata"].get("labels") or {}).get(HASH, "") for p in self._pods.get(("owner", ds["metadata"]["uid"]))
        }
        await revisions.forget(self._objects, ds, held, used | {hash_})
        if problem:
            raise ApiError(503, "ServiceUnavailable", problem)

    async def _manage(self, ds: Json, by_node: dict[str, list[Json]], hash_: str) -> str:
        """Create where one lacks, delete where none may be or one has ended; returns what hindered it."""
        fit = self._fit(ds)
        surge = self._bounds(ds)[0]
        missing, surplus = [], []
        for name, shape in self._shapes.items():
            here = by_node.get(name, [])
            ended = [p for p in here if (p.get("status") or {}).get("phase") in parts.FINISHED]
            live = [p for p in here if p not in ended and not parts.is_deleting(p)]
            runs, stays = fit(shape)
            if runs and not here:
                missing.append(name)
            surplus += self._replaced(ds, name, ended, hash_, wanted=runs)
            if not stays:
                surplus += live
            elif len(live) > 1:
                surplus += _too_many(live, hash_, surging=bool(surge))
        surplus += [
            p
            for name, pods in by_node.items()
            if name not in self._shapes and name
            for p in pods
            if not parts.is_deleting(p)
        ]
        for pod in await parts.delete_all(self._objects, POD, surplus):
            self._recorder.normal(DAEMON_SET, ds, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
        return await self._create(ds, missing, hash_)

    def _replaced(self, ds: Json, node: str, ended: list[Json], hash_: str, *, wanted: bool) -> list[Json]:
        """Return the ended pods that go now. Where another follows, that waits longer each time: a node may refuse every one."""
        metadata = ds["metadata"]
        found = [p for p in ended if not parts.is_deleting(p)]
        if not found or not wanted:
            return found
        key, now_s = (metadata["uid"], hash_, node), self._objects.clock.now_s()
        wait_s = self._failures.wait_s(key, now_s)
        if wait_s > 0:
            self.worker.add_after((metadata["namespace"], metadata["name"]), wait_s)
            return []
        self._failures.note(key, now_s)
        for pod in found:
            why = (pod.get("status") or {}).get("reason") or "ended"
            text = f"Pod {pod['metadata']['name']} on node {node} is replaced: {why}"
            self._recorder.warning(DAEMON_SET, ds, "FailedDaemonPod", text)
        return found

    async def _create(self, ds: Json, names: list[str], hash_: str) -> str:
        bodies = [daemon_pod(ds, name, hash_, self._fit(ds).tolerations) for name in names]
        for body, outcome in zip(
            bodies,
            await parts.create_all(self._objects, POD, ds["metadata"]["namespace"], bodies, MANAGER),
            strict=False,
        ):
            if isinstance(outcome, ApiError):
                why = parts.unnamed(outcome, body)
                self._recorder.warning(DAEMON_SET, ds, "FailedCreate", f"Error creating: {why}")
                return why
            self._recorder.normal(DAEMON_SET, ds, "SuccessfulCreate", f"Created pod: {outcome['metadata']['name']}")
        return ""

    def _bounds(self, ds: Json) -> tuple[int, int]:
        """Return (maxSurge, maxUnavailable) over the nodes that should run the pod."""
        strategy = ds["spec"].get("updateStrategy") or {}
        rolling = strategy.get("rollingUpdate") or {}
        if strategy.get("type") != "RollingUpdate":
            return 0, 0
        fit = self._fit(ds)
        wanted = sum(1 for shape in self._shapes.values() if fit(shape)[0])
        return (
            parts.share(rolling.get("maxSurge", 0), wanted, up=True),
            parts.share(rolling.get("maxUnavailable", 1), wanted, up=True),
        )

    async def _roll(self, ds: Json, by_node: dict[str, list[Json]], hash_: str) -> None:
        """Replace pods of older templates within the bounds; what does not work anyway goes first and costs nothing."""
        surge, budget = self._bounds(ds)
        fit, now = self._fit(ds), self._objects.clock.wall()
        least_s = ds["spec"].get("minReadySeconds") or 0
        old, broken, more = [], [], []
        for name, shape in self._shapes.items():
            if not fit(shape)[0]:
                continue
            live = [p for p in by_node.get(name, []) if parts.is_active(p)]
            works = [p for p in live if parts.available_in_s(p, least_s, now) == 0]
            stale = [p for p in live if (p["metadata"].get("labels") or {}).get(HASH) != hash_]
            if surge:
                fresh = [p for p in live if p not in stale]
                if stale and not fresh:
                    more.append(name)
                elif stale and any(p in works for p in fresh):
                    broken += stale
                continue
            if not works:
                budget -= 1
                broken += stale
            else:
                old += stale
        await parts.delete_all(self._objects, POD, [*broken, *old[: max(0, budget)]])
        if more:
            running = sum(
                1 for name in self._shapes if len([p for p in by_node.get(name, []) if parts.is_active(p)]) > 1
            )
            await self._create(ds, more[: max(0, surge - running)], hash_)

    async def _say(self, place: Place, ds: Json, hash_: str) -> None:
        fit, now = self._fit(ds), self._objects.clock.wall()
        by_node = _by_node(self._pods.get(("owner", ds["metadata"]["uid"])))
        least_s = ds["spec"].get("minReadySeconds") or 0
        count = dict.fromkeys(("desired", "current", "wrong", "ready", "available", "updated"), 0)
        soonest: float | None = None
        for name, shape in self._shapes.items():
            live = [p for p in by_node.get(name, []) if parts.is_active(p)]
            if not fit(shape)[0]:
                count["wrong"] += bool(live)
                continue
            count["desired"] += 1
            if not live:
                continue
            count["current"] += 1
            oldest = min(live, key=lambda p: p["metadata"].get("creationTimestamp") or "")
            wait = parts.available_in_s(oldest, least_s, now)
            count["ready"] += wait is not None
            count["available"] += wait == 0
            count["updated"] += (oldest["metadata"].get("labels") or {}).get(HASH) == hash_
            if wait:
                soonest = wait if soonest is None else min(soonest, wait)
        status: Json = {
            "currentNumberScheduled": count["current"],
            "desiredNumberScheduled": count["desired"],
            "numberMisscheduled": count["wrong"],
            "numberReady": count["ready"],
            "observedGeneration": ds["metadata"].get("generation", 0),
        }
        short = {
            "updatedNumberScheduled": count["updated"],
            "numberAvailable": count["available"],
            "numberUnavailable": count["desired"] - count["available"],
        }
        await parts.write_status(self._objects, DAEMON_SET, ds, {**status, **{k: v for k, v in short.items() if v}})
        if soonest is not None:
            self.worker.add_after(place, soonest)


def tolerations(spec: Json) -> list[Json]:
    """Return the template's tolerations and those that every daemon pod has."""
    held = list(spec.get("tolerations") or ())
    for key, effect in (*TOLERATED, *((HOST_TOLERATED,) if spec.get("hostNetwork") else ())):
        toleration = {"key": key, "operator": "Exists", "effect": effect}
        if toleration not in held:
            held.append(toleration)
    return held


def daemon_pod(ds: Json, node: str, hash_: str, tolerated: list[Json]) -> Json:
    """Return the body of the pod for one node: its affinity names the node, the scheduler binds it."""
    number = str(ds["metadata"].get("generation", 1))
    labels = {HASH: hash_, "pod-template-generation": number}
    body = parts.pod_of(DAEMON_SET, ds, ds["spec"]["template"], **labels)
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    affinity = dict(body["spec"].get("affinity") or {})
    nodes = dict(affinity.get("nodeAffinity") or {})
    terms = (nodes.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    nodes[REQUIRED] = {
        "nodeSelectorTerms": [{**{k: v for k, v in t.items() if k != "matchFields"}, **here} for t in terms]
    }
    body["spec"] = {**body["spec"], "affinity": {**affinity, "nodeAffinity": nodes}, "tolerations": tolerated}
    return body


def node_of(pod: Json) -> str:
    """Return where a daemon pod is, or is meant to be."""
    spec = pod.get("spec") or {}
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def _by_node(pods: list[Json]) -> dict[str, list[Json]]:
    out: dict[str, list[Json]] = {}
    for pod in pods:
        out.setdefault(node_of(pod), []).append(pod)
    return out


def _too_many(live: list[Json], hash_: str, *, surging: bool) -> list[Json]:
    """Return who goes where two run: all but the oldest; while surging, the newest template's oldest stays too."""
    order = sorted(live, key=lambda p: (not p["spec"].get("nodeName"), p["metadata"].get("creationTimestamp") or ""))
    if not surging:
        return order[1:]
    fresh = [p for p in order if (p["metadata"].get("labels") or {}).get(HASH) == hash_]
    stale = [p for p in order if p not in fresh]
    return fresh[1:] + stale[1:]
