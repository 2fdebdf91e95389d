from typing import Any

import pytest

from kubeapi.errors import ApiError
from tests.unit.kubeapi.api import CM, POD, SVC, Api
from tests.unit.kubeapi.test_crds import served

Json = dict[str, Any]


def managers(obj: Json) -> dict[tuple[str, str], Json]:
    return {(m["manager"], m["operation"]): m["fieldsV1"] for m in obj["metadata"].get("managedFields", ())}


def cm(**data: str) -> Json:
    return {"metadata": {"name": "a"}, "data": data}


async def test_apply_creates_and_owns_what_it_says(api: Api) -> None:
    made = await api.apply(CM, cm(x="1"), "alice")
    assert made["data"] == {"x": "1"}
    assert managers(made) == {("alice", "Apply"): {"f:data": {"f:x": {}}}}


async def test_applying_the_same_twice_changes_nothing(api: Api) -> None:
    made = await api.apply(CM, cm(x="1"), "alice")
    api.clock.advance(5)
    again = await api.apply(CM, cm(x="1"), "alice")
    assert again == made


async def test_a_field_no_longer_applied_is_removed(api: Api) -> None:  # API-11
    await api.apply(CM, cm(x="1", y="2"), "alice")
    after = await api.apply(CM, cm(x="1"), "alice")
    assert after["data"] == {"x": "1"}


async def test_a_field_that_somebody_else_owns_too_stays(api: Api) -> None:
    await api.apply(CM, cm(x="1", y="2"), "alice")
    await api.apply(CM, cm(y="2"), "bob")
    after = await api.apply(CM, cm(x="1"), "alice")
    assert after["data"] == {"x": "1", "y": "2"}
    gone = await api.apply(CM, {"metadata": {"name": "a"}}, "bob")
    assert gone["data"] == {"x": "1"}


async def test_another_managers_value_is_a_conflict_that_names_it(api: Api) -> None:
    await api.apply(CM, cm(x="1"), "alice")
    with pytest.raises(ApiError, match=r'Apply failed with 1 conflict: conflict with "alice": \.data\.x') as refused:
        await api.apply(CM, cm(x="2"), "bob")
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    (cause,) = refused.value.body()["details"]["causes"]
    assert cause == {"reason": "FieldManagerConflict", "message": 'conflict with "alice"', "field": ".data.x"}


async def test_force_takes_the_field_over(api: Api) -> None:
    await api.apply(CM, cm(x="1", y="1"), "alice")
    after = await api.apply(CM, cm(x="2"), "bob", force=True)
    assert after["data"] == {"x": "2", "y": "1"}
    assert managers(after) == {
        ("alice", "Apply"): {"f:data": {"f:y": {}}},
        ("bob", "Apply"): {"f:data": {"f:x": {}}},
    }


async def test_an_update_takes_what_it_changes_and_apply_then_conflicts(api: Api) -> None:  # API-12
    await api.apply(CM, cm(x="1"), "alice")
    changed = await api.patch(CM, "a", {"data": {"x": "9"}}, field_manager="edit")
    assert managers(changed) == {("edit", "Update"): {"f:data": {"f:x": {}}}}
    with pytest.raises(ApiError, match='conflict with "edit" using v1 at'):
        await api.apply(CM, cm(x="1"), "alice")


async def test_apply_needs_a_field_manager(api: Api) -> None:
    with pytest.raises(ApiError, match="fieldManager: Required value"):
        await api.apply(CM, cm(x="1"), "")


async def test_keyed_lists_are_owned_item_by_item(api: Api) -> None:
    res = await served(api)
    await api.apply(
        res, {"metadata": {"name": "k"}, "spec": {"size": 1, "parts": [{"name": "a", "count": 2}]}}, "alice"
    )
    both = await api.apply(res, {"metadata": {"name": "k"}, "spec": {"parts": [{"name": "b", "count": 3}]}}, "bob")
    assert [p["name"] for p in both["spec"]["parts"]] == ["a", "b"]

    after = await api.apply(res, {"metadata": {"name": "k"}, "spec": {"size": 1}}, "alice")

    assert after["spec"]["parts"] == [{"name": "b", "count": 3}]


async def test_lists_without_keys_are_owned_whole(api: Api) -> None:
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "command": ["a", "b"]}]}}
    await api.apply(POD, body, "alice")
    body["spec"]["containers"][0]["command"] = ["c"]  # type: ignore[index]
    with pytest.raises(ApiError, match=r'\.spec\.containers\[name="c"\]\.command'):
        await api.apply(POD, body, "bob")


async def test_service_ports_have_a_default_in_their_key(api: Api) -> None:
    body = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    made = await api.apply(SVC, body, "alice")
    assert managers(made)["alice", "Apply"]["f:spec"]["f:ports"] == {
        'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}
    }
    assert (await api.apply(SVC, body, "alice"))["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_status_is_applied_through_its_subresource(api: Api) -> None:
    res = await served(api)
    await api.apply(res, {"metadata": {"name": "k"}, "spec": {"size": 1}, "status": {"phase": "no"}}, "alice")
    body = {"apiVersion": res.api_version, "kind": "Kiln", "metadata": {"name": "k"}, "status": {"phase": "Hot"}}
    after = await api.patch(res, "k", body, "apply", "status", field_manager="edge")
    assert after["status"] == {"phase": "Hot"}
    entry = next(m for m in after["metadata"]["managedFields"] if m["manager"] == "edge")
    assert (entry["subresource"], entry["fieldsV1"]) == ("status", {"f:status": {"f:phase": {}}})


async def test_a_status_update_keeps_the_owners_of_the_spec(api: Api) -> None:
    res = await served(api)
    await api.apply(res, {"metadata": {"name": "k"}, "spec": {"size": 1}}, "alice")
    after = await api.patch(res, "k", {"status": {"phase": "Hot"}}, "merge", "status", field_manager="edge")
    assert managers(after)["alice", "Apply"] == {"f:spec": {"f:size": {}}}


async def test_clients_may_hand_fields_over_or_forget_them(api: Api) -> None:
    made = await api.create(CM, cm(x="1"), field_manager="kubectl-create")
    entry = dict(made["metadata"]["managedFields"][0], manager="kubectl", operation="Apply")
    handed = await api.patch(CM, "a", {"metadata": {"managedFields": [entry]}})
    assert list(managers(handed)) == [("kubectl", "Apply")]
    forgotten = await api.patch(CM, "a", {"metadata": {"managedFields": [{}]}})
    assert "managedFields" not in forgotten["metadata"]


async def test_duplicate_items_in_a_configuration_are_refused(api: Api) -> None:
    res = await served(api)
    body = {"metadata": {"name": "k"}, "spec": {"size": 1, "parts": [{"name": "a"}, {"name": "a"}]}}
    with pytest.raises(ApiError, match="duplicate entries for key name"):
        await api.apply(res, body)
