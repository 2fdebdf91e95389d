"""What stands in configMap, secret, downwardAPI and projected volumes, and tokens that live without a cloud (VOL-4)."""

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods.projected import File, Sources, common_user, files_of
from edgecore.pods.tokens import Tokens
from edgecore.pods.unready import Unready
from kubeapi.tokens import BadToken, TokenSigner
from tests.kit.clock import ManualClock
from tests.kit.pod_objects import FACTS, UID, HeldObjects, container, pod

Json = dict[str, Any]
KEY = b"k" * 32


class Room:
    def __init__(self) -> None:
        self.objects, self.clock = HeldObjects(), ManualClock()
        self.signer = TokenSigner(KEY, self.clock)
        self.tokens = Tokens(self.signer, self.objects)
        self.held: dict[str, bytes] = {}
        self.local_ca: bytes | None = None
        self.objects.put(
            "configmaps", "c", data={"a": "1", "b": "2"}, binaryData={"raw": base64.b64encode(b"\xff").decode()}
        )
        self.objects.put("secrets", "s", data={"pin": base64.b64encode(b"1234").decode()})
        self.objects.put("serviceaccounts", "robot")

    def files(self, volume: Json, **spec: Any) -> dict[str, File]:
        sources = Sources(self.objects, FACTS, self.tokens, lambda: self.local_ca, self.held.get)
        held = pod(metadata={"labels": {"app": "shop"}}, **{"serviceAccountName": "robot", **spec})
        return files_of(held, {"name": "v", **volume}, sources)

    def token(self, **source: Any) -> File:
        return self.files({"projected": {"sources": [{"serviceAccountToken": {"path": "token", **source}}]}})["token"]


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ({"configMap": {"name": "c"}}, {"a": (b"1", 0o644), "b": (b"2", 0o644), "raw": (b"\xff", 0o644)}),
        ({"configMap": {"name": "c", "defaultMode": 0o600, "items": [{"key": "a", "path": "d/x", "mode": 0o444}]}}, {"d/x": (b"1", 0o444)}),
        ({"configMap": {"name": "c", "optional": True, "items": [{"key": "none", "path": "x"}]}}, {}),
        ({"configMap": {"name": "none", "optional": True}}, {}),
        ({"secret": {"secretName": "s", "defaultMode": 0o400}}, {"pin": (b"1234", 0o400)}),
        ({"secret": {"secretName": "none", "optional": True}}, {}),
        (
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "mem", "mode": 0o400, "resourceFieldRef": {"containerName": "app", "resource": "limits.memory", "divisor": "1Gi"}},
            ]}},
            {"labels": (b'app="shop"', 0o644), "mem": (b"4", 0o400)},
        ),
        (
            {"projected": {"defaultMode": 0o440, "sources": [
                {"configMap": {"name": "c", "items": [{"key": "a", "path": "one"}]}},
                {"secret": {"name": "s", "items": [{"key": "pin", "path": "two", "mode": 0o400}]}},
                {"downwardAPI": {"items": [{"path": "three", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ]}},
            {"one": (b"1", 0o440), "two": (b"1234", 0o400), "three": (b"web", 0o440)},
        ),
    ],
)  # fmt: skip
def test_volumes_hold_what_their_sources_say(room: Room, volume: Json, expected: dict[str, tuple[bytes, int]]) -> None:
    assert {path: (f.content, f.mode) for path, f in room.files(volume).items()} == expected


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        ({"configMap": {"name": "c", "items": [{"key": "none", "path": "x"}]}}, "non-existent config key: none"),
        ({"configMap": {"name": "c", "items": [{"key": "a", "path": "../x"}]}}, "invalid path"),
        ({"configMap": {"name": "c", "items": [{"key": "a", "path": "/x"}]}}, "invalid path"),
        ({"configMap": {"name": "c", "items": [{"key": "a", "path": "..x"}]}}, "invalid path"),
        ({"configMap": {"name": "bad"}}, "not base64"),
        ({"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "spec.x"}}]}}, "unsupported fieldPath"),
        ({"downwardAPI": {"items": [{"path": "x", "resourceFieldRef": {"containerName": "no", "resource": "limits.cpu"}}]}}, "container no not found"),
        ({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}, "projected source clusterTrustBundle is not supported on this node"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_sentence(room: Room, volume: Json, words: str) -> None:
    room.objects.put("configmaps", "bad", binaryData={"x": "!"})

    with pytest.raises(ValueError, match=words):
        room.files(volume)


def test_the_root_ca_in_pods_is_that_of_the_node_s_own_api(room: Room) -> None:
    volume = {
        "projected": {
            "sources": [{"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]
        }
    }
    room.objects.put("configmaps", "kube-root-ca.crt", data={"ca.crt": "the cloud's"})
    assert room.files(volume)["ca.crt"].content == b"the cloud's"

    room.local_ca = b"the node's"
    assert room.files(volume)["ca.crt"].content == b"the node's"
    room.objects.held.clear()
    assert room.files(volume)["ca.crt"].content == b"the node's"


def test_a_token_names_pod_and_account_and_is_for_the_api(room: Room) -> None:
    token = room.token(expirationSeconds=3600).content.decode()

    claims = room.signer.read(token)
    assert claims["sub"] == "system:serviceaccount:default:robot"
    assert claims["kubernetes.io"]["pod"] == {"name": "web", "uid": UID}
    assert claims["exp"] - claims["iat"] == 3600
    with pytest.raises(BadToken):
        room.signer.read(room.token(audience="vault").content.decode())


def test_a_token_is_kept_until_80_percent_of_its_life(room: Room) -> None:
    first = room.held["token"] = room.token(expirationSeconds=1000).content
    room.clock.advance(790)
    assert room.token(expirationSeconds=1000).content == first

    room.clock.advance(20)
    second = room.token(expirationSeconds=1000).content
    assert second != first
    assert room.signer.read(second.decode())["exp"] == room.signer.now() + 1000


def test_a_long_token_is_renewed_after_a_day(room: Room) -> None:
    room.held["token"] = room.token(expirationSeconds=365 * 86400).content
    room.clock.advance(86401)

    assert room.token(expirationSeconds=365 * 86400).content != room.held["token"]


@pytest.mark.parametrize(
    "change", ["account made again", "another key", "clock set back", "garbage", "another audience"]
)
def test_a_token_that_no_longer_fits_is_made_again(room: Room, change: str) -> None:
    room.held["token"] = room.token().content
    audience = {}
    if change == "account made again":
        room.objects.put("serviceaccounts", "robot", metadata={"uid": "another"})
    elif change == "another key":
        room.tokens = Tokens(TokenSigner(b"x" * 32, room.clock), room.objects)
    elif change == "clock set back":
        room.clock.jump_wall(timedelta(days=-400))
    elif change == "garbage":
        room.held["token"] = b"\xff.\xfe.x"
    else:
        audience = {"audience": "vault"}

    assert room.token(**audience).content != room.held["token"]


def test_without_its_account_there_is_no_token(room: Room) -> None:
    del room.objects.held["serviceaccounts", "default", "robot"]

    with pytest.raises(Unready, match='serviceaccount "default/robot" not found'):
        room.token()


def test_a_token_is_readable_by_the_pod_s_one_user_only(room: Room) -> None:
    volume = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}

    plain = room.files(volume)["token"]
    user = room.files(volume, securityContext={"runAsUser": 5})["token"]
    group = room.files(volume, securityContext={"fsGroup": 5})["token"]

    assert [(f.mode, f.uid) for f in (plain, user, group)] == [(0o644, None), (0o600, 5), (0o600, None)]


@pytest.mark.parametrize(
    ("users", "shared", "common"),
    [((5, 5), None, 5), ((5, 6), None, None), ((5, None), None, None), ((None, None), 7, 7), ((5, None), 5, 5)],
)
def test_the_common_user_of_all_containers(
    users: tuple[int | None, ...], shared: int | None, common: int | None
) -> None:
    listed = [container(f"c{n}", securityContext={} if u is None else {"runAsUser": u}) for n, u in enumerate(users)]

    assert common_user(pod(*listed, securityContext={} if shared is None else {"runAsUser": shared})) == common


def test_the_key_is_made_once_and_kept_to_ourselves(tmp_path: Path, room: Room) -> None:
    from edgecore.data_dir import DataDir

    first = Tokens.open(DataDir(tmp_path), room.objects, room.clock)
    second = Tokens.open(DataDir(tmp_path), room.objects, room.clock)

    token = first.token("default", "robot", (), 3600, "web", UID)
    assert second.fresh(token, "default", "robot", (), UID)
    assert (tmp_path / "pki/service-account.key").stat().st_mode & 0o777 == 0o600
