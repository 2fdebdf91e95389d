"""metrics.k8s.io/v1beta1: what nodes and pods use now, out of their kubelets' summaries. What ``kubectl top`` asks for.

A node that does not answer in time is left out, as a metrics server would do.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from kubeapi import tables
from kubeapi.errors import ApiError, not_found
from kubeapi.http import Request, Response
from kubeapi.objects import Objects
from kubeapi.resources import Resource
from kubeapi.routes.connecting import Connecting, ready
from kubeapi.routes.negotiation import Wanted, answer
from kubeapi.routes.reads import included, shaped
from kubeapi.routes.target import Target
from kubeapi.selectors import selector
from proto.kit.clock import Clock, rfc3339
from proto.kit.errors import SkerryError
from proto.kit.metrics import Counter

FRESH_S = 10.0  # one collection of figures serves everybody who asks within this time
PARALLEL_NODES = 16
NODE_TIMEOUT_S = 10.0
WINDOW = "10s"

Json = dict[str, Any]


@dataclass(slots=True)
class _Figures:
    """What one node said: its own usage, and that of its pods' containers."""

    at_s: float
    node: Json | None = None  # {"timestamp", "usage"}
    pods: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    timestamp: str = ""


class Usage:
    """Answers get and list of NodeMetrics and PodMetrics. ``missing`` counts nodes that were left out."""

    def __init__(self, objects: Objects, connecting: Connecting, clock: Clock, missing: Counter) -> None:
        self._objects, self._connecting, self._clock, self._missing = objects, connecting, clock, missing
        self._held: dict[str, _Figures] = {}
        self._turn = asyncio.Lock()  # who comes while figures are collected gets the same ones

    async def answer(self, target: Target, request: Request, asked: Wanted) -> Response:
        """Raises 400, 404."""
        found = await (self._nodes(target) if target.res.plural == "nodes" else self._pods(target))
        now = self._clock.wall()
        if target.name:
            if not found:
                raise not_found(target.res, target.name)
            return answer(request, asked, shaped(target.res, found[0], asked, target.query, now))
        return answer(request, asked, _list(target, found, asked, now))

    async def _nodes(self, target: Target) -> list[Json]:
        nodes = self._selected("nodes", target)
        figures = await self._collect(nodes)
        out = []
        for node in nodes:
            held = figures.get(node["metadata"]["name"])
            if held is not None and held.node is not None:
                out.append(_measured(target.res, node, held, {"usage": held.node}))
        return out

    async def _pods(self, target: Target) -> list[Json]:
        pods = [pod for pod in self._selected("pods", target) if (pod.get("spec") or {}).get("nodeName")]
        names = {pod["spec"]["nodeName"] for pod in pods}
        figures = await self._collect([node for node in self._all("nodes") if node["metadata"]["name"] in names])
        out = []
        for pod in pods:
            held = figures.get(pod["spec"]["nodeName"])
            containers = held.pods.get((pod["metadata"]["namespace"], pod["metadata"]["name"])) if held else None
            if held is not None and containers:
                out.append(_measured(target.res, pod, held, {"containers": containers}))
        return out

    def _resource(self, plural: str) -> Resource:
        res = self._objects.registry.find("", "v1", plural)
        assert res is not None
        return res

    def _all(self, plural: str) -> Iterable[Json]:
        return self._objects.store.list(self._resource(plural), None)

    def _selected(self, plural: str, target: Target) -> list[Json]:
        res = self._resource(plural)
        if target.name:
            found = self._objects.store.get(res, target.space, target.name)
            return [found] if found is not None else []
        query = target.query
        match = selector(res, query.text("labelSelector"), query.text("fieldSelector"))
        return [obj for obj in self._objects.store.list(res, target.namespace) if match is None or match(obj)]

    async def _collect(self, nodes: Iterable[Json]) -> dict[str, _Figures]:
        async with self._turn:
            fresh_s = self._clock.now_s() - FRESH_S
            self._held = {name: held for name, held in self._held.items() if held.at_s > fresh_s}
            due = [node for node in nodes if node["metadata"]["name"] not in self._held and ready(node)]
            gate = asyncio.Semaphore(PARALLEL_NODES)
            async with asyncio.TaskGroup() as group:
                for node in due:
                    group.create_task(self._ask(node, gate), name="node-figures")
            return dict(self._held)

    async def _ask(self, node: Json, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                async with asyncio.timeout(NODE_TIMEOUT_S):
                    raw = await self._connecting.summary(node)
                self._held[node["metadata"]["name"]] = _read(raw, self._clock)
            except (SkerryError, TimeoutError, msgspec.DecodeError, AttributeError, TypeError):  # or of another shape
                self._missing.inc()


def _read(raw: bytes, clock: Clock) -> _Figures:
    """Keep of a kubelet Summary what is shown here."""
    said = msgspec.json.decode(raw)
    if not isinstance(said, dict):
        raise msgspec.DecodeError("a summary is an object")
    out = _Figures(clock.now_s(), timestamp=rfc3339(clock.wall()))
    node = said.get("node")
    if isinstance(node, dict):
        out.node = _usage(node)
        out.timestamp = str((node.get("cpu") or {}).get("time") or out.timestamp)
    for pod in said.get("pods") or ():
        ref = pod.get("podRef") or {}
        containers = [(c.get("name", ""), _usage(c)) for c in pod.get("containers") or ()]
        out.pods[ref.get("namespace", ""), ref.get("name", "")] = [
            {"name": name, "usage": usage} for name, usage in containers if usage is not None
        ]
    return out


def _usage(part: Json) -> Json | None:
    """Return cpu and memory as quantities; None while a part has no figures yet."""
    cpu, memory = (part.get("cpu") or {}).get("usageNanoCores"), (part.get("memory") or {}).get("workingSetBytes")
    if not isinstance(cpu, int) or not isinstance(memory, int):
        return None
    return {"cpu": f"{cpu}n", "memory": f"{memory // 1024}Ki"}


def _measured(res: Resource, of: Json, held: _Figures, figures: Json) -> Json:
    metadata = {key: of["metadata"][key] for key in ("name", "namespace", "labels") if key in of["metadata"]}
    return {
        "kind": res.kind,
        "apiVersion": res.api_version,
        "metadata": {**metadata, "creationTimestamp": held.timestamp},
        "timestamp": held.timestamp,
        "window": WINDOW,
        **figures,
    }


def _list(target: Target, items: list[Json], asked: Wanted, now: datetime) -> Json:
    res, metadata = target.res, {"resourceVersion": ""}
    if asked.transform == "Table":
        include = included(target.query)
        return tables.table(res, items, now=now, version=asked.version, include=include, metadata=metadata)
    if asked.transform:
        raise ApiError(406, "NotAcceptable", f"{res.list_kind} is not served as {asked.transform}")
    return {"kind": res.list_kind, "apiVersion": res.api_version, "metadata": metadata, "items": items}
