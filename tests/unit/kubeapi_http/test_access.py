"""Who asks: certificates, tokens, impersonation, nobody (HTTP-5)."""

from pathlib import Path

import pytest

from kubeapi.http import PeerCertificate
from kubeapi.tokens import BadToken, TokenSigner, open_key
from tests.kit.clock import ManualClock
from tests.unit.kubeapi_http.face import ADMIN, Face, person

WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
NS = "/api/v1/namespaces/default"


async def whoami(face: Face, who: PeerCertificate | None, **headers: str) -> dict[str, object]:
    answer = await face.ask("POST", WHOAMI, {}, who, **headers)
    assert answer.status == 201, answer.body
    return dict(answer.value["status"]["userInfo"])


async def test_a_certificate_is_its_common_name_and_organizations(face: Face) -> None:
    found = await whoami(face, person("ann", "dev", "ops"))
    assert found == {"username": "ann", "groups": ["dev", "ops", "system:authenticated"]}


async def test_nobody_may_read_health_and_version_and_nothing_else(face: Face) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/version"):
        assert (await face.ask("GET", path, who=None)).status == 200
    for path in ("/api", "/apis", "/openapi/v3", "/metrics", "/", f"{NS}/configmaps"):
        assert (await face.ask("GET", path, who=None)).status == 403


async def test_an_expired_certificate_is_refused_even_on_an_open_connection(face: Face) -> None:
    soon = PeerCertificate("ann", ("system:masters",), "03", face.clock.wall().timestamp() + 10)
    assert (await face.ask("GET", "/api", who=soon)).status == 200
    face.clock.advance(11)
    refused = await face.ask("GET", "/api", who=soon)
    assert (refused.status, refused.reason) == (401, "Unauthorized")


async def test_a_revoked_certificate_is_refused_at_once(face: Face) -> None:
    face.revoked.add("ann")
    assert (await face.ask("GET", "/api", who=person("ann", "system:masters"))).status == 401


async def test_a_static_token_is_its_user(face: Face) -> None:
    assert (await whoami(face, None, authorization="Bearer letmein"))["username"] == "operator"


