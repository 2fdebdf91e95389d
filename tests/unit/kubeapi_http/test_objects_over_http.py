"""Objects by path: verbs, answers, refusals, languages (HTTP-4)."""

import json

import pytest
import yaml

from tests.unit.kubeapi_http.face import ADMIN, TABLE, Face

CMS = "/api/v1/namespaces/default/configmaps"


async def test_create_answers_201_with_the_object(face: Face) -> None:
    made = await face.ask("POST", CMS, {"metadata": {"name": "a"}, "data": {"k": "v"}})
    assert made.status == 201
    assert made.value["metadata"]["namespace"] == "default"
    assert (await face.ask("GET", f"{CMS}/a")).value == made.value


async def test_a_missing_content_type_is_json(face: Face) -> None:
    assert (await face.ask("POST", CMS, {"metadata": {"name": "a"}})).status == 201


async def test_a_yaml_body_and_a_yaml_answer(face: Face) -> None:
    made = await face.ask(
        "POST", CMS, b"metadata: {name: a}\ndata: {k: v}\n", content_type="application/yaml", accept="application/yaml"
    )
    assert made.headers["Content-Type"] == "application/yaml"
    assert yaml.safe_load(made.body)["data"] == {"k": "v"}


async def test_a_cbor_body_is_refused_in_one_clear_sentence(face: Face) -> None:
    kind = "application/cbor"
    refused = await face.ask("POST", CMS, b"k8s\x00", content_type=kind)
    assert (refused.status, refused.reason) == (415, "UnsupportedMediaType")
    assert (
        refused.message == f"this server does not read bodies of type {kind}: send application/json or application/yaml"
    )


async def test_a_body_of_an_unknown_type_is_refused(face: Face) -> None:
    assert (await face.ask("POST", CMS, b"{}", content_type="text/plain")).status == 415


async def test_a_patch_without_a_patch_type_is_refused_naming_the_types(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    refused = await face.ask("PATCH", f"{CMS}/a", {}, content_type="application/json")
    assert refused.status == 415
    assert "application/merge-patch+json" in refused.message


async def test_an_answer_that_nobody_can_make_is_406(face: Face) -> None:
    assert (await face.ask("GET", CMS, accept="image/png")).status == 406
    assert (await face.ask("GET", CMS, accept="application/vnd.kubernetes.protobuf")).status == 406
    assert (await face.ask("GET", CMS, accept="application/vnd.kubernetes.protobuf, */*")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/api/v1/namespaces/default/unicorns", 404, "NotFound"),
        ("GET", "/apis/nope.example.com/v1/things", 404, "NotFound"),
        ("GET", f"{CMS}/nope", 404, "NotFound"),
        ("GET", f"{CMS}/a/nope", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/nodes", 404, "NotFound"),
        ("POST", "/api/v1/configmaps", 404, "NotFound"),
        ("POST", f"{CMS}/a", 405, "MethodNotAllowed"),
        ("PUT", CMS, 405, "MethodNotAllowed"),
        ("PATCH", CMS, 405, "MethodNotAllowed"),
        ("OPTIONS", CMS, 405, "MethodNotAllowed"),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405, "MethodNotAllowed"),
        ("DELETE", "/version", 405, "MethodNotAllowed"),
        ("GET", f"{CMS}?limit=many", 400, "BadRequest"),
        ("GET", f"{CMS}?watch=perhaps", 400, "BadRequest"),
        ("GET", f"{CMS}?labelSelector=%3D%3D", 400, "BadRequest"),
        ("POST", f"{CMS}?fieldValidation=Maybe", 400, "BadRequest"),
        ("POST", f"{CMS}?dryRun=Some", 400, "BadRequest"),
        ("POST", CMS, 400, "BadRequest"),
        ("DELETE", f"{CMS}/nope", 404, "NotFound"),
    ],
)
async def test_a_refusal_is_a_status_with_its_code(
    face: Face, method: str, path: str, status: int, reason: str
) -> None:
    refused = await face.ask(method, path)
    assert (refused.status, refused.reason) == (status, reason)
    assert refused.value["kind"] == "Status"
    assert refused.value["code"] == status


async def test_an_encoded_slash_stays_inside_its_segment(face: Face) -> None:
    refused = await face.ask("GET", f"{CMS}/a%2Fstatus")
    assert 'configmaps "a/status" not found' in refused.message


async def test_more_query_fields_than_anybody_needs_are_refused(face: Face) -> None:
    refused = await face.ask("GET", f"{CMS}?{'&'.join(f'a{i}=1' for i in range(200))}")
    assert refused.status == 400


async def test_a_warning_travels_in_its_header(face: Face) -> None:
    made = await face.ask("POST", f"{CMS}?fieldValidation=Warn", {"metadata": {"name": "a"}, "dota": {}})
    assert made.headers["Warning"] == '299 - "unknown field \\"dota\\""'


