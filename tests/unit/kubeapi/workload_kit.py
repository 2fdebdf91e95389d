"""Words for tests of the workload controllers: nodes, pods and what a kubelet would say about them."""

from typing import Any

from kubeapi import kinds
from kubeapi.conditions import with_condition
from kubeapi.controllers import parts
from kubeapi.objects import DeleteOptions
from kubeapi.pod_admission import PodAdmission
from kubeapi.resources import Resource
from kubeapi.service_admission import ServiceAddresses
from kubeapi.storage_admission import StorageAdmission
from proto.kit.backoff import Rng
from tests.unit.kubeapi.api import NODE, POD, Api

Json = dict[str, Any]
CONTAINERS = [{"name": "c", "image": "app:1"}]


def node_body(name: str, *, cpu: str = "4", memory: str = "8Gi", pods: str = "110", **metadata: Any) -> Json:
    labels = {"kubernetes.io/hostname": name, **metadata.pop("labels", {})}
    return {
        "metadata": {"name": name, "labels": labels, **metadata},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": pods}},
    }


def pod_body(name: str, labels: Json | None = None, **spec: Any) -> Json:
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {"containers": CONTAINERS, **spec}}


def requesting(**amounts: str) -> list[Json]:
    return [{"name": "c", "image": "app:1", "resources": {"requests": amounts}}]


def workload(name: str, *, labels: Json | None = None, template: Json | None = None, **spec: Any) -> Json:
    chosen = labels or {"app": name}
    inner = {"metadata": {"labels": chosen}, "spec": {"containers": CONTAINERS, **(template or {})}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": chosen}, "template": inner, **spec}}


class Cluster:
    """An API with its controllers, and nodes whose kubelets do what the test says."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.objects = api.objects
        api.objects.admission += [PodAdmission(api.store, Rng(3)).admit, ServiceAddresses(api.store).admit]
        api.objects.admission.append(StorageAdmission(api.store).admit)

    async def start(self) -> None:
        await self.api.controllers.start()
        await self.settle()

    async def settle(self) -> None:
        """Let every controller finish what is due now."""
        await self.api.controllers.settle()
        await self.api.db.tx(lambda _: None)  # events are written behind
        assert self.api.controllers.failures == 0

    async def after(self, seconds: float) -> None:
        self.api.clock.advance(seconds)
        await self.settle()

    async def make(self, res: Resource, body: Json, namespace: str = "default") -> Json:
        made = await self.api.create(res, body, namespace)
        await self.settle()
        return self.api.store.get(res, namespace, made["metadata"]["name"]) or made

    async def add_nodes(self, *names: str, ready: bool = True, **facts: Any) -> None:
        for name in names:
            body = node_body(name, **facts)
            await self.api.create(NODE, body)
            await self.say_node(name, "True" if ready else "False", status=body["status"])
        await self.settle()

    async def say_node(self, name: str, ready: str, status: Json | None = None) -> None:
        held = self.get(NODE, name)
        conditions = (held.get("status") or {}).get("conditions") or []
        conditions = with_condition(conditions, "Ready", ready, "Test", "", self.api.clock.wall())
        whole = {**(held.get("status") or {}), **(status or {}), "conditions": conditions}
        await parts.write_status(self.objects, NODE, held, whole)
        await self.settle()

    def get(self, res: Resource, name: str, namespace: str = "default") -> Json:
        return self.objects.get(res, namespace if res.namespaced else "", name)

    def all(self, res: Resource) -> list[Json]:
        return self.api.store.list(res, None)

    def pods(self, **labels: str) -> list[Json]:
        found = self.all(POD)
        return [p for p in found if all((p["metadata"].get("labels") or {}).get(k) == v for k, v in labels.items())]

    def nodes_of(self, *pods: Json) -> list[str]:
        return [p["spec"].get("nodeName", "") for p in pods]

    async def run_pods(self, *chosen: Json, ready: str = "True") -> None:
        """Say, as a kubelet would, that these pods (all that have a node, when none is named) run."""
        for pod in chosen or tuple(p for p in self.pods() if p["spec"].get("nodeName") and parts.is_active(p)):
            now = self.api.clock.wall()
            status = pod.get("status") or {}
            conditions = with_condition(status.get("conditions") or (), "Ready", ready, "", "", now)
            ip = status.get("podIP") or f"10.1.0.{int(pod['metadata']['uid'][:4], 16) % 250 + 1}"
            said = {**status, "phase": "Running", "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}]}
            await parts.write_status(self.objects, POD, pod, said)
        await self.settle()

    async def end_pod(self, pod: Json, phase: str) -> None:
        await parts.write_status(self.objects, POD, pod, {**(pod.get("status") or {}), "phase": phase})
        await self.settle()

    async def stop_deleted(self) -> None:
        """Say, as a kubelet would, that pods that were told to stop have stopped."""
        for pod in [p for p in self.pods() if parts.is_deleting(p)]:
            metadata = pod["metadata"]
            opts = DeleteOptions(grace_period_s=0, uid=metadata["uid"])
            await self.objects.delete(POD, metadata["namespace"], metadata["name"], opts)
        await self.settle()

    async def roll(self, turns: int = 30) -> None:
        """Let kubelets run everything placed and stop everything deleted, until nothing changes."""
        for _ in range(turns):
            before = self.api.store.revision
            await self.run_pods()
            await self.stop_deleted()
            await self.after(1.0)
            if self.api.store.revision == before:
                return
        raise AssertionError("the cluster does not come to rest")

    def events(self, reason: str) -> list[str]:
        return [e["message"] for e in self.all(kinds.EVENT) if e["reason"] == reason]
