"""The kubelet API of edges over HTTPS: a real API server for rights, a link in memory, an edge whose calls are canned."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudcore.certs import Authority
from cloudcore.controllers.nodes import EDGE_LABEL
from cloudcore.kube import config
from cloudcore.kube.resources import NODE, POD, Kind
from cloudcore.kubelet.access import Callers
from cloudcore.kubelet.address import KubeletAddress, address_of
from cloudcore.kubelet.server import KubeletApi
from kubeapi.kubelet import Endpoint, KubeletAccess, KubeletAway, ask, endpoint
from proto.calls import Call, CallRefused
from proto.kit import tls
from proto.kit.channels import STDOUT, Channels, local_pair
from proto.kit.clock import SystemClock
from proto.kit.httpclient import HttpClient, Response
from proto.kit.metrics import Metrics
from proto.labels import INTERNAL_IP
from proto.link.memory import MemoryBroker
from proto.link.streams import CloudStreams
from tests.kit import cloud as kit
from tests.kit import link
from tests.kit.wait import eventually

CLOCK = SystemClock()
ROLE = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
BINDING = Kind("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")


class Canned:
    """Answers every call with what it was."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def open(self, call: Call) -> Channels:
        self.calls.append(call)
        if call.container == "none":
            raise CallRefused(400, "BadRequest", "no such container here")
        near, far = local_pair()
        await near.write(STDOUT, f"{call.kind} of {call.pod or 'node'}\n".encode())
        await near.close()
        return far


@dataclass
class World:
    cloud: kit.Cloud
    canned: Canned
    port: int
    authority: Authority
    revoked: set[str]
    streams: CloudStreams

    async def by_name(self, host: str, path: str, file: Path) -> tuple[int, bytes]:
        """Ask as the embedded API does: the node's name goes into Host, the connection to this machine."""
        pair = self.authority.client_certificate(file.stem, "skerry-admin")
        access = KubeletAccess(tls.client_context(pair.cert, pair.key, self.authority.ca_file), dial="127.0.0.1")
        answer = await ask(access, Endpoint(host, self.port), "GET", path, [])
        body = await answer.text(1 << 20)
        answer.close()
        return answer.status, body

    async def get(self, path: str, *, file: Path | None = None, token: str = "") -> Response:
        own = config.load(file).context if file is not None else None
        context = own or (lambda: tls.client_context(ca=self.authority.ca_pem))
        client = HttpClient(f"https://127.0.0.1:{self.port}", tls=context, server_hostname=tls.SERVER_NAME)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            return await client.request("GET", path, headers=headers)
        finally:
            await client.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    canned, broker, revoked = Canned(), MemoryBroker(), set[str]()
    async with kit.running(tmp_path) as cloud:
        far = link.start_cloud(tmp_path / "link.db", broker)
        edge = link.start_edge(tmp_path / "edge.db", broker, calls=canned.open)
        callers = Callers(
            cloud.client, clock=CLOCK, foreign_ca=False, unwelcome=lambda peer: peer.common_name in revoked
        )
        api = KubeletApi(
            cloud.cluster,
            far.link.streams,
            callers.check,
            clock=CLOCK,
            metrics=Metrics(),
            unwelcome=lambda peer: peer.common_name in revoked,
        )
        authority = Authority.open_or_create(tmp_path / "pki", CLOCK)
        pair = authority.server_certificate()
        port = await api.start("127.0.0.1", 0, tls.server_context(pair.cert, pair.key, authority.ca_file))
        await fill(cloud)
        async with link.running(edge, far):
            await eventually(lambda: "gw-1" in far.link.sessions() and far.link.sessions()["gw-1"].connected)
            yield World(cloud, canned, port, authority, revoked, far.link.streams)
            await api.close()


