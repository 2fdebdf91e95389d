"""Whatever JSON a client sends, the answer is an object or an ApiError: never another exception."""

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubeapi import bodies, kinds
from kubeapi.errors import ApiError
from kubeapi.kinds import BUILT_IN
from kubeapi.objects import DeleteOptions, ListOptions, WriteOptions
from kubeapi.resources import Resource
from kubeapi.schemas import definitions, schema_of
from tests.unit.kubeapi.api import CM, POD, Api
from tests.unit.kubeapi.test_crds import CRD, crd, served

Json = dict[str, Any]
KEYS = sorted(
    {"spec", "status", "data", "metadata", "labels", "finalizers", "ownerReferences", "managedFields", "containers"}
    | {"ports", "resources", "limits", "rules", "subjects", "roleRef", "names", "versions", "schema", "name", "kind"}
    | {"openAPIV3Schema", "properties", "type", "items", "default", "enum", "$patch", "stringData", "taints", "request"}
)
scalars = st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats(allow_nan=False) | st.text(max_size=6)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)
documents = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)
WILD = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def drawn(strategy: "st.SearchStrategy[Any]") -> list[Any]:
    out: list[Any] = []

    @WILD
    @given(strategy)
    def collect(value: Any) -> None:
        out.append(value)

    collect()
    return out


async def answered(work: Any) -> int:
    status, text = 200, "ok"
    try:
        await work
    except ApiError as error:
        status, text = error.status, error.message
    assert status < 500
    assert text
    return status


def valid_named(document: Json) -> Json:
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        return {**document, "metadata": {**metadata, "name": "x"}}
    return {**document, "metadata": {"name": "x"}}


@pytest.mark.parametrize("res", BUILT_IN, ids=lambda r: r.kind)
async def test_no_document_breaks_a_create(api: Api, res: Resource) -> None:
    await wild(api, res)


async def test_no_document_breaks_a_custom_create(api: Api) -> None:
    await wild(api, await served(api))


async def wild(api: Api, res: Resource) -> None:
    for document in drawn(documents):
        for body in (document, valid_named(document)):
            await answered(api.create(res, body, dry_run=True))


async def test_no_patch_breaks_an_object(api: Api) -> None:
    await api.create(POD, {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    for patch in drawn(documents | values):
        for kind in ("merge", "json", "strategic"):
            await answered(api.patch(POD, "x", patch, kind, dry_run=True))
        if isinstance(patch, dict):
            await answered(api.apply(POD, valid_named(patch), dry_run=True))
            await answered(api.update(POD, "x", valid_named(patch), dry_run=True))


async def test_no_crd_schema_breaks_its_check(api: Api) -> None:
    for spec in drawn(values):
        await answered(api.create(CRD, crd(spec), dry_run=True))


PARTS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**20,
    "",
    "x",
    "é/..",
    [],
    [None],
    [[]],
    [{}],
    {},
    {"a": 1},
    {"": None},
)
VALID: dict[str, Json] = {
    "Pod": {
        "metadata": {"name": "x", "labels": {"a": "b"}, "finalizers": ["a.b/c"], "managedFields": [{"manager": "m"}]},
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "image": "i",
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1"}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                }
            ],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    },
    "Service": {"metadata": {"name": "x"}, "spec": {"type": "NodePort", "ports": [{"name": "p", "port": 80}]}},
    "Secret": {"metadata": {"name": "x"}, "stringData": {"a": "b"}, "data": {"c": "ZA=="}},
    "RoleBinding": {
        "metadata": {"name": "x"},
        "subjects": [{"kind": "User", "name": "u"}],
        "roleRef": {"kind": "Role", "name": "r"},
    },
    "Role": {"metadata": {"name": "x"}, "rules": [{"verbs": ["get"], "resources": ["pods"], "apiGroups": [""]}]},
    "Node": {"metadata": {"name": "x"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}},
    "Event": {
        "metadata": {
            "name": "x",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": True}],
        },
        "involvedObject": {"kind": "Pod"},
        "source": {"component": "c"},
    },
    "CertificateSigningRequest": {
        "metadata": {"name": "x"},
        "spec": {"request": "Zg==", "signerName": "a.b/c", "usages": ["client auth"]},
    },
    "CustomResourceDefinition": crd(),
}


def mutations(value: Any) -> Iterator[Any]:
    """Yield ``value`` with each of its nodes replaced by each hostile part, one at a time."""
    yield from PARTS
    if isinstance(value, dict):
        for key, inner in value.items():
            for other in mutations(inner):
                yield {**value, key: other}
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            for other in mutations(inner):
                yield [*value[:i], other, *value[i + 1 :]]


@pytest.mark.parametrize("res", [r for r in BUILT_IN if r.kind in VALID and not r.view_of], ids=lambda r: r.kind)
async def test_no_part_of_a_wrong_kind_breaks_a_create(api: Api, res: Resource) -> None:
    codes = [await answered(api.create(res, body, dry_run=True)) for body in mutations(VALID[res.kind])]
    assert {200, 422} <= set(codes)


async def test_no_part_of_a_wrong_kind_breaks_an_apply(api: Api) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", **VALID["Pod"]}
    del body["metadata"]["managedFields"]
    await api.apply(POD, body)
    for changed in mutations(body):
        raw = msgspec.json.encode(changed)
        opts = WriteOptions(field_manager="other", force=True, dry_run=True)
        await answered(api.objects.patch(POD, "default", "x", raw, "application/apply-patch+yaml", opts))
        await answered(api.patch(POD, "x", changed, "strategic", dry_run=True))


async def test_no_query_breaks_a_list_or_a_delete(api: Api) -> None:
    for text in drawn(st.text(alphabet="ab=!<>(), in\\./-\u00e9", max_size=12)):
        for opts in (
            ListOptions(label_selector=text),
            ListOptions(field_selector=text),
            ListOptions(continue_=text, limit=1),
            ListOptions(resource_version=text, match=text),
        ):
            with contextlib.suppress(ApiError):
                api.objects.list(CM, None, opts)
    assert await answered(api.objects.delete(CM, "default", "nothing", DeleteOptions(propagation="Odd"))) == 404


@WILD
@given(st.binary(max_size=60))
def test_no_bytes_break_the_readers(raw: bytes) -> None:
    for read in (bodies.decode_json, bodies.decode_yaml):
        with contextlib.suppress(ApiError):
            read(raw)
    bodies.duplicate_fields(raw)


def test_every_built_in_has_a_schema_whose_references_resolve() -> None:
    from kubeapi.schema_source import references

    for res in kinds.BUILT_IN:
        assert schema_of(res)["properties"]["metadata"]
    assert references(definitions()) <= definitions().keys()
