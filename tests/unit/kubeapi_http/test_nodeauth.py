"""What a node may do: its own objects and what they refer to; nothing of another node (HTTP-7)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from tests.unit.kubeapi_http.face import DEVICE_CRDS, Face, node, open_face, person

GW1, GW2 = node("gw-1"), node("gw-2")
NS = "/api/v1/namespaces/default"
DEVICES = "/apis/devices.kubeedge.io/v1beta1/namespaces/default"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}


def pod(name: str, on: str, secret: str) -> dict[str, object]:
    volume = {"name": "v", "secret": {"secretName": secret}}
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": f"{secret}-config", "key": "a"}}}]
    containers = [{"name": "c", "image": "i", "env": env}]
    return {"metadata": {"name": name}, "spec": {"nodeName": on, "containers": containers, "volumes": [volume]}}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Face]:
    """Two nodes, each with a pod, a secret, a ConfigMap, a device, its model and its status."""
    async with open_face(tmp_path) as face:
        for name in ("devices", "devicemodels", "devicestatuses"):
            await face.must("POST", CRDS, yaml.safe_load((DEVICE_CRDS / f"{name}.yaml").read_text()))
        for i in ("1", "2"):
            await face.must("POST", "/api/v1/nodes", {"metadata": {"name": f"gw-{i}"}})
            await face.must("POST", f"{NS}/secrets", {"metadata": {"name": f"s{i}"}})
            await face.must("POST", f"{NS}/configmaps", {"metadata": {"name": f"s{i}-config"}})
            await face.must("POST", f"{NS}/pods", pod(f"p{i}", f"gw-{i}", f"s{i}"))
            spec = {"nodeName": f"gw-{i}", "deviceModelRef": {"name": f"m{i}"}}
            protocol = {"protocol": {"protocolName": "simulated"}}
            await face.must("POST", f"{DEVICES}/devicemodels", {"metadata": {"name": f"m{i}"}, "spec": {}})
            await face.must("POST", f"{DEVICES}/devices", {"metadata": {"name": f"d{i}"}, "spec": {**spec, **protocol}})
            await face.must("POST", f"{DEVICES}/devicestatuses", {"metadata": {"name": f"d{i}"}})
        yield face


ALLOWED = [
    ("GET", "/api/v1/nodes/gw-1"),
    ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dgw-1"),
    ("GET", f"{NS}/pods/p1"),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-1"),
    ("GET", f"{NS}/secrets/s1"),
    ("GET", f"{NS}/configmaps/s1-config"),
    ("GET", f"{NS}/secrets?fieldSelector=metadata.name%3Ds1"),
    ("GET", f"{DEVICES}/devices/d1"),
    ("GET", f"{DEVICES}/devicemodels/m1"),
    ("GET", f"{DEVICES}/devicestatuses/d1"),
    ("GET", "/apis"),
    ("DELETE", f"{NS}/pods/p1"),
]
REFUSED = [
    ("GET", "/api/v1/services"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/nodes/gw-2"),
    ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dgw-2"),
    ("GET", "/api/v1/nodes?fieldSelector=metadata.name%21%3Dgw-2"),
    ("GET", "/api/v1/pods"),
    ("GET", f"{NS}/pods/p2"),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-2"),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dgw-1"),
    ("GET", f"{NS}/secrets"),
    ("GET", f"{NS}/secrets/s2"),
    ("GET", f"{NS}/configmaps"),
    ("GET", f"{NS}/configmaps/s2-config"),
    ("GET", f"{DEVICES}/devices"),
    ("GET", f"{DEVICES}/devices/d2"),
    ("GET", f"{DEVICES}/devicemodels/m2"),
    ("GET", f"{DEVICES}/devicestatuses/d2"),
    ("GET", f"{DEVICES}/devicestatuses"),
    ("DELETE", f"{NS}/pods/p2"),
    ("DELETE", "/api/v1/nodes/gw-1"),
    ("DELETE", f"{DEVICES}/devices/d1"),
    ("DELETE", f"{NS}/secrets/s1"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), ALLOWED)
async def test_a_node_sees_its_own(site: Face, method: str, path: str) -> None:
    assert (await site.ask(method, path, who=GW1)).status == 200


@pytest.mark.parametrize(("method", "path"), REFUSED)
async def test_a_node_does_not_see_the_rest(site: Face, method: str, path: str) -> None:
    assert (await site.ask(method, path, who=GW1)).status == 403


async def test_a_node_name_without_the_group_is_nobody(site: Face) -> None:
    assert (await site.ask("GET", "/api/v1/nodes/gw-1", who=person("system:node:gw-1"))).status == 403
    assert (await site.ask("GET", "/api/v1/nodes/gw-1", who=person("gw-1", "system:nodes"))).status == 403


async def test_a_node_writes_the_status_of_its_own_devices(site: Face) -> None:
    status = {"status": {"reportToCloud": True}}
    assert (await site.ask("PATCH", f"{DEVICES}/devicestatuses/d1/status", status, GW1)).status == 200
    assert (await site.ask("PATCH", f"{DEVICES}/devicestatuses/d2/status", status, GW1)).status == 403
    assert (await site.ask("PATCH", f"{DEVICES}/devices/d1", {"metadata": {"labels": {"a": "b"}}}, GW1)).status == 403


async def test_a_node_registers_itself_and_nobody_else(site: Face) -> None:
    assert (await site.ask("POST", "/api/v1/nodes", {"metadata": {"name": "gw-3"}}, node("gw-3"))).status == 201
    refused = await site.ask("POST", "/api/v1/nodes", {"metadata": {"name": "gw-5"}}, node("gw-4"))
    assert refused.status == 403
    assert 'node "gw-4" is not allowed to modify node "gw-5"' in refused.message


async def test_a_node_writes_its_own_status_and_lease(site: Face) -> None:
    assert (await site.ask("PATCH", "/api/v1/nodes/gw-1/status", {"status": {"phase": "Running"}}, GW1)).status == 200
    assert (await site.ask("PATCH", "/api/v1/nodes/gw-2/status", {"status": {"phase": "Running"}}, GW1)).status == 403
    assert (await site.ask("POST", LEASES, {"metadata": {"name": "gw-1"}}, GW1)).status == 201
    assert (await site.ask("POST", LEASES, {"metadata": {"name": "gw-2"}}, GW1)).status == 403
    assert (await site.ask("GET", f"{LEASES}/gw-1", who=GW2)).status == 403


async def test_a_node_may_not_set_restricted_labels_or_taints(site: Face) -> None:
    label = {"metadata": {"labels": {"node-restriction.kubernetes.io/zone": "a"}}}
    assert (await site.ask("PATCH", "/api/v1/nodes/gw-1", label, GW1)).status == 403
    taint = {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}
    assert (await site.ask("PATCH", "/api/v1/nodes/gw-1", taint, GW1)).status == 403
    assert (await site.ask("PATCH", "/api/v1/nodes/gw-1", {"metadata": {"labels": {"a": "b"}}}, GW1)).status == 200


async def test_a_node_creates_only_mirror_pods_of_its_own(site: Face) -> None:
    plain = {"metadata": {"name": "x"}, "spec": {"nodeName": "gw-1", "containers": [{"name": "c", "image": "i"}]}}
    assert (await site.ask("POST", f"{NS}/pods", plain, GW1)).status == 403
    mirror = {**plain, "metadata": {"name": "x", "annotations": {"kubernetes.io/config.mirror": "h"}}}
    assert (await site.ask("POST", f"{NS}/pods", mirror, GW2)).status == 403
    thief = {**mirror, "spec": pod("x", "gw-1", "s2")["spec"]}
    assert (await site.ask("POST", f"{NS}/pods", thief, GW1)).status == 403
    assert (await site.ask("POST", f"{NS}/pods", mirror, GW1)).status == 201


ASKING = [
    {"serviceAccountName": "robot"},
    {"resourceClaims": [{"name": "gpu", "resourceClaimName": "one"}]},
    {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]},
    {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": CLAIM}}}]},
    {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]},
]


@pytest.mark.parametrize("spec", ASKING)
async def test_a_mirror_pod_refers_to_nothing(site: Face, spec: dict[str, object]) -> None:
    metadata = {"name": "x", "annotations": {"kubernetes.io/config.mirror": "h"}}
    asking = {"metadata": metadata, "spec": {"nodeName": "gw-1", "containers": [{"name": "c", "image": "i"}], **spec}}
    refused = await site.ask("POST", f"{NS}/pods", asking, GW1)
    assert (refused.status, "refer to no object of the API" in refused.message) == (403, True), refused.message


async def test_a_mirror_or_a_finished_pod_opens_no_account_and_no_secret(site: Face) -> None:
    space = "/api/v1/namespaces/kube-system"
    metadata = {"name": "x", "annotations": {"kubernetes.io/config.mirror": "h"}}
    mirror = {"metadata": metadata, "spec": {"nodeName": "gw-1", "containers": [{"name": "c", "image": "i"}]}}
    assert (await site.ask("POST", f"{space}/pods", mirror, GW1)).status == 201
    assert (await site.ask("POST", f"{space}/serviceaccounts/default/token", {}, GW1)).status == 403
    assert (await site.ask("GET", f"{space}/serviceaccounts/default", who=GW1)).status == 403

    assert (await site.ask("GET", f"{NS}/secrets/s1", who=GW1)).status == 200
    await site.must("PATCH", f"{NS}/pods/p1/status", {"status": {"phase": "Succeeded"}})
    assert (await site.ask("GET", f"{NS}/secrets/s1", who=GW1)).status == 403


@pytest.mark.parametrize(
    "label",
    ["node-role.kubernetes.io/control-plane", "kubernetes.io/hostname", "apps.kubeedge.io/belonging-to", "x.k8s.io/y"],
)
async def test_a_node_is_not_taken_for_another_by_its_labels(site: Face, label: str) -> None:
    change = {"metadata": {"labels": {label: "gw-2"}}}
    assert (await site.ask("PATCH", "/api/v1/nodes/gw-1", change, GW1)).status == 403


async def test_a_node_gets_tokens_for_accounts_of_its_pods_alone(site: Face) -> None:
    await site.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    assert (await site.ask("POST", f"{NS}/serviceaccounts/robot/token", {}, GW1)).status == 403
    await site.must("DELETE", f"{NS}/pods/p1", {"gracePeriodSeconds": 0})
    body = pod("p1", "gw-1", "s1")
    body["spec"] = {**body["spec"], "serviceAccountName": "robot"}  # type: ignore[dict-item]
    await site.must("POST", f"{NS}/pods", body)
    assert (await site.ask("POST", f"{NS}/serviceaccounts/robot/token", {}, GW1)).status == 201
    assert (await site.ask("POST", f"{NS}/serviceaccounts/robot/token", {}, GW2)).status == 403