async def fill(cloud: kit.Cloud) -> None:
    for name, labels in (("gw-1", {EDGE_LABEL: ""}), ("server-1", {})):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        await cloud.client.create(NODE, "", node)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"on-{name}"},
            "spec": {"nodeName": name, "containers": [{"name": "app", "image": "x"}]},
        }
        await cloud.client.create(POD, "default", pod)
    await eventually(lambda: cloud.cluster.nodes.get("", "gw-1") and cloud.cluster.pods.get("default", "on-gw-1"))


async def test_the_api_server_reads_logs_by_its_certificate(world: World, tmp_path: Path) -> None:
    answer = await world.get(
        "/containerLogs/default/on-gw-1/app?tailLines=3&follow=1", file=tmp_path / "admin.kubeconfig"
    )
    assert (answer.status, answer.body) == (200, b"logs of on-gw-1\n")
    (call,) = world.canned.calls
    assert (call.container, call.tail_lines, call.follow) == ("app", 3, True)


async def test_a_node_is_named_by_the_host_or_by_the_path(world: World, tmp_path: Path) -> None:
    admin = tmp_path / "admin.kubeconfig"
    assert await world.by_name("gw-1", "/stats/summary", admin) == (200, b"stats of node\n")
    assert await world.by_name("gw-1.edges.example", "/metrics/resource", admin) == (200, b"metrics of node\n")
    assert (await world.get("/nodes/gw-1/stats/summary", file=admin)).body == b"stats of node\n"
    answer = await world.get("/stats/summary", file=admin)
    assert (answer.status, answer.body) == (404, b"name the node: /nodes/NODE in front of the path\n")


async def test_who_is_asked_as_one_node_answers_for_no_other(world: World, tmp_path: Path) -> None:
    admin = tmp_path / "admin.kubeconfig"
    other = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-2", "labels": {EDGE_LABEL: ""}}}
    await world.cloud.client.create(NODE, "", other)
    await eventually(lambda: world.cloud.cluster.nodes.get("", "gw-2"))
    for path in ("/containerLogs/default/on-gw-1/app", "/nodes/gw-1/stats/summary"):
        status, _ = await world.by_name("gw-2", path, admin)
        assert status == 404
    assert world.canned.calls == []


@pytest.mark.parametrize("said", ["a\r\nContent-Length: 0\r\n\r\nGET /x HTTP/1.1", "a b", "", "[::1]", "-"])
def test_a_node_writes_nothing_into_a_request_by_its_address(said: str) -> None:
    addresses = [{"type": "Hostname", "address": said}, {"type": "InternalDNS", "address": "gw-1"}]
    found = endpoint({"metadata": {"name": "gw-1"}, "status": {"addresses": addresses}}, ("Hostname", "InternalDNS"))
    assert found.host == "gw-1"


async def test_a_ping_goes_to_the_node_and_back(world: World, tmp_path: Path) -> None:
    answer = await world.get("/nodes/gw-1/ping", file=tmp_path / "admin.kubeconfig")
    assert answer.status == 200
    assert b'"node":"gw-1"' in answer.body
    assert [call.kind for call in world.canned.calls] == ["ping"]


async def test_the_pods_of_a_node_are_its_own(world: World, tmp_path: Path) -> None:
    answer = await world.get("/nodes/gw-1/pods", file=tmp_path / "admin.kubeconfig")
    assert b'"on-gw-1"' in answer.body
    assert b'"on-server-1"' not in answer.body


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/containerLogs/default/none/app", 404, 'pods "none" not found'),
        ("/containerLogs/default/on-server-1/app", 404, "node server-1 is not an edge of this cloud"),
        ("/nodes/server-1/containerLogs/default/on-gw-1/app", 404, 'pods "on-gw-1" not found'),
        ("/exec/default/on-gw-1/not-its-uid/app?command=ls&output=1", 404, 'pods "on-gw-1" not found'),
        ("/containerLogs/default/on-gw-1/none", 400, "no such container here"),
        ("/containerLogs/default", 404, "404 page not found"),
        ("/nodes/server-1/stats/summary", 404, "node server-1 is not an edge of this cloud"),
        ("/nodes/gw-1/run/default/on-gw-1/app", 404, "404 page not found"),
    ],
)
async def test_what_is_not_there_is_said_in_a_line(
    world: World, tmp_path: Path, path: str, status: int, words: str
) -> None:
    answer = await world.get(path, file=tmp_path / "admin.kubeconfig")
    assert (answer.status, answer.body.decode().strip()) == (status, words)


