"""Whatever a client sends, it gets a Status with a reason; never a 500, never a hang, and the API lives (HTTP-2, HTTP-4)."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.kubeapi_http.conftest import serving
from tests.unit.kubeapi_http.face import Face

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NS = "/api/v1/namespaces/default"
FIELDS = (
    "metadata",
    "spec",
    "status",
    "rules",
    "roleRef",
    "subjects",
    "data",
    "deleteOptions",
    "target",
    "kind",
    "apiVersion",
)
PLACES = [
    ("POST", f"{NS}/configmaps"),
    ("POST", f"{NS}/pods"),
    ("POST", f"{NS}/services"),
    ("POST", f"{NS}/events"),
    ("POST", "/api/v1/nodes"),
    ("POST", "/api/v1/namespaces"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests"),
    ("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"),
    ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
    ("POST", "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"),
    ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
    ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews"),
    ("POST", f"{NS}/serviceaccounts/robot/token"),
    ("POST", f"{NS}/pods/p/eviction"),
    ("POST", f"{NS}/pods/p/binding"),
    ("PUT", f"{NS}/configmaps/a"),
    ("PATCH", f"{NS}/configmaps/a"),
    ("PATCH", "/api/v1/nodes/n/status"),
    ("DELETE", f"{NS}/configmaps/a"),
    ("DELETE", f"{NS}/configmaps"),
]
PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(PLACES),
    body=JSON | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5),
    patch=st.sampled_from(PATCHES),
    query=st.sampled_from(["", "?fieldManager=t", "?dryRun=All", "?fieldValidation=Strict&fieldManager=t"]),
)
async def test_no_body_makes_the_api_stumble(
    face: Face, place: tuple[str, str], body: object, patch: str, query: str
) -> None:
    await prepare(face)
    method, path = place
    kind = patch if method == "PATCH" else "application/json"
    answer = await face.ask(method, path + query, body, content_type=kind)
    assert answer.status < 500, answer.body
    assert isinstance(answer.value, dict)


async def prepare(face: Face) -> None:
    await face.ask("POST", f"{NS}/configmaps", {"metadata": {"name": "a"}})
    await face.ask("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    await face.ask("POST", "/api/v1/nodes", {"metadata": {"name": "n"}})
    await face.ask(
        "POST", f"{NS}/pods", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    )


QUERIES = (
    "watch",
    "limit",
    "continue",
    "labelSelector",
    "fieldSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(QUERIES), st.text(alphabet="abc019=!,()%-.<> \\", max_size=12), max_size=4))
async def test_no_query_makes_the_api_stumble(face: Face, fields: dict[str, str]) -> None:
    fields.pop("watch", None)
    query = "&".join(f"{key}={value.replace('%', '%25').replace('&', '')}" for key, value in fields.items())
    answer = await face.ask("GET", f"{NS}/configmaps?{query}")
    assert answer.status < 500 or answer.status == 504, answer.body


PARTS = (b"GET", b"POST", b" /a", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: x", b"Content-Length: 5", b"Content-Length: ",
         b"Transfer-Encoding: chunked", b"Transfer-Encoding: ", b"Expect: 100-continue", b"Connection: Upgrade", b"0\r\n\r\n",
         b"5\r\nhello\r\n", b"\x00", b"\xff\xfe", b"\t", b" ", b": ", b"\r\n\r\n", b"{}", b"Upgrade: h2c", b"FFFFFFFFFFFFFFFFF\r\n")  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
async def test_no_bytes_make_the_server_stumble(seed: int) -> None:
    rng = random.Random(seed)
    async with serving() as (server, raw):
        _, port = raw.writer.get_extra_info("peername")
        for _ in range(150):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 25))))
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 10)
            writer.close()
        await raw.send(b"GET /alive HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await raw.answer() == (200, b"GET /alive ")
        assert server.refused.value("http", "failed") == 0
        assert len(server.connections) == 1
