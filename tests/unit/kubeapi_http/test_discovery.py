"""Discovery and OpenAPI: both languages, caching, custom kinds as they come and go (HTTP-9)."""

import pytest
import yaml

from tests.unit.kubeapi_http.face import DEVICE_CRDS, Face

V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
V2BETA1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DEVICES = "apis/devices.kubeedge.io/v1beta1"


async def add_devices(face: Face) -> None:
    await face.must("POST", CRDS, yaml.safe_load((DEVICE_CRDS / "devices.yaml").read_text()))


@pytest.mark.parametrize(
    "path", ["/api", "/apis", "/api/v1", "/apis/rbac.authorization.k8s.io", "/apis/coordination.k8s.io/v1"]
)
async def test_a_trailing_slash_changes_nothing(face: Face, path: str) -> None:
    assert (await face.ask("GET", path)).body == (await face.ask("GET", f"{path}/")).body


@pytest.mark.parametrize("path", ["/api/v2", "/apis/nope", "/apis/coordination.k8s.io/v9", "/openapi/v3/apis/nope/v1"])
async def test_an_unknown_group_is_not_found(face: Face, path: str) -> None:
    assert (await face.ask("GET", path)).status == 404


async def test_the_legacy_list_names_subresources_and_their_kinds(face: Face) -> None:
    entries = {e["name"]: e for e in (await face.must("GET", "/api/v1"))["resources"]}
    assert entries["pods"]["shortNames"] == ["po"]
    assert entries["pods/eviction"]["kind"] == "Eviction"
    assert (entries["serviceaccounts/token"]["group"], entries["serviceaccounts/token"]["kind"]) == (
        "authentication.k8s.io",
        "TokenRequest",
    )


@pytest.mark.parametrize(
    ("accept", "version"), [(V2, "v2"), (V2BETA1, "v2beta1"), (f"{V2},{V2BETA1},application/json", "v2")]
)
async def test_aggregated_discovery_in_the_version_that_was_asked_for(face: Face, accept: str, version: str) -> None:
    answer = await face.ask("GET", "/apis", accept=accept)
    assert answer.value["apiVersion"] == f"apidiscovery.k8s.io/{version}"
    assert f"v={version};" in answer.headers["Content-Type"]
    groups = {item["metadata"]["name"] for item in answer.value["items"]}
    assert {"rbac.authorization.k8s.io", "certificates.k8s.io", "authorization.k8s.io"} <= groups


async def test_a_cached_discovery_answers_304(face: Face) -> None:
    first = await face.ask("GET", "/api", accept=V2)
    again = await face.ask("GET", "/api", accept=V2, if_none_match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    await add_devices(face)
    apis = await face.ask("GET", "/apis", accept=V2, if_none_match=first.headers["ETag"])
    assert apis.status == 200


async def test_a_custom_kind_is_discovered_as_soon_as_its_crd_is_there(face: Face) -> None:
    await add_devices(face)
    listed = await face.must("GET", f"/{DEVICES}")
    assert {"devices", "devices/status"} <= {entry["name"] for entry in listed["resources"]}
    await face.must("DELETE", f"{CRDS}/devices.devices.kubeedge.io")
    await face.controllers.settle()
    assert (await face.ask("GET", f"/{DEVICES}")).status == 404


async def test_the_openapi_index_gives_each_group_version_a_hash(face: Face) -> None:
    before = (await face.must("GET", "/openapi/v3"))["paths"]
    await add_devices(face)
    after = (await face.must("GET", "/openapi/v3"))["paths"]
    assert DEVICES not in before
    assert DEVICES in after
    assert before["api/v1"] == after["api/v1"]


async def test_an_openapi_document_with_its_hash_may_be_kept_for_ever(face: Face) -> None:
    url = (await face.must("GET", "/openapi/v3"))["paths"]["api/v1"]["serverRelativeURL"]
    answer = await face.ask("GET", url)
    assert "immutable" in answer.headers["Cache-Control"]
    assert (await face.ask("GET", url, if_none_match=answer.headers["ETag"])).status == 304
    moved = await face.ask("GET", "/openapi/v3/api/v1?hash=ABC")
    assert (moved.status, moved.headers["Location"]) == (301, url)


async def test_an_openapi_document_says_what_kubectl_looks_for(face: Face) -> None:
    await add_devices(face)
    document = await face.must("GET", f"/openapi/v3/{DEVICES}")
    operation = document["paths"][f"/{DEVICES}/namespaces/{{namespace}}/devices/{{name}}"]["patch"]
    assert operation["x-kubernetes-action"] == "patch"
    assert operation["x-kubernetes-group-version-kind"]["kind"] == "Device"
    assert {"fieldValidation", "dryRun", "fieldManager"} <= {p["name"] for p in operation["parameters"]}
    schema = document["components"]["schemas"]["io.kubeedge.devices.v1beta1.Device"]
    assert schema["x-kubernetes-group-version-kind"][0]["kind"] == "Device"


async def test_every_reference_of_every_openapi_document_resolves(face: Face) -> None:
    await add_devices(face)
    for path in (await face.must("GET", "/openapi/v3"))["paths"]:
        answer = await face.ask("GET", f"/openapi/v3/{path}")
        schemas = answer.value["components"]["schemas"]
        for name in answer.body.decode().split('"$ref":"#/components/schemas/')[1:]:
            assert name.partition('"')[0] in schemas


async def test_openapi_v2_is_swagger_without_what_swagger_lacks(face: Face) -> None:
    await add_devices(face)
    answer = await face.ask("GET", "/openapi/v2")
    assert answer.value["swagger"] == "2.0"
    assert "#/components/" not in answer.body.decode()
    assert "io.kubeedge.devices.v1beta1.Device" in answer.value["definitions"]


async def test_protobuf_openapi_describes_nothing_so_that_kubectl_goes_on(face: Face) -> None:
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    answer = await face.ask("GET", "/openapi/v2", accept=accept)
    assert (answer.status, answer.body[:5]) == (200, b"\x0a\x032.0")
