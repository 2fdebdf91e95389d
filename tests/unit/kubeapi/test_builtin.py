from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.controllers import expiry
from kubeapi.errors import ApiError
from kubeapi.resources import Resource
from proto.kit.metrics import Metrics
from tests.unit.kubeapi.api import CM, LEASE, NODE, POD, SECRET, SVC, Api, config_map

Json = dict[str, Any]
EVENT, VIEW, ROLE, BINDING = kinds.EVENT, kinds.EVENT_VIEW, kinds.ROLE, kinds.ROLE_BINDING
CSR = kinds.CERTIFICATE_SIGNING_REQUEST


def event(name: str, **fields: Any) -> Json:
    return {"metadata": {"name": name}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "R", **fields}


@pytest.mark.parametrize(
    ("res", "body", "status", "message"),
    [
        (CM, {"data": {"k": 1}}, 400, 'cannot be handled as a ConfigMap: data.k: Invalid value: "integer"'),
        (CM, {"data": {"a b": "x"}}, 422, "a valid key must consist of"),
        (SECRET, {"data": {"k": "not base64!"}}, 422, "put plain text under stringData"),
        (SECRET, {"type": "kubernetes.io/tls"}, 422, r"data\[tls.crt\]: Required value"),
        (SVC, {"spec": {"type": "Planet", "ports": [{"port": 1}]}}, 422, 'supported values: "ClusterIP"'),
        (SVC, {"spec": {}}, 422, "spec.ports: Required value"),
        (SVC, {"spec": {"ports": [{"port": 0}]}}, 422, "must be between 1 and 65535"),
        (POD, {"spec": {"containers": []}}, 422, "spec.containers: Required value"),
        (POD, {"spec": {"containers": [{"name": "c"}]}}, 422, r"containers\[0\].image: Required value"),
        (POD, {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "No"}}, 422, "restartPolicy"),
        (ROLE, {"rules": [{"resources": ["pods"]}]}, 422, "verbs"),
        (BINDING, {"roleRef": {"kind": "Thing", "name": "x"}}, 422, 'supported values: "ClusterRole", "Role"'),
        (CSR, {"spec": {"request": "", "signerName": ""}}, 422, "spec.request: Required value"),
        (LEASE, {"spec": {"leaseDurationSeconds": "x"}}, 400, "must be of type integer"),
    ],
)
async def test_a_built_in_that_cannot_work_is_refused_with_its_field(
    api: Api, res: Resource, body: Json, status: int, message: str
) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        await api.create(res, {"metadata": {"name": "x"}, **body})
    assert refused.value.status == status


async def test_strict_clients_find_the_fields_that_they_need(api: Api) -> None:
    node = await api.create(NODE, {"metadata": {"name": "n"}})
    service = await api.create(SVC, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
    assert len(node["status"]["nodeInfo"]) == 10
    assert service["status"] == {"loadBalancer": {}}
    assert service["spec"]["ports"] == [{"protocol": "TCP", "port": 80, "targetPort": 80}]
    partial = await api.patch(NODE, "n", {"status": {"nodeInfo": {"kubeletVersion": "v1"}}}, "merge", "status")
    assert len(partial["status"]["nodeInfo"]) == 10


async def test_events_are_one_thing_in_two_groups(api: Api) -> None:
    await api.create(EVENT, event("e1", message="hot"))
    seen = api.objects.get(VIEW, "default", "e1")
    assert (seen["apiVersion"], seen["note"], seen["regarding"]["name"]) == ("events.k8s.io/v1", "hot", "p")
    body = {
        "metadata": {"name": "e2"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "note": "n",
        "regarding": {"name": "p"},
    }
    await api.create(VIEW, body)
    core = api.objects.get(EVENT, "default", "e2")
    assert (core["apiVersion"], core["message"], core["involvedObject"]) == ("v1", "n", {"name": "p"})


async def test_old_events_and_too_many_events_go(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.create(EVENT, event("old"))
    api.clock.advance(3700)
    for i in range(4):
        await api.create(EVENT, event(f"new{i}"))
    await api.controllers.expiry.sweep()
    assert api.names(EVENT) == ["new0", "new1", "new2", "new3"]
    monkeypatch.setattr(expiry, "MAX_EVENTS", 2)
    await api.controllers.expiry.sweep()
    assert api.names(EVENT) == ["new2", "new3"]
    assert api.controllers.expiry.expired == 3


async def test_a_resource_version_is_not_given_to_a_create(api: Api) -> None:
    body = config_map("a")
    body["metadata"]["resourceVersion"] = "5"
    with pytest.raises(ApiError, match="should not be set on objects to be created"):
        await api.create(CM, body)


async def test_the_store_shows_its_sizes(api: Api) -> None:
    metrics = Metrics()
    api.store.register(metrics)
    await api.create(CM, config_map("a"))
    await api.update(CM, "a", config_map("a", k="1"))
    text = metrics.render()
    assert "skerry_store_objects 2" in text
    assert "skerry_store_history_rows 1" in text
