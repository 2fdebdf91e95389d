from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.errors import ApiError
from kubeapi.objects import ListOptions, WriteOptions
from kubeapi.resources import Resource
from tests.unit.kubeapi.api import Api

CRD = kinds.CUSTOM_RESOURCE_DEFINITION
Json = dict[str, Any]

SPEC = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "mode": {"type": "string", "enum": ["auto", "manual"], "default": "auto"},
        "port": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "count": {"type": "integer", "default": 1}},
            },
        },
    },
}


def crd(spec: Json = SPEC, **version: Any) -> Json:
    schema = {
        "type": "object",
        "properties": {
            "spec": spec,
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        },
    }
    v1 = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        **version,
    }
    return {
        "metadata": {"name": "kilns.example.io"},
        "spec": {
            "group": "example.io",
            "scope": "Namespaced",
            "names": {"plural": "kilns", "kind": "Kiln", "shortNames": ["kl"]},
            "versions": [v1],
        },
    }


async def served(api: Api, body: Json | None = None, version: str = "v1") -> Resource:
    await api.create(CRD, body or crd())
    res = api.registry.find("example.io", version, "kilns")
    assert res is not None
    return res


async def refusal(api: Api, res: Resource, spec: Json, **opts: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await api.create(res, {"metadata": {"name": "k"}, "spec": spec}, **opts)
    return refused.value


async def test_a_crd_is_served_and_established_when_its_create_returns(api: Api) -> None:
    before = api.registry.revision
    made = await api.create(CRD, crd())

    conditions = {c["type"]: c["status"] for c in made["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    assert made["status"]["storedVersions"] == ["v1"]
    assert made["status"]["acceptedNames"]["singular"] == "kiln"
    assert api.registry.revision > before
    res = api.registry.by_kind("example.io", "v1", "Kiln")
    assert res is not None
    assert (res.short_names, res.list_kind, sorted(res.subresources)) == (("kl",), "KilnList", ["status"])


async def test_a_deleted_crd_takes_no_new_objects_and_then_is_no_longer_served(api: Api) -> None:
    res = await served(api)
    await api.controllers.start()
    await api.objects.delete(CRD, "", "kilns.example.io")
    error = await refusal(api, res, {"size": 1})
    assert (error.status, error.reason) == (405, "MethodNotAllowed")
    await api.controllers.settle()
    assert api.registry.find("example.io", "v1", "kilns") is None


@pytest.mark.parametrize("subresource", ["", "status"])
@pytest.mark.parametrize("version", [None, "", "0"])
async def test_a_custom_object_is_not_overwritten_unseen(api: Api, subresource: str, version: str | None) -> None:
    res = await served(api)
    made = await api.create(res, {"metadata": {"name": "k"}, "spec": {"size": 1}})
    changed = {**made, "spec": {"size": 2}, "status": {"phase": "hot"}}
    unseen = {**changed, "metadata": {**made["metadata"], "resourceVersion": version}}
    with pytest.raises(ApiError, match=r"metadata\.resourceVersion: .*must be specified for an update") as refused:
        await api.update(res, "k", unseen, subresource)
    assert refused.value.status == 422
    assert api.objects.get(res, "default", "k") == made
    await api.update(res, "k", changed, subresource)


async def test_a_crd_is_served_again_after_a_restart(api: Api) -> None:
    res = await served(api)
    await api.create(res, {"metadata": {"name": "k"}, "spec": {"size": 1}})
    reopened = await api.reopen()
    found = reopened.registry.find("example.io", "v1", "kilns")
    assert found is not None
    assert reopened.names(found) == ["k"]
    await reopened.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"name": "wrong.example.io"}}, r"must be spec\.names\.plural"),
        ({"spec": {**crd()["spec"], "scope": "Planet"}}, 'supported values: "Cluster", "Namespaced"'),
        ({"spec": {**crd()["spec"], "versions": []}}, r"spec\.versions: Required value"),
    ],
)
async def test_a_crd_that_cannot_work_is_refused_with_the_reason(api: Api, change: Json, message: str) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        await api.create(CRD, {**crd(), **change})
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"properties": {}}, "must not be empty for specified object fields"),
        ({"type": "thing"}, 'Unsupported value: "thing"'),
        ({"type": "array"}, "items: Required value"),
        ({"type": "object", "$ref": "#/x"}, r"\$ref is not supported"),
        ({"type": "string", "pattern": "("}, "not a regular expression"),
        ({"type": "integer", "default": "x"}, "must be of type integer"),
    ],
)
async def test_a_schema_must_be_structural(api: Api, spec: Json, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        await api.create(CRD, crd(spec))


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({}, "spec.size", "Required value"),
        ({"size": 0}, "spec.size", "should be greater than or equal to 1"),
        ({"size": 11}, "spec.size", "should be less than or equal to 10"),
        ({"size": "2"}, "spec.size", 'must be of type integer: "string"'),
        ({"size": 2, "mode": "fast"}, "spec.mode", 'supported values: "auto", "manual"'),
        ({"size": 2, "port": []}, "spec.port", "must be of type integer or string"),
        ({"size": 2, "tags": ["a", "a"]}, "spec.tags[1]", 'Duplicate value: "a"'),
        ({"size": 2, "parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]", "Duplicate value"),
        ({"size": 2, "parts": [{}]}, "spec.parts[0].name", "Required value"),
    ],
)
async def test_a_wrong_value_is_named_with_what_is_allowed(
    api: Api, spec: Json, field: str, message: str
) -> None:  # API-13
    error = await refusal(api, await served(api), spec)
    (cause,) = error.body()["details"]["causes"]
    assert (error.status, cause["field"]) == (422, field)
    assert message in cause["message"]
    assert message in error.message


