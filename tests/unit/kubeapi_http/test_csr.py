"""Certificate requests: who asked, who may approve, what is signed (HTTP-10)."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi.controllers.csr import SigningRequest
from proto.kit.errors import Retryable, Terminal
from tests.kit.wait import eventually
from tests.unit.kubeapi_http.face import ADMIN, Face, open_face, person

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
PEM = b"-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n"
CLIENT = "kubernetes.io/kube-apiserver-client"
ANN = person("ann", "dev")


class Signer:
    """Signs with the name of who asked, unless told to fail."""

    def __init__(self) -> None:
        self.seen: list[SigningRequest] = []
        self.fail: Exception | None = None

    def __call__(self, request: SigningRequest) -> bytes:
        self.seen.append(request)
        if self.fail is not None:
            raise self.fail
        return b"certificate of " + request.username.encode()


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
async def signing(tmp_path: Path, signer: Signer) -> AsyncIterator[Face]:
    async with open_face(tmp_path, sign=signer) as face:
        yield face


def request(name: str = "r", signer: str = CLIENT, **spec: Any) -> dict[str, Any]:
    body = {"signerName": signer, "usages": ["client auth"], "request": base64.b64encode(PEM).decode(), **spec}
    return {"metadata": {"name": name}, "spec": body}


async def approve(face: Face, name: str = "r", kind: str = "Approved", who: Any = ADMIN) -> int:
    held = await face.must("GET", f"{CSRS}/{name}")
    held["status"] = {"conditions": [{"type": kind, "status": "True", "reason": "Test", "message": "m"}]}
    return (await face.ask("PUT", f"{CSRS}/{name}/approval", held, who)).status


async def status(face: Face, name: str = "r") -> dict[str, Any]:
    return dict((await face.must("GET", f"{CSRS}/{name}")).get("status") or {})


async def test_a_request_says_who_asked_whatever_it_claims(signing: Face) -> None:
    made = await signing.must("POST", CSRS, request(username="root", groups=["system:masters"]))
    assert made["spec"]["username"] == "admin"
    assert made["spec"]["groups"] == ["system:masters", "system:authenticated"]


async def test_an_approved_request_gets_its_certificate(signing: Face, signer: Signer) -> None:
    await signing.must("POST", CSRS, request(expirationSeconds=86400))
    assert await approve(signing) == 200
    await eventually(lambda: bool(signer.seen))
    await eventually(lambda: "certificate" in (signing.store.list(signing_kind(signing), None)[0].get("status") or {}))
    assert base64.b64decode((await status(signing))["certificate"]) == b"certificate of admin"
    assert signer.seen[0].request == PEM
    assert signer.seen[0].lifetime.days == 1


def signing_kind(face: Face) -> Any:
    return face.store.registry.find("certificates.k8s.io", "v1", "certificatesigningrequests")


async def test_a_denied_request_and_an_unknown_signer_are_left_alone(signing: Face, signer: Signer) -> None:
    await signing.must("POST", CSRS, request("denied"))
    await signing.must("POST", CSRS, request("foreign", "example.com/mine"))
    assert await approve(signing, "denied", "Denied") == 200
    assert await approve(signing, "foreign") == 200
    await signing.must("POST", CSRS, request("good"))
    assert await approve(signing, "good") == 200
    await eventually(lambda: bool(signer.seen))
    assert len(signer.seen) == 1


async def test_what_the_signer_refuses_fails_with_its_sentence(signing: Face, signer: Signer) -> None:
    signer.fail = Terminal("the key is too small")
    await signing.must("POST", CSRS, request())
    await approve(signing)
    kind = signing_kind(signing)
    await eventually(lambda: len(signing.store.list(kind, None)[0]["status"]["conditions"]) == 2)
    failed = (await status(signing))["conditions"][1]
    assert (failed["type"], failed["message"]) == ("Failed", "the key is too small")


async def test_what_the_signer_cannot_do_now_is_tried_again(signing: Face, signer: Signer) -> None:
    signer.fail = Retryable("no disk")
    await signing.must("POST", CSRS, request())
    await approve(signing)
    await eventually(lambda: bool(signer.seen))
    signer.fail = None
    await signing.must("POST", CSRS, request("other"))
    await approve(signing, "other")
    kind = signing_kind(signing)
    await eventually(lambda: all("certificate" in c["status"] for c in signing.store.list(kind, None)))


async def test_approving_needs_the_right_to_approve_for_the_signer(signing: Face) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    group = "certificates.k8s.io"
    rules = [{"verbs": ["update", "get"], "apiGroups": [group], "resources": ["certificatesigningrequests/approval"]}]
    await signing.must("POST", f"{rbac}/clusterroles", {"metadata": {"name": "a"}, "rules": rules})
    binding = {
        "metadata": {"name": "a"},
        "roleRef": {"kind": "ClusterRole", "name": "a"},
        "subjects": [{"kind": "User", "name": "ann"}],
    }
    await signing.must("POST", f"{rbac}/clusterrolebindings", binding)
    await signing.must("POST", CSRS, request())
    assert await approve(signing, who=ANN) == 403
    more = {"verbs": ["approve"], "apiGroups": [group], "resources": ["signers"], "resourceNames": ["kubernetes.io/*"]}
    await signing.must("PATCH", f"{rbac}/clusterroles/a", {"rules": [*rules, more]})
    assert await approve(signing, who=ANN) == 200


async def test_the_approval_door_writes_no_certificate_and_the_status_door_no_approval(face: Face) -> None:
    await face.must("POST", CSRS, request())
    held = await face.must("GET", f"{CSRS}/r")
    approved = {"type": "Approved", "status": "True"}
    certificate = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()
    await face.must("PUT", f"{CSRS}/r/status", {**held, "status": {"conditions": [approved]}})
    assert not (await status(face)).get("conditions")
    held = await face.must("GET", f"{CSRS}/r")
    await face.must(
        "PUT", f"{CSRS}/r/approval", {**held, "status": {"certificate": certificate, "conditions": [approved]}}
    )
    assert "certificate" not in await status(face)
    assert (await status(face))["conditions"][0]["type"] == "Approved"


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\n", b"x" * 100_000])
async def test_what_is_no_request_is_refused(face: Face, pem: bytes) -> None:
    refused = await face.ask("POST", CSRS, request(request=base64.b64encode(pem).decode()))
    assert refused.status == 422
    assert "spec.request" in refused.message
