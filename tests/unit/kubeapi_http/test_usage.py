"""metrics.k8s.io out of the kubelets' summaries."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi.kubelet import KubeletAccess
from kubeapi.server import ApiSettings
from tests.kit.kubelet import Kubelet, pod, serving_kubelet
from tests.unit.kubeapi_http.face import TABLE, Face, open_face, person
from tests.unit.kubeapi_streaming.node import ShellNode

METRICS = "/apis/metrics.k8s.io/v1beta1"


def figures(cores_nano: int, memory_bytes: int) -> dict[str, Any]:
    return {
        "cpu": {"time": "2026-01-01T00:00:00Z", "usageNanoCores": cores_nano},
        "memory": {"time": "2026-01-01T00:00:00Z", "workingSetBytes": memory_bytes},
    }


SUMMARY = {
    "node": {"nodeName": "gw-1", **figures(250_000_000, 512 << 20)},
    "pods": [
        {
            "podRef": {"name": "web", "namespace": "default", "uid": "x"},
            "containers": [{"name": "app", **figures(1_000_000, 8 << 20)}, {"name": "new"}],
        }
    ],
}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[Face, Kubelet]]:
    settings = ApiSettings(kubelet=KubeletAccess(None, connect_timeout_s=2.0))
    async with serving_kubelet(ShellNode().open) as kubelet, open_face(tmp_path, settings=settings) as face:
        kubelet.summary = json.dumps(SUMMARY).encode()
        for node in (kubelet.node(), kubelet.node("gw-2", ready="Unknown"), kubelet.node("gw-3")):
            await face.must("POST", "/api/v1/nodes", node)
            if node["metadata"]["name"] == "gw-3":
                node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] = 1
            await face.must("PUT", f"/api/v1/nodes/{node['metadata']['name']}/status", node)
        await face.must(
            "POST", "/api/v1/namespaces/default/pods", {**pod(), "metadata": {"name": "web", "labels": {"a": "b"}}}
        )
        yield face, kubelet


async def test_nodes_that_answer_are_listed_and_the_others_left_out(site: tuple[Face, Kubelet]) -> None:
    face, _ = site
    found = await face.must("GET", f"{METRICS}/nodes")
    assert (found["kind"], [item["metadata"]["name"] for item in found["items"]]) == ("NodeMetricsList", ["gw-1"])
    assert found["items"][0]["usage"] == {"cpu": "250000000n", "memory": "524288Ki"}
    missing = face.metrics.counter("skerry_kube_usage_missing_total", "")
    assert missing.value() == 1  # gw-3 said that it was there


async def test_pods_are_found_by_name_and_by_label(site: tuple[Face, Kubelet]) -> None:
    face, _ = site
    one = await face.must("GET", f"{METRICS}/namespaces/default/pods/web")
    assert one["containers"] == [{"name": "app", "usage": {"cpu": "1000000n", "memory": "8192Ki"}}]
    listed = [
        len((await face.must("GET", f"{METRICS}/{path}"))["items"])
        for path in ("pods", "namespaces/default/pods?labelSelector=a%3Db", "pods?labelSelector=a%3Dc")
    ]
    assert listed == [1, 1, 0]
    assert (await face.ask("GET", f"{METRICS}/namespaces/default/pods/nope")).status == 404


async def test_figures_are_collected_once_for_all_who_ask_within_seconds(site: tuple[Face, Kubelet]) -> None:
    face, kubelet = site
    for _ in range(3):
        await face.must("GET", f"{METRICS}/nodes/gw-1")
    assert kubelet.asked == ["/stats/summary"]
    face.clock.advance(11)
    await face.must("GET", f"{METRICS}/nodes/gw-1")
    assert kubelet.asked == ["/stats/summary"] * 2


async def test_usage_is_discoverable_and_has_a_table(site: tuple[Face, Kubelet]) -> None:
    """HTTP-9"""
    face, _ = site
    groups = [group["name"] for group in (await face.must("GET", "/apis"))["groups"]]
    assert "metrics.k8s.io" in groups
    table = (await face.ask("GET", f"{METRICS}/nodes", accept=TABLE)).value
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "CPU", "Memory", "Window"]


@pytest.mark.parametrize("summary", [b"no json", b"[]", b"{}", b'{"node":{"cpu":1}}', b'{"pods":[1]}'])
async def test_a_summary_that_says_nothing_is_no_figure(site: tuple[Face, Kubelet], summary: bytes) -> None:
    face, kubelet = site
    kubelet.summary = summary
    assert (await face.must("GET", f"{METRICS}/nodes"))["items"] == []


async def test_an_api_that_reaches_no_node_serves_no_usage(face: Face) -> None:
    assert (await face.ask("GET", f"{METRICS}/nodes")).status == 404
    assert "metrics.k8s.io" not in [group["name"] for group in (await face.must("GET", "/apis"))["groups"]]


async def test_a_viewer_of_a_namespace_sees_what_its_pods_use(site: tuple[Face, Kubelet]) -> None:
    face, _ = site
    viewer = person("viewer")
    path = f"{METRICS}/namespaces/default/pods"
    assert (await face.ask("GET", path, None, viewer)).status == 403
    binding = {
        "metadata": {"name": "viewer"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "viewer"}],
    }
    await face.must("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding)
    assert [item["metadata"]["name"] for item in (await face.must("GET", path, None, viewer))["items"]] == ["web"]
    assert (await face.ask("GET", f"{METRICS}/nodes", None, viewer)).status == 403