async def test_unknown_fields_are_pruned_and_defaults_filled(api: Api) -> None:
    res = await served(api)
    opts = WriteOptions()
    body = {
        "metadata": {"name": "k", "creationTimestamp": None},
        "spec": {"size": 1, "odd": 1, "free": {"x": 1}, "parts": [{"name": "a"}]},
    }
    made = await api.objects.create(res, "default", body, opts)
    assert made["spec"] == {"size": 1, "mode": "auto", "free": {"x": 1}, "parts": [{"name": "a", "count": 1}]}
    assert opts.warnings == ['unknown field "spec.odd"']


async def test_strict_field_validation_refuses_unknown_and_duplicate_fields(api: Api) -> None:  # API-16
    res = await served(api)
    error = await refusal(api, res, {"size": 1, "odd": 1}, field_validation="Strict", duplicates=("spec.size",))
    assert error.status == 400
    assert 'strict decoding error: unknown field "spec.odd", duplicate field "spec.size"' in error.message


async def test_generation_grows_with_the_spec_only(api: Api) -> None:  # API-8
    res = await served(api)
    await api.create(res, {"metadata": {"name": "k"}, "spec": {"size": 1}})
    labelled = await api.patch(res, "k", {"metadata": {"labels": {"a": "b"}}})
    observed = await api.patch(res, "k", {"status": {"phase": "Hot"}}, "merge", "status")
    changed = await api.patch(res, "k", {"spec": {"size": 2}})
    assert [o["metadata"]["generation"] for o in (labelled, observed, changed)] == [1, 1, 2]
    assert changed["status"] == {"phase": "Hot"}


