"""Who gets what at the embedded Kubernetes API: every identity against every verb and resource, over real TLS."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudcore import crds, revocation
from cloudcore.certs import Authority, CertificateRefused
from cloudcore.embedded_api import EmbeddedApi, sign
from cloudcore.kube.client import KubeClient
from cloudcore.kube.config import KubeAccess
from cloudcore.revocation import Revocations
from cloudcore.settings import Api
from cloudcore.sql import Sql
from kubeapi.controllers.csr import CLIENT, SigningRequest
from proto.kit import tls
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.httpclient import HttpClient, HttpUnreachable, HttpUntrusted
from proto.kit.metrics import Metrics

CLOCK = SystemClock()
DEVICES = "/apis/devices.kubeedge.io/v1beta1/namespaces/default"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NODES = "/api/v1/nodes"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
TLS_REFUSES = 0


@dataclass
class Cloud:
    """A served API and a client per identity."""

    url: str
    authority: Authority
    sql: Sql
    revocations: Revocations
    clients: dict[str, HttpClient] = field(default_factory=dict)

    def add(self, name: str, cert: bytes | None = None, key: bytes | None = None) -> None:
        self.clients[name] = HttpClient(self.url, tls=lambda: tls.client_context(cert, key, self.authority.ca_file))

    async def ask(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = msgspec.json.encode(body) if body is not None else b""
        try:
            answer = await self.clients[who].request(
                method, path, body=content, headers={"content-type": kind, **headers}
            )
        except (HttpUntrusted, HttpUnreachable):
            return TLS_REFUSES, b""
        return answer.status, answer.body


def device(name: str, node: str, model: str) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node,
            "deviceModelRef": {"name": model},
            "protocol": {"protocolName": "simulated"},
            "properties": [{"name": "t"}],
        },
    }


def model(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"protocol": "simulated", "properties": [{"name": "t", "type": "INT", "accessMode": "ReadOnly"}]},
    }


def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **more}


SEED = [
    (NODES, named("Node", "gw-1")),
    (NODES, named("Node", "gw-2")),
    ("/api/v1/namespaces/default/secrets", named("Secret", "mine")),
    ("/api/v1/namespaces/default/configmaps", named("ConfigMap", "settings")),
    (f"{DEVICES}/devicemodels", model("kiln-model")),
    (f"{DEVICES}/devicemodels", model("oven-model")),
    (f"{DEVICES}/devices", device("kiln", "gw-1", "kiln-model")),
    (f"{DEVICES}/devices", device("oven", "gw-2", "oven-model")),
]
LABEL = {"metadata": {"labels": {"a": "b"}}}
RESTRICTED = {"metadata": {"labels": {"node-restriction.kubernetes.io/zone": "x"}}}
LEASE = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "mine"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"kind": "User", "name": "system:node:gw-1", "apiGroup": "rbac.authorization.k8s.io"}],
}
# (allowed to gw-1, method, path, body)
ROWS: list[tuple[bool, str, str, Any]] = [
    (True, "GET", f"{NODES}/gw-1", None),
    (True, "PATCH", f"{NODES}/gw-1", LABEL),
    (True, "PATCH", f"{NODES}/gw-1/status", {"status": {"conditions": []}}),
    (True, "POST", LEASES, {**LEASE, "metadata": {"name": "gw-1", "namespace": "kube-node-lease"}}),
    (True, "GET", f"{DEVICES}/devices/kiln", None),
    (True, "GET", f"{DEVICES}/devicemodels/kiln-model", None),
    (True, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-1", None),
    (False, "GET", NODES, None),
    (False, "GET", f"{NODES}/gw-2", None),
    (False, "PATCH", f"{NODES}/gw-2", LABEL),
    (False, "PATCH", f"{NODES}/gw-2/status", {"status": {"conditions": []}}),
    (False, "DELETE", f"{NODES}/gw-2", None),
    (False, "DELETE", f"{NODES}/gw-1", None),
    (False, "POST", NODES, named("Node", "gw-3")),
    (False, "PATCH", f"{NODES}/gw-1", RESTRICTED),
    (False, "PATCH", f"{NODES}/gw-1", {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
    (False, "POST", LEASES, {**LEASE, "metadata": {"name": "gw-2", "namespace": "kube-node-lease"}}),
    (False, "GET", f"{DEVICES}/devices", None),
    (False, "GET", f"{DEVICES}/devices/oven", None),
    (False, "GET", f"{DEVICES}/devices?watch=true", None),
    (False, "PATCH", f"{DEVICES}/devices/kiln", {"spec": {"nodeName": "gw-2"}}),
    (False, "PATCH", f"{DEVICES}/devices/oven/status", {"status": {"state": "online"}}),
    (False, "PUT", f"{DEVICES}/devices/oven", device("oven", "gw-1", "oven-model")),
    (False, "POST", f"{DEVICES}/devices", device("mine", "gw-1", "kiln-model")),
    (False, "DELETE", f"{DEVICES}/devices/kiln", None),
    (False, "GET", f"{DEVICES}/devicemodels/oven-model", None),
    (False, "GET", f"{DEVICES}/devicemodels", None),
    (False, "GET", "/api/v1/namespaces/default/secrets/mine", None),
    (False, "GET", "/api/v1/secrets", None),
    (False, "GET", "/api/v1/namespaces/default/configmaps/settings", None),
    (False, "POST", "/api/v1/namespaces/default/secrets", named("Secret", "other")),
    (False, "GET", "/api/v1/pods", None),
    (False, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-2", None),
    (False, "POST", f"{RBAC}/clusterrolebindings", BINDING),
    (False, "GET", f"{RBAC}/clusterroles", None),
    (False, "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", None),
    (False, "DELETE", "/api/v1/namespaces/default", None),
]


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    authority = Authority.open_or_create(tmp_path / "pki", CLOCK)
    sql = Sql.open(f"sqlite:///{tmp_path / 'cloud.db'}")
    revocations = Revocations(sql, CLOCK)
    supervisor = Supervisor(CLOCK)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(sql.close)
        await sql.tx(lambda c: revocation.revoke(c, "gw-9", CLOCK.wall()))
        await revocations.load()
        options = Api(host="127.0.0.1", port=0)
        api = await EmbeddedApi.open(
            tmp_path, authority, revocations, options, clock=CLOCK, rng=Rng(1), metrics=Metrics()
        )
        stack.push_async_callback(api.close)
        pair = authority.server_certificate()
        port = await api.listen(tls.server_context(pair.cert, pair.key, authority.ca_file))
        made = Cloud(f"https://127.0.0.1:{port}", authority, sql, revocations)
        stack.push_async_callback(supervisor.close)
        await api.start(supervisor)
        _identities(made, tmp_path)
        await _seed(made, stack)
        yield made
        for client in made.clients.values():
            await client.close()


def _identities(cloud: Cloud, directory: Path) -> None:
    issue, nodes = cloud.authority.issue, ["system:nodes"]
    cloud.add("admin", *issue("admin", ["system:masters"]))
    cloud.add("gw-1", *issue("system:node:gw-1", nodes))
    cloud.add("gw-2", *issue("system:node:gw-2", nodes))
    cloud.add("revoked", *issue("system:node:gw-9", nodes))
    cloud.add("groupless", *issue("system:node:gw-1"))
    cloud.add("nameless", *issue("gw-1", nodes))
    cloud.add("expired", *issue("system:node:gw-1", nodes, days=-0.1))
    cloud.add("foreign", *Authority.open_or_create(directory / "other", CLOCK).issue("admin", ["system:masters"]))
    cloud.add("nobody")


async def _seed(cloud: Cloud, stack: AsyncExitStack) -> None:
    cert, key = cloud.authority.issue("admin", ["system:masters"])
    context = tls.client_context(cert, key, cloud.authority.ca_file)
    client = KubeClient(KubeAccess(server=cloud.url, context=lambda: context))
    stack.push_async_callback(client.close)
    await crds.apply(client, clock=CLOCK, rng=Rng(1))
    for path, body in SEED:
        status, answer = await cloud.ask("admin", "POST", path, body)
        assert status == 201, answer


async def test_a_node_gets_its_own_and_nothing_else(cloud: Cloud) -> None:
    wrong = []
    for allowed, method, path, body in ROWS:
        status, answer = await cloud.ask("gw-1", method, path, body)
        if (status in (200, 201)) is not allowed or (not allowed and status != 403):
            wrong.append((method, path, status, answer[:200]))
    assert not wrong


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("nobody", 403),
        ("revoked", 401),
        ("groupless", 403),
        ("nameless", 403),
        ("foreign", TLS_REFUSES),
        ("expired", TLS_REFUSES),
    ],
)
async def test_an_identity_that_is_nothing_gets_nothing(cloud: Cloud, who: str, expected: int) -> None:
    found = {(method, path): (await cloud.ask(who, method, path, body))[0] for _, method, path, body in ROWS}
    assert {row: status for row, status in found.items() if status != expected} == {}


async def test_a_watch_ends_with_its_node_s_rights(cloud: Cloud) -> None:
    own = f"{NODES}?watch=true&timeoutSeconds=86400&fieldSelector=metadata.name%3D"
    async with (
        cloud.clients["gw-1"].stream("GET", f"{own}gw-1") as staying,
        cloud.clients["gw-2"].stream("GET", f"{own}gw-2") as leaving,
    ):
        kept, ended = staying.chunks(), leaving.chunks()
        for chunks in (kept, ended):
            assert b"ADDED" in await anext(chunks)
        await cloud.sql.tx(lambda c: revocation.revoke(c, "gw-2", CLOCK.wall()))
        await cloud.revocations.load()
        with pytest.raises((HttpUnreachable, StopAsyncIteration)):
            await anext(ended)
        assert (await cloud.ask("gw-2", "GET", f"{NODES}/gw-2", None))[0] == 401
        assert (await cloud.ask("admin", "PATCH", f"{NODES}/gw-1", LABEL))[0] == 200
        assert b"MODIFIED" in await anext(kept)


async def test_another_node_gets_none_of_it(cloud: Cloud) -> None:
    own = {f"{NODES}/gw-2", f"{NODES}/gw-2/status", f"{DEVICES}/devices/oven", f"{DEVICES}/devicemodels/oven-model"}
    wrong = []
    for _, method, path, body in ROWS:
        if path.partition("?")[0] in own or "gw-2" in path or (body or {}).get("metadata", {}).get("name") == "gw-2":
            continue
        status, _answer = await cloud.ask("gw-2", method, path, body)
        wrong += [(method, path, status)] if status != 403 else []
    assert not wrong


async def test_bad_bearer_tokens_and_borrowed_names_are_refused(cloud: Cloud) -> None:
    for token in ("Bearer x", "Bearer ", "Basic YTpi", "Bearer " + "a.b.c", "Bearer " + "x" * 9000):
        status, _ = await cloud.ask("nobody", "GET", f"{NODES}/gw-1", authorization=token)
        assert status == 401, token
    borrowed = {"impersonate-user": "admin", "impersonate-group": "system:masters"}
    assert (await cloud.ask("gw-1", "GET", f"{NODES}/gw-2", **borrowed))[0] == 403


@pytest.mark.parametrize(
    ("user", "groups"),
    [
        ("system:node:gw-2", []),
        ("system:cloudcore", []),
        ("bob", ["system:masters"]),
        ("bob", ["system:nodes"]),
        ("bob", ["friends", "system:masters"]),
    ],
)
def test_a_signing_request_makes_nobody_a_node_an_administrator_or_the_cloud(
    tmp_path: Path, user: str, groups: list[str]
) -> None:
    authority = Authority.open_or_create(tmp_path, CLOCK)
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, user)])
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateRefused):
        sign(authority, SigningRequest(pem, CLIENT, "admin", (), ("client auth",), timedelta(days=1)))
    for name in ("cloudcore.skerry", "CLOUDCORE.skerry.", "*.skerry"):
        with pytest.raises(CertificateRefused, match="the cloud's own"):
            authority.sign_csr(pem, user="system:node:gw-1", sans=[name])