@pytest.mark.parametrize("header", ["Bearer nonsense", "Bearer a.b.c", "Basic YTpi", "Bearer", f"Bearer {'x' * 9000}"])
async def test_a_wrong_token_is_401_and_never_anonymous(face: Face, header: str) -> None:
    refused = await face.ask("GET", "/healthz", who=None, authorization=header)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_service_account_token_is_the_account_until_it_is_gone(face: Face) -> None:
    await face.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    made = await face.must("POST", f"{NS}/serviceaccounts/robot/token", {"spec": {"expirationSeconds": 600}})
    bearer = f"Bearer {made['status']['token']}"
    found = await whoami(face, None, authorization=bearer)
    assert found["username"] == "system:serviceaccount:default:robot"
    assert found["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    await face.must("DELETE", f"{NS}/serviceaccounts/robot")
    await face.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    assert (await face.ask("POST", WHOAMI, {}, None, authorization=bearer)).status == 401


async def test_a_service_account_token_expires(face: Face) -> None:
    await face.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    made = await face.must("POST", f"{NS}/serviceaccounts/robot/token", {"spec": {"expirationSeconds": 600}})
    face.clock.advance(601)
    answer = await face.ask("POST", WHOAMI, {}, None, authorization=f"Bearer {made['status']['token']}")
    assert answer.status == 401


async def test_a_token_bound_to_a_pod_ends_with_the_pod(face: Face) -> None:
    await face.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    await face.must(
        "POST", f"{NS}/pods", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    )
    bound = {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}}
    made = await face.must("POST", f"{NS}/serviceaccounts/robot/token", bound)
    bearer = f"Bearer {made['status']['token']}"
    assert (await whoami(face, None, authorization=bearer))["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]  # type: ignore[index]
    await face.must("DELETE", f"{NS}/pods/p", {"gracePeriodSeconds": 0})
    assert (await face.ask("POST", WHOAMI, {}, None, authorization=bearer)).status == 401


@pytest.mark.parametrize(
    "spec",
    [{"expirationSeconds": 5}, {"expirationSeconds": "long"}, {"audiences": "x"}, {"boundObjectRef": {"kind": "Node"}}],
)
async def test_a_wrong_token_request_is_refused(face: Face, spec: dict[str, object]) -> None:
    await face.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    refused = await face.ask("POST", f"{NS}/serviceaccounts/robot/token", {"spec": spec})
    assert refused.status in (400, 422)


async def test_a_token_review_reads_tokens(face: Face) -> None:
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    good = await face.must("POST", path, {"spec": {"token": "letmein"}})
    assert good["status"]["user"]["username"] == "operator"
    bad = await face.must("POST", path, {"spec": {"token": "wrong"}})
    assert bad["status"]["authenticated"] is False


async def test_a_token_for_another_audience_is_refused_here(face: Face) -> None:
    await face.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    made = await face.must("POST", f"{NS}/serviceaccounts/robot/token", {"spec": {"audiences": ["vault"]}})
    token = made["status"]["token"]
    assert (await face.ask("POST", WHOAMI, {}, None, authorization=f"Bearer {token}")).status == 401
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    assert (await face.must("POST", path, {"spec": {"token": token, "audiences": ["vault"]}}))["status"][
        "authenticated"
    ]


async def test_impersonation_needs_the_right_to_impersonate(face: Face) -> None:
    found = await whoami(face, ADMIN, impersonate_user="bob", impersonate_group="dev")
    assert found == {"username": "bob", "groups": ["dev", "system:authenticated"]}
    refused = await face.ask("POST", WHOAMI, {}, person("ann"), impersonate_user="bob")
    assert refused.status == 403
    assert (await face.ask("POST", WHOAMI, {}, ADMIN, impersonate_group="dev")).status == 400


async def test_impersonating_a_group_needs_the_right_for_the_group(face: Face) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"]}]
    await face.must("POST", f"{rbac}/clusterroles", {"metadata": {"name": "act"}, "rules": rules})
    binding = {
        "metadata": {"name": "act"},
        "roleRef": {"kind": "ClusterRole", "name": "act"},
        "subjects": [{"kind": "User", "name": "ann"}],
    }
    await face.must("POST", f"{rbac}/clusterrolebindings", binding)
    assert (await whoami(face, person("ann"), impersonate_user="bob"))["username"] == "bob"
    refused = await face.ask(
        "POST", WHOAMI, {}, person("ann"), impersonate_user="bob", impersonate_group="system:masters"
    )
    assert refused.status == 403


def test_a_signer_refuses_what_another_key_signed() -> None:
    clock = ManualClock()
    ours, theirs = TokenSigner(b"a" * 32, clock), TokenSigner(b"b" * 32, clock)
    claims = {"iss": ours.issuer, "aud": [ours.issuer], "nbf": 0, "exp": ours.now() + 60}
    assert ours.read(ours.sign(claims)) == claims
    with pytest.raises(BadToken):
        ours.read(theirs.sign(claims))


def test_a_token_without_a_signature_is_refused() -> None:
    signer = TokenSigner(b"a" * 32, ManualClock())
    unsigned = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0."
    with pytest.raises(BadToken):
        signer.read(unsigned)


def test_the_token_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = open_key(path)
    assert open_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


async def test_who_edits_a_namespace_may_act_as_its_accounts_and_as_no_others(face: Face) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    binding = {
        "metadata": {"name": "edits"},
        "roleRef": {"kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": "ann"}],
    }
    await face.must("POST", f"{rbac}/namespaces/default/rolebindings", binding)
    found = await whoami(face, person("ann"), impersonate_user="system:serviceaccount:default:builder")
    implied = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    assert found == {"username": "system:serviceaccount:default:builder", "groups": implied}
    for user, group in (
        ("system:serviceaccount:kube-system:builder", ""),
        ("system:serviceaccount:default:builder", "system:masters"),
        ("bob", ""),
    ):
        headers = {"impersonate_user": user, **({"impersonate_group": group} if group else {})}
        assert (await face.ask("POST", WHOAMI, {}, person("ann"), **headers)).status == 403
