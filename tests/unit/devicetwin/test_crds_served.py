"""Our CRDs on the embedded API: structural, validating, and v1alpha2 refused with a sentence."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudcore.device_admission import refuse_old_devices
from devicetwin.crds import load_crds
from devicetwin.lifecycle import Around, conditions, device_status
from devicetwin.merge import Wish, update
from devicetwin.model import GROUP
from kubeapi import kinds
from kubeapi.crds import Crds
from kubeapi.errors import ApiError
from kubeapi.objects import Objects, WriteOptions
from kubeapi.resources import Resource
from kubeapi.store import Store
from proto.kit.database import Database
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually
from tests.unit.devicetwin.test_merge import kiln

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
PLURALS = {"Device": "devices", "DeviceModel": "devicemodels", "DeviceStatus": "devicestatuses"}


class Api:
    def __init__(self, objects: Objects, namespace: str) -> None:
        self.objects, self.namespace = objects, namespace

    def find(self, kind: str, version: str = "v1beta1") -> Resource:
        found = self.objects.registry.find(GROUP, version, PLURALS[kind])
        assert found is not None
        return found

    async def create(self, obj: dict[str, Any], version: str = "v1beta1") -> dict[str, Any]:
        return await self.objects.create(self.find(obj["kind"], version), self.namespace, obj, WriteOptions())


@asynccontextmanager
async def open_api(folder: Path) -> AsyncIterator[Api]:
    clock = ManualClock()
    db = Database.open(folder / "kube.db")
    registry = kinds.registry()
    store = await Store.open(db, registry, clock)
    crds = Crds(store, registry, clock)
    crds.start()
    objects = Objects(store, registry, clock, admission=[crds.admit, refuse_old_devices], need_namespaces=False)
    try:
        for crd in load_crds():
            await objects.create(kinds.CUSTOM_RESOURCE_DEFINITION, "", crd, WriteOptions())
        await eventually(lambda: registry.find(GROUP, "v1beta1", "devicestatuses"))
        yield Api(objects, "default")
    finally:
        await db.close()


def of_devices(path: Path) -> list[dict[str, Any]]:
    """Return the documents of an example that are of our definitions; tests/e2e/test_examples.py runs them all."""
    return [obj for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")) if obj["kind"] in PLURALS]


WITH_DEVICES = [path for path in sorted(EXAMPLES.glob("*.yaml")) if of_devices(path)]


@pytest.mark.parametrize("path", WITH_DEVICES, ids=lambda p: p.name)
async def test_every_example_is_accepted_as_it_is(tmp_path: Path, path: Path) -> None:
    async with open_api(tmp_path) as api:
        for obj in of_devices(path):
            stored = await api.create(obj)
            assert stored["spec"] == obj["spec"]


async def test_a_status_from_the_edge_passes_the_schema_without_losing_a_field(tmp_path: Path) -> None:
    device = kiln({"setpoint": "900"})
    update(device, {"setpoint": Wish(reported="1", expected="2")}, 1_700_000_000_000)
    status = device_status(device, conditions(device, Around(), {}, "2026-01-01T00:00:00Z"))

    async with open_api(tmp_path) as api:
        made = await api.create(
            {"apiVersion": f"{GROUP}/v1beta1", "kind": "DeviceStatus", "metadata": {"name": "kiln"}}
        )
        body = {**made, "status": status}
        stored = await api.objects.update(
            api.find("DeviceStatus"), "default", "kiln", body, WriteOptions(), subresource="status"
        )

    assert stored["status"] == status


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"properties": [{"name": "t", "type": "REAL"}]}, "spec.properties[0].type"),
        ({"properties": [{"name": "t", "accessMode": "WriteOnly"}]}, "spec.properties[0].accessMode"),
        ({"properties": [{"name": "with space"}]}, "spec.properties[0].name"),
        ({"properties": [{"name": "t", "minimum": "cold"}]}, "spec.properties[0].minimum"),
        ({"properties": [{"type": "INT"}]}, "spec.properties[0].name"),
        ({"properties": [{"name": "t"}, {"name": "t"}]}, "spec.properties[1]"),
    ],
)
async def test_a_wrong_model_is_refused_with_the_field(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    async with open_api(tmp_path) as api:
        with pytest.raises(ApiError) as refusal:
            await api.create(
                {"apiVersion": f"{GROUP}/v1beta1", "kind": "DeviceModel", "metadata": {"name": "m"}, "spec": change}
            )

    assert refusal.value.status == 422
    assert field in str(refusal.value)


async def test_a_v1alpha2_document_is_refused_with_what_to_change(tmp_path: Path) -> None:
    document = {
        "apiVersion": f"{GROUP}/v1alpha2",
        "kind": "Device",
        "metadata": {"name": "old"},
        "spec": {"deviceModelRef": {"name": "m"}, "nodeSelector": {"nodeSelectorTerms": []}},
    }
    async with open_api(tmp_path) as api:
        with pytest.raises(ApiError) as refusal:
            await api.create(document, "v1alpha2")

    assert "spec.nodeSelector becomes spec.nodeName" in str(refusal.value)