async def test_objects_are_selected_by_the_fields_that_their_definition_names(api: Api) -> None:
    res = await served(api, crd(selectableFields=[{"jsonPath": ".spec.mode"}, {"jsonPath": ".spec.size"}]))
    for name, mode in (("a", "auto"), ("b", "manual")):
        await api.create(res, {"metadata": {"name": name}, "spec": {"size": 2, "mode": mode}})

    async def names(selector: str) -> list[str]:
        found = api.objects.list(res, None, ListOptions(field_selector=selector)).items
        return [item["metadata"]["name"] for item in found]

    assert await names("spec.mode=manual,spec.size=2") == ["b"]
    assert await names("spec.mode!=manual") == ["a"]
    with pytest.raises(ApiError, match=r"field label not supported: spec\.port"):
        await names("spec.port=1")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("spec.mode", "simple path"),
        (".metadata.name", "simple path"),
        (".spec.nothing", "does not refer"),
        (".spec.tags", "string, boolean or integer"),
    ],
)
async def test_a_field_that_nothing_can_be_selected_by_is_refused(api: Api, path: str, why: str) -> None:
    with pytest.raises(ApiError, match=why):
        await api.objects.create(CRD, "", crd(selectableFields=[{"jsonPath": path}]))


async def test_every_served_version_reads_the_same_object(api: Api) -> None:  # API-14
    body = crd()
    body["spec"]["versions"].append({**body["spec"]["versions"][0], "name": "v2", "storage": False})
    v1 = await served(api, body)
    v2 = await served_version(api, "v2")
    await api.create(v2, {"metadata": {"name": "k"}, "spec": {"size": 1}})

    assert api.objects.get(v1, "default", "k")["apiVersion"] == "example.io/v1"
    assert api.objects.get(v2, "default", "k")["apiVersion"] == "example.io/v2"
    watched = await api.store.watch(v2, None, None).batch()
    assert b'"example.io/v2"' in watched[0].frame
    (listed,) = api.objects.list(v2, None, ListOptions()).stored
    assert b'"example.io/v2"' in listed.body


async def test_objects_that_rest_in_a_version_that_is_not_served_are_collected_all_the_same(api: Api) -> None:
    body = crd()
    (first,) = body["spec"]["versions"]
    body["spec"]["versions"] = [{**first, "served": False}, {**first, "name": "v2", "storage": False}]
    await api.controllers.start()
    await api.objects.create(CRD, "", body)
    v2 = await served_version(api, "v2")
    owner = await api.create(kinds.CONFIG_MAP, {"metadata": {"name": "owner"}})
    ref = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    await api.create(v2, {"metadata": {"name": "k", "ownerReferences": [ref]}, "spec": {"size": 1}})
    assert api.objects.get(v2, "default", "k")["apiVersion"] == "example.io/v2"

    await api.objects.delete(kinds.CONFIG_MAP, "default", "owner")
    await api.controllers.settle()
    assert api.store.get(v2, "default", "k") is None


async def test_objects_of_a_former_storage_version_are_read_in_the_new_one(api: Api) -> None:
    v1 = await served(api)
    await api.create(v1, {"metadata": {"name": "k"}, "spec": {"size": 1}})
    (first,) = crd()["spec"]["versions"]
    versions = [{**first, "storage": False}, {**first, "name": "v2"}]
    changed = await api.patch(CRD, "kilns.example.io", {"spec": {"versions": versions}})
    v2 = await served_version(api, "v2")
    assert changed["status"]["storedVersions"] == ["v1", "v2"]
    assert api.objects.get(v2, "default", "k")["apiVersion"] == "example.io/v2"
    (event,) = await api.store.watch(v2, None, None).batch()
    assert b'"example.io/v2"' in event.frame
    after = await api.patch(v2, "k", {"spec": {"size": 2}})
    assert after["apiVersion"] == "example.io/v2"


async def served_version(api: Api, version: str) -> Resource:
    res = api.registry.find("example.io", version, "kilns")
    assert res is not None
    return res


async def test_names_taken_by_another_crd_are_not_served(api: Api) -> None:
    await served(api)
    other = crd()
    other["metadata"]["name"] = "ovens.example.io"
    other["spec"]["names"] = {"plural": "ovens", "kind": "Kiln"}
    made = await api.create(CRD, other)
    assert {c["status"] for c in made["status"]["conditions"]} == {"False"}
    assert api.registry.find("example.io", "v1", "ovens") is None