async def test_a_list_carries_revision_continue_and_what_remains(face: Face) -> None:
    for name in "abc":
        await face.must("POST", CMS, {"metadata": {"name": name}})
    first = await face.must("GET", f"{CMS}?limit=2")
    assert [item["metadata"]["name"] for item in first["items"]] == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 1
    rest = await face.must("GET", f"{CMS}?limit=2&continue={first['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in rest["items"]] == ["c"]
    assert rest["kind"] == "ConfigMapList"


async def test_head_is_answered_as_get(face: Face) -> None:
    assert (await face.ask("HEAD", "/api/v1/namespaces/default")).status == 200


async def test_deletecollection_answers_with_what_it_deleted(face: Face) -> None:
    for name in "abc":
        await face.must("POST", CMS, {"metadata": {"name": name, "labels": {"n": name}}})
    gone = await face.must("DELETE", f"{CMS}?labelSelector=n in (a,b)".replace(" ", "+"))
    assert [item["metadata"]["name"] for item in gone["items"]] == ["a", "b"]
    assert len((await face.must("GET", CMS))["items"]) == 1


async def test_delete_options_may_be_a_body_or_a_query(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    assert (await face.ask("DELETE", f"{CMS}/a", {"preconditions": {"uid": "other"}})).status == 409
    assert (await face.ask("DELETE", f"{CMS}/a?dryRun=All")).status == 200
    assert (await face.ask("DELETE", f"{CMS}/a?propagationPolicy=Foreground")).value["metadata"]["finalizers"] == [
        "foregroundDeletion"
    ]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"kind": "Pod"},
        {"gracePeriodSeconds": "soon"},
        {"gracePeriodSeconds": -1},
        {"preconditions": []},
        {"dryRun": 1},
    ],
)
async def test_wrong_delete_options_are_refused(face: Face, body: object) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    assert (await face.ask("DELETE", f"{CMS}/a", body)).status == 400


async def test_one_object_as_a_table(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}, "data": {"k": "v"}})
    shown = (await face.ask("GET", f"{CMS}/a", accept=TABLE)).value
    assert shown["kind"] == "Table"
    assert [c["name"] for c in shown["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert shown["rows"][0]["cells"] == ["a", 1, "0s"]
    assert shown["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


@pytest.mark.parametrize(
    ("include", "kind"), [("None", None), ("Metadata", "PartialObjectMetadata"), ("Object", "ConfigMap")]
)
async def test_a_table_row_carries_what_was_asked_for(face: Face, include: str, kind: str | None) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}})
    shown = (await face.ask("GET", f"{CMS}?includeObject={include}", accept=TABLE)).value
    assert shown["rows"][0].get("object", {}).get("kind") == kind


async def test_metadata_alone(face: Face) -> None:
    await face.must("POST", CMS, {"metadata": {"name": "a"}, "data": {"k": "v"}})
    accept = "application/json;as={};v=v1;g=meta.k8s.io"
    listed = (await face.ask("GET", CMS, accept=accept.format("PartialObjectMetadataList"))).value
    assert listed["kind"] == "PartialObjectMetadataList"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}
    one = (await face.ask("GET", f"{CMS}/a", accept=accept.format("PartialObjectMetadata"))).value
    assert one["kind"] == "PartialObjectMetadata"


async def test_pretty_is_indented(face: Face) -> None:
    assert b'\n  "kind"' in (await face.ask("GET", f"{CMS}?pretty=true")).body


async def test_eviction_deletes_and_binding_places_a_pod(face: Face) -> None:
    pods = "/api/v1/namespaces/default/pods"
    await face.must("POST", pods, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    bound = await face.ask("POST", f"{pods}/p/binding", {"target": {"kind": "Node", "name": "n"}})
    assert bound.status == 201
    assert (await face.must("GET", f"{pods}/p"))["spec"]["nodeName"] == "n"
    assert (await face.ask("POST", f"{pods}/p/binding", {"target": {"name": "m"}})).status == 409
    assert (await face.ask("POST", f"{pods}/p/eviction", {"deleteOptions": {"gracePeriodSeconds": 0}})).status == 201
    assert (await face.ask("GET", f"{pods}/p")).status == 404


async def test_a_request_counts_by_verb_resource_and_code(face: Face) -> None:
    await face.ask("GET", f"{CMS}/nope")
    requests = face.metrics.counter("skerry_kube_requests_total", "", ("verb", "resource", "code"))
    assert requests.value("get", "configmaps", "404") == 1


async def test_health_names_what_is_wrong(face: Face) -> None:
    assert (await face.ask("GET", "/readyz", who=None)).body == b"ok"
    assert b"[+]ping ok" in (await face.ask("GET", "/livez?verbose", who=ADMIN)).body


async def test_version_has_all_nine_fields(face: Face) -> None:
    version = (await face.ask("GET", "/version/")).value
    assert len(version) == 9
    assert (version["major"], version["minor"]) == ("1", "33")
    assert all(isinstance(v, str) and v for v in version.values())


async def test_json_at_the_depth_limit_is_refused_not_crashed_on(face: Face) -> None:
    deep = b'{"metadata":{"name":"a"},"data":' + b"[" * 5000 + b"]" * 5000 + b"}"
    assert (await face.ask("POST", CMS, deep)).status == 400
    assert (await face.ask("POST", CMS, json.dumps({"metadata": []}).encode())).status in (400, 422)