async def test_nobody_and_a_user_without_rights_are_refused_before_anything_is_asked(
    world: World, tmp_path: Path
) -> None:
    path = "/containerLogs/default/on-gw-1/app"
    assert (await world.get(path)).status == 401
    assert (await world.get(path, token="made up")).status == 401
    answer = await world.get(path, file=tmp_path / "plain.kubeconfig")
    wanted = "Forbidden (user=skerry-cloudcore, verb=get, resource=nodes, subresource=proxy)\n"
    assert (answer.status, answer.body.decode()) == (403, wanted)
    assert world.canned.calls == []


async def test_rights_on_a_subresource_of_nodes_open_exactly_that(world: World) -> None:
    token = await account_with(world.cloud, ["nodes/stats"])
    assert (await world.get("/nodes/gw-1/stats/summary", token=token)).status == 200
    assert (await world.get("/nodes/gw-1/metrics/resource", token=token)).status == 403
    assert (await world.get("/containerLogs/default/on-gw-1/app", token=token)).status == 403


async def account_with(cloud: kit.Cloud, resources: list[str]) -> str:
    await cloud.client.create(ACCOUNT, "default", body_of(ACCOUNT, "prometheus"))
    rules = [{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]
    await cloud.client.create(ROLE, "", body_of(ROLE, "reader", rules=rules))
    subject = {"kind": "ServiceAccount", "name": "prometheus", "namespace": "default"}
    role = {"apiGroup": ROLE.group, "kind": "ClusterRole", "name": "reader"}
    await cloud.client.create(BINDING, "", body_of(BINDING, "reader", roleRef=role, subjects=[subject]))
    request = Kind("", "v1", "serviceaccounts/prometheus/token", "TokenRequest")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = await cloud.client.create(request, "default", body)
    return str(answer["status"]["token"])


def body_of(kind: Kind, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, **fields}


async def test_a_name_that_anybody_may_have_signed_is_no_api_server(world: World) -> None:
    pair = world.authority.client_certificate("fake", "kube-apiserver-kubelet-client", groups=())
    context = tls.client_context(pair.cert, pair.key, world.authority.ca_file)
    client = HttpClient(f"https://127.0.0.1:{world.port}", tls=lambda: context, server_hostname=tls.SERVER_NAME)
    answer = await client.request("GET", "/containerLogs/default/on-gw-1/app", headers={})
    await client.close()
    assert answer.status == 403


async def test_another_api_server_is_known_by_its_own_ca_and_name(world: World, tmp_path: Path) -> None:
    """As with kubeadm: kubelet.client_ca is the cluster's CA, and its API server is no member of system:masters."""
    cluster = Authority.open_or_create(tmp_path / "cluster", CLOCK)
    callers = Callers(world.cloud.client, clock=CLOCK, foreign_ca=True, unwelcome=lambda _: False)
    api = KubeletApi(
        world.cloud.cluster,
        world.streams,
        callers.check,
        clock=CLOCK,
        metrics=Metrics(),
        unwelcome=lambda _: False,
    )
    pair = world.authority.server_certificate()
    port = await api.start("127.0.0.1", 0, tls.server_context(pair.cert, pair.key, cluster.ca_file))
    server = cluster.client_certificate("api", "kube-apiserver-kubelet-client", groups=("kubeadm:cluster-admins",))
    ours = world.authority.client_certificate("ours", "skerry-admin")
    at, path = Endpoint("gw-1", port), "/containerLogs/default/on-gw-1/app"

    answer = await ask(
        KubeletAccess(tls.client_context(server.cert, server.key, world.authority.ca_file), dial="127.0.0.1"),
        at,
        "GET",
        path,
        [],
    )
    body = await answer.text(1000)
    answer.close()
    stranger = KubeletAccess(tls.client_context(ours.cert, ours.key, world.authority.ca_file), dial="127.0.0.1")
    with pytest.raises(KubeletAway):
        await ask(stranger, at, "GET", path, [])
    await api.close()

    assert (answer.status, body) == (200, b"logs of on-gw-1\n")


async def test_a_revoked_certificate_is_no_longer_let_in(world: World, tmp_path: Path) -> None:
    world.revoked.add("skerry-admin")
    answer = await world.get("/nodes/gw-1/pods", file=tmp_path / "admin.kubeconfig")
    assert answer.status == 401


def test_a_node_s_status_says_where_its_kubelet_api_is_and_keeps_the_edge_s_own_address() -> None:
    own = {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}, {"type": "Hostname", "address": "gw-1"}]}
    found = KubeletAddress("Hostname", "{node}.edges.example", 10003).patched("gw-1", own)
    assert found["addresses"] == [
        {"type": "InternalIP", "address": "10.0.0.7"},
        {"type": "Hostname", "address": "gw-1.edges.example"},
    ]
    assert found["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10003}}
    assert KubeletAddress("Hostname", "{node}.edges.example", 10003).patched("gw-1", found) == found


@pytest.mark.parametrize("preferred", ["InternalIP ExternalIP Hostname", "Hostname InternalDNS InternalIP ExternalDNS"])
def test_another_api_server_finds_cloudcore_whichever_address_it_prefers(preferred: str) -> None:
    said = [
        ("InternalIP", "10.0.0.7"),
        ("ExternalIP", "203.0.113.7"),
        ("InternalDNS", "gw-1.lan"),
        ("Hostname", "gw-1"),
    ]
    own = {"addresses": [{"type": kind, "address": address} for kind, address in said]}
    address = address_of("auto", "cloud.example", 10003, embedded=False, server="https://127.0.0.1:6443")

    found = address.patched("gw-1", own)

    at = endpoint({"metadata": {"name": "gw-1"}, "status": found}, tuple(preferred.split()))
    assert (at.host, at.port) == ("cloud.example", 10003)
    assert (address.hidden(own), address.hidden(found)) == ("10.0.0.7", "")


async def test_the_address_that_a_status_does_not_show_is_an_annotation(tmp_path: Path) -> None:
    async with kit.running(tmp_path) as cloud:
        nodes = cloud.hub.nodes
        nodes.serve_kubelets(KubeletAddress("Hostname", "cloud.example", 10003, only=True))
        await cloud.hub.replica.connected("gw-1", 1)
        own = {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}, {"type": "Hostname", "address": "gw-1"}]}
        await nodes.put_status("gw-1", own)
        found = await cloud.client.get(NODE, "", "gw-1")
    assert found["metadata"]["annotations"][INTERNAL_IP] == "10.0.0.7"
    assert found["status"]["addresses"] == [{"type": "Hostname", "address": "cloud.example"}]


@pytest.mark.parametrize(
    ("kind", "advertise", "embedded", "wanted"),
    [
        ("auto", "", True, ("InternalDNS", "{node}")),
        ("auto", "cloud.example", True, ("InternalDNS", "cloud.example")),
        ("auto", "", False, ("Hostname", "127.0.0.1")),
        ("InternalIP", "192.0.2.4", False, ("InternalIP", "192.0.2.4")),
        ("InternalDNS", "cloud.example", False, ("InternalDNS", "cloud.example")),
    ],
)
def test_the_address_is_chosen_by_whose_api_server_asks(
    kind: str, advertise: str, embedded: bool, wanted: tuple[str, str]
) -> None:
    found = address_of(kind, advertise, 10003, embedded=embedded, server="https://127.0.0.1:6443")
    assert (found.type, found.host) == wanted
