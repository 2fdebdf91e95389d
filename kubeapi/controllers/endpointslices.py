"""EndpointSlices and Endpoints of Services with a selector. Reads Service, Pod, Node; writes EndpointSlice and Endpoints."""

from collections.abc import Callable
from typing import Any

from kubeapi.controllers import endpoints, parts
from kubeapi.controllers.endpoints import Ports
from kubeapi.controllers.index import Index, Indexes, Place
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import ENDPOINT_SLICE, ENDPOINTS, NODE, POD, SERVICE
from kubeapi.metadata import generated_name
from kubeapi.objects import Objects, WriteOptions
from kubeapi.selectors import selects
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
SERVICE_NAME, MANAGED_BY = "kubernetes.io/service-name", "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
PER_SLICE = 100
MOST_MIRRORED = 1000  # addresses in an Endpoints object


def _slice_keys(obj: Json) -> list[Any]:
    labels = obj["metadata"].get("labels") or {}
    if labels.get(MANAGED_BY) != MANAGER:
        return []
    return [(obj["metadata"].get("namespace", ""), labels.get(SERVICE_NAME, ""))]


class EndpointSlices:
    """Keeps every Service's endpoints; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._pods = indexes.pods
        self._slices = Index(self._store, ENDPOINT_SLICE, _slice_keys)
        self._selectors: dict[str, dict[str, dict[str, str]]] = {}  # namespace -> service -> selector
        self.worker: Worker[Place] = Worker("endpointslices", self._make_right, objects.clock)

    def start(self) -> None:
        self._slices.start()
        for item in self._store.items(SERVICE, None):
            self._note(item.object)
            self.worker.add((item.namespace, item.name))
        self._store.listen(SERVICE, self._service_changed)
        self._store.listen(POD, self._pod_changed)
        self._store.listen(ENDPOINT_SLICE, self._slice_changed)

    def _note(self, service: Json) -> None:
        spec, metadata = service.get("spec") or {}, service["metadata"]
        wanted = spec.get("selector") if spec.get("type") != "ExternalName" else None
        self._selectors.setdefault(metadata["namespace"], {})[metadata["name"]] = wanted or {}

    def _service_changed(self, event: Event) -> None:
        if event.type == DELETED:
            self._selectors.get(event.stored.namespace, {}).pop(event.stored.name, None)
        else:
            self._note(event.object)
        self.worker.add((event.stored.namespace, event.stored.name))

    def _pod_changed(self, event: Event) -> None:
        old, new = event.previous, None if event.type == DELETED else event.object
        if old is not None and new is not None and endpoints.signature(old) == endpoints.signature(new):
            return
        namespace = event.stored.namespace
        for pod in filter(None, (old, new)):
            labels = pod["metadata"].get("labels") or {}
            for name, selector in self._selectors.get(namespace, {}).items():
                if selects(selector, labels):
                    self.worker.add((namespace, name))

    def _slice_changed(self, event: Event) -> None:
        """Somebody else's change of a slice is put right; what we wrote ourselves is right already."""
        for namespace, name in _slice_keys(event.object):
            self.worker.add((namespace, name))

    async def _make_right(self, place: Place) -> None:
        service = self._store.get(SERVICE, *place)
        held = self._slices.get(place)
        if service is None:  # the slices go with their owner; the mirror bears the service's name
            await self._drop_mirror(place)
            return
        if not self._selectors.get(place[0], {}).get(place[1]) or parts.is_deleting(service):
            return
        groups = self._groups(service)
        await self._write_slices(service, held, groups)
        await self._mirror(service, groups)

    def _groups(self, service: Json) -> list[tuple[Ports, list[Json]]]:
        """Return the endpoints by the ports that they have for this service."""
        metadata = service["metadata"]
        found = self._pods.selected(metadata["namespace"], {"matchLabels": service["spec"]["selector"]})
        out: dict[Ports, list[Json]] = {}
        for pod in found:
            if endpoints.serves(pod):
                made = endpoints.endpoint(service, pod, self._zone((pod.get("spec") or {}).get("nodeName") or ""))
                out.setdefault(endpoints.ports_for(service, pod), []).append(made)
        for group in out.values():
            group.sort(key=lambda e: str(e["targetRef"]["name"]))
        return sorted(out.items()) or [(_numbered(service), [])]

    def _zone(self, node: str) -> str:
        found = self._store.get(NODE, "", node) if node else None
        return str(((found or {"metadata": {}})["metadata"].get("labels") or {}).get(endpoints.ZONE, ""))

    async def _write_slices(self, service: Json, held: list[Json], groups: list[tuple[Ports, list[Json]]]) -> None:
        wanted = [
            (endpoints.slice_ports(ports), found[at : at + PER_SLICE])
            for ports, found in groups
            for at in range(0, max(1, len(found)), PER_SLICE)
        ]
        free = sorted(held, key=lambda s: s["metadata"]["name"])
        for ports, found in wanted:
            same = next((s for s in free if s.get("ports", []) == ports), None) or (free[0] if free else None)
            if same is None:
                await self._create_slice(service, ports, found)
                continue
            free.remove(same)
            await parts.change(self._objects, ENDPOINT_SLICE, same, _filled(ports, found, _labels(service)))
        await parts.delete_all(self._objects, ENDPOINT_SLICE, free)

    async def _create_slice(self, service: Json, ports: list[Json], found: list[Json]) -> None:
        metadata = service["metadata"]
        body = {
            "addressType": "IPv4",
            "metadata": {
                "name": generated_name(f"{metadata['name']}-", self._objects.rng),
                "labels": _labels(service),
                "ownerReferences": [parts.owner_reference(SERVICE, service)],
            },
            "ports": ports,
            "endpoints": found,
        }
        await self._objects.create(ENDPOINT_SLICE, metadata["namespace"], body, WriteOptions(field_manager=MANAGER))

    async def _mirror(self, service: Json, groups: list[tuple[Ports, list[Json]]]) -> None:
        metadata = service["metadata"]
        cut = [(ports, found[:MOST_MIRRORED]) for ports, found in groups]
        subsets = endpoints.subsets(cut)
        held = self._store.get(ENDPOINTS, metadata["namespace"], metadata["name"])
        labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != "service.kubernetes.io/headless"}
        if held is None:
            body = {"metadata": {"name": metadata["name"], "labels": labels}, "subsets": subsets}
            try:
                await self._objects.create(ENDPOINTS, metadata["namespace"], body, WriteOptions(field_manager=MANAGER))
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
            return

        def make(found: Json) -> Json:
            rest = {k: v for k, v in found.items() if k != "subsets"}
            return {**rest, **({"subsets": subsets} if subsets else {})}

        await parts.change(self._objects, ENDPOINTS, held, make)

    async def _drop_mirror(self, place: Place) -> None:
        held = self._store.get(ENDPOINTS, *place)
        if held is not None:
            await parts.delete_all(self._objects, ENDPOINTS, [held])


def _filled(ports: list[Json], found: list[Json], labels: dict[str, str]) -> Callable[[Json], Json]:
    return lambda held: {**held, "ports": ports, "endpoints": found, "metadata": {**held["metadata"], "labels": labels}}


def _labels(service: Json) -> dict[str, str]:
    metadata = service["metadata"]
    own = {SERVICE_NAME: metadata["name"], MANAGED_BY: MANAGER}
    headless = {"service.kubernetes.io/headless": ""} if (service.get("spec") or {}).get("clusterIP") == "None" else {}
    return {**(metadata.get("labels") or {}), **headless, **own}


def _numbered(service: Json) -> Ports:
    """Return the ports of a service without pods: those that need no pod to be known."""
    return endpoints.ports_for(service, {"spec": {}})
