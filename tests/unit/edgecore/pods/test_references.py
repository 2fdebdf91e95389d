"""Image references in full, and which credentials fit them."""

import base64
import json
from typing import Any

import pytest

from edgecore.pods.credentials import auth_of, fits, matching, of_pod
from edgecore.pods.references import parse
from edgecore.pods.runtime import Auth
from tests.kit.pod_objects import HeldObjects, container, pod

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("edge/app", "docker.io/edge/app:latest"),
        ("docker.io/edge/app:2", "docker.io/edge/app:2"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/edge/app", "docker.io/edge/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/edge/app:1", "localhost:5000/edge/app:1"),
        ("registry.example.com/a/b/c", "registry.example.com/a/b/c:latest"),
        (f"edge/app@{DIGEST}", f"docker.io/edge/app@{DIGEST}"),
        (f"edge/app:1@{DIGEST}", f"docker.io/edge/app:1@{DIGEST}"),
        ("[fd00::1]:5000/app:1", "[fd00::1]:5000/app:1"),
        ("a__b/c--d.e_f:V1.0_x", "docker.io/a__b/c--d.e_f:V1.0_x"),
    ],
)
def test_a_reference_stands_for_its_full_form(text: str, full: str) -> None:
    assert str(parse(text)) == full
    assert str(parse(full)) == full


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "Edge/App", "edge/App", "app:", "app:bad tag", "app@sha256:short", "app@", "-app", "edge//app", "/app",
        "a" * 300, "a" * 64, "edge/app:" + "t" * 129, "edge app", "http://example.com/app", "app:1:2", "edge/app/", "..", "a/../b",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid|must"):
        parse(text)


@pytest.mark.parametrize(
    ("key", "image", "fitting"),
    [
        ("https://index.docker.io/v1/", "busybox", True),
        ("docker.io", "edge/app", True),
        ("registry.example.com", "registry.example.com/app", True),
        ("https://registry.example.com/v2/", "registry.example.com/app", True),
        ("registry.example.com/edge", "registry.example.com/edge/app", True),
        ("registry.example.com/edge", "registry.example.com/edgeless/app", False),
        ("registry.example.com:5000", "registry.example.com/app", False),
        ("registry.example.com:5000", "registry.example.com:5000/app", True),
        ("registry.example.com", "registry.example.com:5000/app", True),
        ("*.example.com", "registry.example.com/app", True),
        ("*.example.com", "a.b.example.com/app", False),
        ("*.example.com", "example.com/app", False),
        ("reg*.example.com", "registry.example.com/app", True),
        ("docker.io", "registry.example.com/app", False),
    ],
)
def test_credentials_fit_by_registry_and_path(key: str, image: str, fitting: bool) -> None:
    assert fits(key, parse(image)) is fitting


def test_the_longest_match_comes_first_and_each_once() -> None:
    entries = [
        ("r.io", {"username": "all", "password": "1"}),
        ("r.io/edge/app", {"username": "app", "password": "2"}),
        ("https://r.io", {"username": "all", "password": "1"}),
        ("r.io/other", {"username": "no"}),
    ]

    assert [auth.username for auth in matching(entries, parse("r.io/edge/app:1"))] == ["app", "all"]


def test_an_entry_is_read_in_all_its_forms() -> None:
    coded = base64.b64encode(b"user:pass:word").decode()

    assert auth_of({"auth": coded}) == Auth("user", "pass:word")
    assert auth_of({"username": "u", "password": "p"}) == Auth("u", "p")
    assert auth_of({"identitytoken": "t"}) == Auth(identity_token="t")
    assert auth_of({"auth": "no base64 !", "username": "u"}) == Auth("u")
    assert "pass" not in repr(auth_of({"auth": coded}))


def secret(kind: str, key: str, content: Any) -> dict[str, Any]:
    return {"type": kind, "data": {key: base64.b64encode(json.dumps(content).encode()).decode()}}


def test_secrets_of_the_pod_or_else_of_its_account_are_used() -> None:
    objects = HeldObjects()
    entry = {"r.io": {"username": "u", "password": "p"}}
    objects.put("secrets", "new", **secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", {"auths": entry}))
    objects.put("secrets", "old", **secret("kubernetes.io/dockercfg", ".dockercfg", {"r.io": {"username": "old"}}))
    objects.put("serviceaccounts", "default", imagePullSecrets=[{"name": "old"}])
    image = parse("r.io/app")

    assert of_pod(pod(imagePullSecrets=[{"name": "new"}]), image, objects) == ([Auth("u", "p")], [])
    assert of_pod(pod(), image, objects) == ([Auth("old")], [])


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (None, "not found"),
        ({"type": "Opaque", "data": {}}, "its type is Opaque"),
        ({"type": "kubernetes.io/dockercfg", "data": {}}, "no key .dockercfg"),
        ({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "!"}}, "not JSON"),
        (secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", {"x": 1}), "names no registries"),
        (secret("kubernetes.io/dockercfg", ".dockercfg", ["hunter2"]), "names no registries"),
    ],
)
def test_a_useless_secret_is_told_without_its_content(held: dict[str, Any] | None, words: str) -> None:
    objects = HeldObjects()
    if held is not None:
        objects.put("secrets", "s", **held)

    auths, problems = of_pod(pod(container(), imagePullSecrets=[{"name": "s"}]), parse("app"), objects)

    assert auths == []
    assert words in problems[0]
    assert "hunter2" not in problems[0]
