"""Logs, exec and port-forward through the API: the request goes on to the pod's node, bytes pass untouched (HTTP-11)."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kubeapi.kubelet import KubeletAccess
from kubeapi.server import ApiSettings
from tests.kit.kubelet import Kubelet, pod, serving_kubelet
from tests.kit.wait import eventually
from tests.unit.kubeapi_http.face import Face, open_face, person
from tests.unit.kubeapi_streaming.node import ShellNode

PODS = "/api/v1/namespaces/default/pods"
READER = {
    "rules": [{"apiGroups": [""], "resources": ["pods/exec", "pods/log"], "verbs": ["get"]}],
    "metadata": {"name": "reader"},
}
EVE = {"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}
BINDING = {
    "metadata": {"name": "eve"},
    "subjects": [EVE],
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
}
SERVICE = {
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
}
SLICE = {
    "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    "endpoints": [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "web"}}
    ],
}


class Site:
    """An API, a node behind it, a client."""

    def __init__(self, face: Face, node: ShellNode, kubelet: Kubelet, http: aiohttp.ClientSession) -> None:
        self.face, self.node, self.kubelet, self.http = face, node, kubelet, http

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.face.port}{path}"

    async def refused(self, path: str, status: int) -> str:
        answer = await self.face.ask("GET", path)
        assert answer.status == status, answer.body
        return answer.message

    async def put_node(self, node: dict[str, Any]) -> None:
        await self.face.must("PUT", "/api/v1/nodes/gw-1/status", node)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    node, settings = ShellNode(), ApiSettings(kubelet=KubeletAccess(None, connect_timeout_s=2.0))
    token = {"Authorization": "Bearer letmein"}
    async with (
        serving_kubelet(node.open) as kubelet,
        open_face(tmp_path, settings=settings) as face,
        aiohttp.ClientSession(headers=token, timeout=aiohttp.ClientTimeout(10)) as http,
    ):
        await face.must("POST", "/api/v1/nodes", kubelet.node())
        opened = Site(face, node, kubelet, http)
        await opened.put_node(kubelet.node())
        await face.must("POST", PODS, pod())
        yield opened


async def test_logs_go_to_the_kubelets_path_with_their_options(site: Site) -> None:
    async with site.http.get(site.url(f"{PODS}/web/log?tailLines=2&timestamps=true&pretty=true")) as answer:
        assert await answer.text() == "line 0\nline 1\nline 2\n"
        assert answer.content_type == "text/plain"
    assert site.kubelet.asked == ["/containerLogs/default/web/app"]
    assert (site.node.calls[0].tail_lines, site.node.calls[0].timestamps) == (2, True)


async def test_a_client_that_stops_following_ends_the_nodes_work(site: Site) -> None:
    answer = await site.http.get(site.url(f"{PODS}/web/log?follow=true"))
    assert await answer.content.readexactly(21) == b"line 0\nline 1\nline 2\n"
    answer.close()
    await eventually(lambda: site.node.running == 0)


async def test_exec_passes_bytes_both_ways_after_the_upgrade(site: Site) -> None:
    url = site.url(f"{PODS}/web/exec?command=cat&stdin=true&stdout=true")
    async with site.http.ws_connect(url, protocols=("v5.channel.k8s.io",)) as ws:
        assert ws.protocol == "v5.channel.k8s.io"
        await ws.send_bytes(b"\x00" + bytes(1 << 20))
        await ws.send_bytes(b"\xff\x00")
        found = [message.data async for message in ws]
    assert sum(len(data) - 1 for data in found if data[0] == 1) == 1 << 20
    assert json.loads(found[-1][1:])["status"] == "Success"


async def test_what_the_node_refuses_is_a_status_with_its_sentence(site: Site) -> None:
    """HTTP-4"""
    await site.face.must("POST", PODS, pod("missing"))
    assert await site.refused(f"{PODS}/missing/log", 404) == 'pods "missing" not found'
    assert "whole number" in await site.refused(f"{PODS}/web/log?tailLines=-1", 400)


async def test_which_container_is_meant_is_asked_when_nothing_says_it(site: Site) -> None:
    await site.face.must("POST", PODS, pod("two", containers=("app", "side")))
    message = await site.refused(f"{PODS}/two/log", 400)
    assert message == "a container name must be specified for pod two, choose one of: [app side]"
    assert await site.refused(f"{PODS}/two/log?container=x", 400) == "container x is not valid for pod two"
    chosen = {"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "side"}}}
    await site.face.must("PATCH", f"{PODS}/two", chosen)
    async with site.http.get(site.url(f"{PODS}/two/log")) as answer:
        assert answer.status == 200
    assert site.node.calls[-1].container == "side"


async def test_a_node_that_is_away_is_named_with_the_time(site: Site) -> None:
    await site.put_node({**site.kubelet.node(ready="Unknown"), "status": _elsewhere(site, ready="Unknown")})
    message = await site.refused(f"{PODS}/web/log", 503)
    assert message == "node gw-1 is away since 2026-01-01T00:00:00Z: its logs can be reached at the gateway"


async def test_a_kubelet_that_cannot_be_reached_is_said(site: Site) -> None:
    await site.put_node({**site.kubelet.node(), "status": _elsewhere(site, ready="True")})
    assert "node gw-1 cannot be asked: the kubelet at 127.0.0.1:1 cannot be reached" in await site.refused(
        f"{PODS}/web/log", 503
    )


def _elsewhere(site: Site, ready: str) -> dict[str, Any]:
    status: dict[str, Any] = site.kubelet.node(ready=ready)["status"]
    return {**status, "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}


async def test_a_pod_without_a_node_has_nobody_to_ask(site: Site) -> None:
    await site.face.must(
        "POST", PODS, {"metadata": {"name": "new"}, "spec": {"containers": [{"name": "a", "image": "x"}]}}
    )
    assert await site.refused(f"{PODS}/new/log", 400) == "pod new does not have a host assigned"


async def test_get_is_the_right_of_a_websocket_and_create_that_of_spdy(site: Site) -> None:
    """HTTP-6"""
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    await site.face.must("POST", f"{rbac}/roles", READER)
    await site.face.must("POST", f"{rbac}/rolebindings", BINDING)
    path = f"{PODS}/web/exec?command=cat&stdout=true"
    assert (await site.face.ask("GET", path, who=person("eve"))).status == 400  # allowed, but asks for no upgrade
    refused = await site.face.ask("POST", path, who=person("eve"))
    assert (refused.status, 'cannot create resource "pods/exec"' in refused.message) == (403, True)
    assert (await site.face.ask("GET", path, who=person("mallory"))).status == 403


async def test_the_nodes_proxy_reaches_its_kubelet(site: Site) -> None:
    site.kubelet.summary = b'{"node":{}}'
    async with site.http.get(site.url("/api/v1/nodes/gw-1/proxy/stats/summary?only_cpu=true")) as answer:
        assert await answer.text() == '{"node":{}}'
    assert site.kubelet.asked == ["/stats/summary"]


async def test_the_proxies_of_pods_and_services_go_through_the_nodes_port_forward(site: Site) -> None:
    await site.face.must("POST", "/api/v1/namespaces/default/services", SERVICE)
    await site.face.must("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", SLICE)
    for name in ("pods/web:8080", "services/web", "services/http:web:80"):
        async with site.http.get(site.url(f"/api/v1/namespaces/default/{name}/proxy/page/one?a=b")) as answer:
            assert (answer.status, await answer.text()) == (200, "GET /page/one?a=b HTTP/1.1")
    assert site.kubelet.asked == ["/portForward/default/web"] * 3
    await eventually(lambda: site.node.running == 0)


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("pods/web:81/proxy/", 503, "nothing listens on port 81"),
        ("pods/web:http/proxy/", 400, 'pod web has no port "http"'),
        ("pods/https:web:1/proxy/", 400, "only http is proxied"),
        ("services/web:99/proxy/", 400, "service web needs one of its ports: 80"),
        ("services/web/proxy/", 503, 'no endpoints available for service "web"'),
    ],
)
async def test_a_proxy_that_leads_nowhere_says_so(site: Site, path: str, status: int, sentence: str) -> None:
    await site.face.must("POST", "/api/v1/namespaces/default/services", SERVICE)
    assert sentence in await site.refused(f"/api/v1/namespaces/default/{path}", status)


async def test_a_nodes_own_api_asks_nobody_else(tmp_path: Path) -> None:
    node = ShellNode()
    async with open_face(tmp_path, settings=ApiSettings(open_call=node.open)) as face:
        await face.must("POST", PODS, pod())
        url = f"http://127.0.0.1:{face.port}{PODS}/web/log"
        headers = {"Authorization": "Bearer letmein"}
        async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
            assert await answer.text() == "line 0\nline 1\nline 2\n"


async def test_an_api_without_kubelets_says_so(tmp_path: Path) -> None:
    async with open_face(tmp_path) as face:
        await face.must("POST", "/api/v1/nodes", {"metadata": {"name": "gw-1"}})
        await face.must("POST", PODS, pod())
        answer = await face.ask("GET", f"{PODS}/web/log")
        assert (answer.status, "no way to reach kubelets" in answer.message) == (501, True)
