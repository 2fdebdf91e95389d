"""Bodies in Kubernetes' protobuf: what they become, and what hostile ones cost (HTTP-12)."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi.errors import ApiError
from kubeapi.protobuf import MAX_VALUES, decode, known_kinds
from tests.unit.kubeapi_http.face import Face

PROTOBUF = "application/vnd.kubernetes.protobuf"


def varint(value: int) -> bytes:
    out = bytearray()
    value &= 0xFFFFFFFFFFFFFFFF
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def body(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\0" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw) + field(3, "") + field(4, "")


def metadata(name: str) -> bytes:
    zeros = field(2, "") + field(3, "") + field(4, "") + field(5, "") + field(6, "") + field(7, 0) + field(8, b"")
    return field(1, field(1, name) + zeros)


def test_zeros_that_go_always_writes_are_no_values() -> None:
    found = decode(body("v1", "ConfigMap", metadata("c") + field(2, field(1, "k") + field(2, "v"))))
    assert found == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "v"}}


def test_a_zero_that_was_meant_stays() -> None:
    found = decode(body("apps/v1", "Deployment", metadata("d") + field(2, field(1, 0) + field(5, 0))))
    assert found["spec"] == {"replicas": 0}  # minReadySeconds 0 is nothing, replicas 0 is an order


def test_bytes_are_base64_and_embedded_messages_are_their_parents_fields() -> None:
    secret = decode(
        body("v1", "Secret", metadata("s") + field(2, field(1, "k") + field(2, b"\xff\0")) + field(3, "Opaque"))
    )
    assert secret["data"] == {"k": base64.b64encode(b"\xff\0").decode()}
    volume = field(1, "v") + field(2, field(19, field(1, field(1, "cm"))))
    pod = decode(body("v1", "Pod", metadata("p") + field(2, field(1, volume))))
    assert pod["spec"]["volumes"] == [{"name": "v", "configMap": {"name": "cm"}}]


def test_special_forms_are_written_as_json_writes_them() -> None:
    stamp = field(8, field(1, 1_700_000_000))
    assert decode(body("v1", "ConfigMap", field(1, field(1, "c") + stamp)))["metadata"] == {
        "name": "c",
        "creationTimestamp": "2023-11-14T22:13:20Z",
    }
    owned = field(17, field(1, "m") + field(4, field(1, 5) + field(2, 999)) + field(7, field(1, b'{"f:a":{}}')))
    managed = decode(body("v1", "ConfigMap", field(1, field(1, "c") + owned)))["metadata"]["managedFields"]
    assert managed == [{"manager": "m", "time": "1970-01-01T00:00:05Z", "fieldsV1": {"f:a": {}}}]
    budget = field(2, field(1, field(1, 1) + field(2, 0) + field(3, "50%")))
    assert decode(body("policy/v1", "PodDisruptionBudget", metadata("p") + budget))["spec"] == {"minAvailable": "50%"}
    quota = field(2, field(1, field(1, "cpu") + field(2, field(1, "500m"))))
    assert decode(body("v1", "ResourceQuota", metadata("q") + quota))["spec"] == {"hard": {"cpu": "500m"}}


def test_delete_options_are_read_under_any_group() -> None:
    found = decode(body("apps/v1", "DeleteOptions", field(1, 0) + field(4, "Background")))
    assert found == {
        "apiVersion": "apps/v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
    }


def test_a_field_of_a_newer_version_is_skipped() -> None:
    assert decode(body("v1", "ConfigMap", metadata("c") + field(999, "new")))["metadata"] == {"name": "c"}


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"{}", "does not begin with k8s"),
        (b"k8s\0\xff", "not valid protobuf"),
        (b"k8s\0" + field(1, field(1, "v1") + field(2, "Pod")) + b"\x12\xff\x7f", "cut short"),
        (body("v1", "Nothing", b""), "Nothing of v1 is not read as protobuf"),
        (body("v1", "ConfigMap", field(1, 7)), "a number stands where bytes belong"),
        (body("v1", "ConfigMap", field(1, field(1, b"\xff"))), "not valid protobuf"),
        (body("v1", "Pod", field(2, field(1, b"") * (MAX_VALUES + 1))), "more than"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(raw: bytes, sentence: str) -> None:
    """API-15"""
    with pytest.raises(ApiError, match=sentence) as caught:
        decode(raw)
    assert caught.value.status in (400, 415)


def test_nesting_is_bounded() -> None:
    raw = b"{}"
    for _ in range(200):  # a raw extension may hold protobuf again
        raw = body("apps/v1", "ControllerRevision", field(2, field(1, raw)))
    with pytest.raises(ApiError, match="nested deeper"):
        decode(raw)


@given(st.sampled_from(sorted(known_kinds())), st.binary(max_size=300))
def test_no_bytes_cause_anything_but_an_object_or_a_refusal(kind: str, raw: bytes) -> None:
    api_version, _, name = kind.rpartition("/")
    try:
        found: Any = decode(body(api_version, name, raw))
    except ApiError as error:
        found = error.body()
    assert found["kind"] in (name, "Status")


async def test_a_protobuf_body_is_stored_like_a_json_one(face: Face) -> None:
    raw = body("v1", "ConfigMap", metadata("c") + field(2, field(1, "k") + field(2, "v")))
    path = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict"
    made = await face.ask("POST", path, raw, content_type=PROTOBUF)
    assert (made.status, made.value["data"]) == (201, {"k": "v"})
    options = body("v1", "DeleteOptions", field(4, "Foreground"))
    gone = await face.ask("DELETE", "/api/v1/namespaces/default/configmaps/c", options, content_type=PROTOBUF)
    assert gone.status == 200
