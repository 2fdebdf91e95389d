from typing import Any

import pytest

from kubeapi.errors import ApiError
from kubeapi.objects import DeleteOptions, ListOptions
from tests.unit.kubeapi.api import CM, LEASE, NODE, NS, POD, SECRET, SVC, Api, config_map


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "busybox"}], **spec}}


async def test_a_created_object_gets_the_systems_metadata(api: Api) -> None:
    made = await api.create(CM, config_map("a", k="v"))

    metadata = made["metadata"]
    assert metadata["namespace"] == "default"
    assert metadata["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert len(metadata["uid"]) == 36
    assert int(metadata["resourceVersion"]) == api.store.revision
    assert api.objects.get(CM, "default", "a") == made


async def test_a_name_can_be_taken_once(api: Api) -> None:
    await api.create(CM, config_map("a"))

    with pytest.raises(ApiError, match='configmaps "a" already exists') as refused:
        await api.create(CM, config_map("a"))
    assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")


async def test_generate_name_makes_a_free_name(api: Api) -> None:
    first = await api.create(CM, {"metadata": {"generateName": "job-"}})
    second = await api.create(CM, {"metadata": {"generateName": "job-"}})

    assert first["metadata"]["name"].startswith("job-")
    assert first["metadata"]["name"] != second["metadata"]["name"]


@pytest.mark.parametrize("name", ["", "Upper", "a_b", "-a", "a" * 254, "../etc"])
async def test_a_bad_name_is_refused_with_the_rule(api: Api, name: str) -> None:
    with pytest.raises(ApiError, match=r"metadata\.name") as refused:
        await api.create(CM, {"metadata": {"name": name}})
    assert refused.value.status == 422
    assert refused.value.body()["details"]["causes"][0]["field"] == "metadata.name"


async def test_a_namespace_must_exist_and_not_be_terminating(api: Api) -> None:
    with pytest.raises(ApiError, match='namespaces "nowhere" not found'):
        await api.create(CM, config_map("a"), "nowhere")
    await api.create(NS, {"metadata": {"name": "going"}})
    await api.objects.delete(NS, "", "going")
    with pytest.raises(ApiError, match="being terminated") as refused:
        await api.create(CM, config_map("a"), "going")
    assert refused.value.status == 403


async def test_an_update_with_an_old_resource_version_is_a_conflict(api: Api) -> None:
    made = await api.create(CM, config_map("a", k="1"))
    await api.update(CM, "a", {**made, "data": {"k": "2"}})

    with pytest.raises(ApiError, match="the object has been modified; please apply your changes") as refused:
        await api.update(CM, "a", {**made, "data": {"k": "3"}})
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")


async def test_an_update_without_resource_version_overwrites(api: Api) -> None:
    await api.create(CM, config_map("a", k="1"))
    changed = await api.update(CM, "a", config_map("a", k="2"))
    assert changed["data"] == {"k": "2"}


async def test_a_lease_is_not_overwritten_unseen(api: Api) -> None:
    made = await api.create(LEASE, {"metadata": {"name": "a"}})
    unseen = {"metadata": {"name": "a"}, "spec": {"holderIdentity": "me"}}
    with pytest.raises(ApiError, match=r"metadata\.resourceVersion: .*must be specified for an update") as refused:
        await api.update(LEASE, "a", unseen)
    assert refused.value.status == 422
    assert (await api.update(LEASE, "a", {**made, "spec": unseen["spec"]}))["spec"] == unseen["spec"]


async def test_a_write_that_changes_nothing_keeps_the_resource_version(api: Api) -> None:  # API-7
    made = await api.create(CM, config_map("a", k="1"))
    api.clock.advance(60)
    for same in (await api.update(CM, "a", made), await api.patch(CM, "a", {"data": {"k": "1"}})):
        assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_system_metadata_cannot_be_written(api: Api) -> None:
    made = await api.create(CM, config_map("a"))
    forged = {"metadata": {"name": "a", "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 9}}

    after = await api.update(CM, "a", forged)

    assert after["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    with pytest.raises(ApiError, match="UID in precondition"):
        await api.update(CM, "a", {"metadata": {"name": "a", "uid": "other"}})


async def test_status_is_written_through_its_subresource_only(api: Api) -> None:  # API-8
    await api.create(NODE, {"metadata": {"name": "n1"}, "status": {"phase": "forged"}})

    by_main = await api.patch(NODE, "n1", {"spec": {"unschedulable": True}, "status": {"phase": "x"}})
    by_status = await api.patch(
        NODE, "n1", {"spec": {"unschedulable": False}, "status": {"phase": "y"}}, "merge", "status"
    )

    assert "phase" not in by_main["status"]
    assert by_status["status"]["phase"] == "y"
    assert by_status["spec"]["unschedulable"] is True


async def test_dry_run_answers_and_stores_nothing(api: Api) -> None:
    before = api.store.revision
    made = await api.create(CM, config_map("a", k="v"), dry_run=True)
    assert made["data"] == {"k": "v"}
    assert "resourceVersion" not in made["metadata"]
    assert (api.store.revision, api.names(CM)) == (before, [])


async def test_finalizers_hold_a_deleted_object_until_the_last_is_gone(api: Api) -> None:  # API-9
    await api.create(CM, {"metadata": {"name": "a", "finalizers": ["skerry.io/hold"]}})

    marked = await api.objects.delete(CM, "default", "a")
    assert marked["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
    with pytest.raises(ApiError, match="no new finalizers"):
        await api.patch(CM, "a", {"metadata": {"finalizers": ["skerry.io/hold", "skerry.io/more"]}})
    await api.patch(CM, "a", {"metadata": {"finalizers": None}})

    assert api.names(CM) == []


async def test_delete_answers_status_or_the_object_by_kind(api: Api) -> None:
    await api.create(CM, config_map("a"))
    await api.create(SVC, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})

    status = await api.objects.delete(CM, "default", "a")
    service = await api.objects.delete(SVC, "default", "s")

    assert (status["kind"], status["status"], status["details"]["kind"]) == ("Status", "Success", "configmaps")
    assert service["kind"] == "Service"


async def test_delete_preconditions_are_checked(api: Api) -> None:
    made = await api.create(CM, config_map("a"))
    for opts in (DeleteOptions(uid="other"), DeleteOptions(resource_version="1")):
        with pytest.raises(ApiError) as refused:
            await api.objects.delete(CM, "default", "a", opts)
        assert refused.value.status == 409
    await api.objects.delete(CM, "default", "a", DeleteOptions(uid=made["metadata"]["uid"]))


async def test_a_pod_on_a_node_is_given_its_grace(api: Api) -> None:  # API-9
    await api.create(POD, pod("p", nodeName="n1"))

    marked = await api.objects.delete(POD, "default", "p")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert marked["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    await api.objects.delete(POD, "default", "p", DeleteOptions(grace_period_s=0))

    assert api.names(POD) == []


async def test_a_pod_without_a_node_goes_at_once(api: Api) -> None:
    made = await api.create(POD, pod("p"))
    await api.objects.delete(POD, "default", "p")
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert made["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    assert api.names(POD) == []


async def test_immutable_secrets_stay(api: Api) -> None:
    await api.create(SECRET, {"metadata": {"name": "s"}, "stringData": {"k": "v"}, "immutable": True})
    with pytest.raises(ApiError, match="field is immutable when `immutable` is set"):
        await api.patch(SECRET, "s", {"stringData": {"k": "w"}})


async def test_string_data_becomes_base64_data(api: Api) -> None:
    made = await api.create(SECRET, {"metadata": {"name": "s"}, "stringData": {"k": "v"}})
    assert (made["data"], made["type"]) == ({"k": "dg=="}, "Opaque")
    assert "stringData" not in made


async def test_json_patch_is_all_or_nothing(api: Api) -> None:
    await api.create(CM, config_map("a", k="1"))
    with pytest.raises(ApiError, match="operation 1: test failed"):
        await api.patch(
            CM,
            "a",
            [{"op": "add", "path": "/data/x", "value": "2"}, {"op": "test", "path": "/data/k", "value": "9"}],
            "json",
        )
    assert api.objects.get(CM, "default", "a")["data"] == {"k": "1"}


async def test_lists_come_in_pages_with_the_first_pages_revision(api: Api) -> None:  # API-17
    for i in range(5):
        await api.create(CM, config_map(f"c{i}"))

    first = api.objects.list(CM, "default", ListOptions(limit=2))
    await api.create(CM, config_map("c9"))
    rest = api.objects.list(CM, "default", ListOptions(limit=9, continue_=first.continue_))

    assert (len(first.items), first.remaining) == (2, 3)
    assert [o["metadata"]["name"] for o in rest.items] == ["c2", "c3", "c4", "c9"]
    assert rest.revision == first.revision
    with pytest.raises(ApiError, match="continue key is not valid"):
        api.objects.list(CM, "default", ListOptions(continue_="!"))


async def test_delete_collection_deletes_what_is_selected(api: Api) -> None:
    for i in range(4):
        await api.create(CM, {"metadata": {"name": f"c{i}", "labels": {"odd": str(i % 2)}}})
    gone = await api.objects.delete_collection(CM, "default", ListOptions(label_selector="odd=1"))
    assert len(gone.items) == 2
    assert api.names(CM) == ["c0", "c2"]


async def test_an_unknown_patch_type_lists_the_known_ones(api: Api) -> None:
    await api.create(CM, config_map("a"))
    with pytest.raises(ApiError, match=r"merge-patch\+json") as refused:
        await api.objects.patch(CM, "default", "a", b"{}", "text/plain")
    assert refused.value.status == 415


async def test_a_body_of_another_kind_is_refused(api: Api) -> None:
    with pytest.raises(ApiError, match="this path takes ConfigMap in version v1"):
        await api.create(CM, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})


async def test_an_object_grown_too_large_by_patches_is_refused_and_stays(api: Api) -> None:
    await api.create(NODE, {"metadata": {"name": "n"}})
    half = "x" * 800_000
    await api.patch(NODE, "n", {"status": {"config": {"error": half}}}, "merge", "status")
    with pytest.raises(ApiError, match="too large") as refused:
        await api.patch(NODE, "n", {"status": {"phase": half}}, "merge", "status")
    assert refused.value.status == 413
    assert "phase" not in api.objects.get(NODE, "", "n")["status"]


async def test_what_was_put_without_owners_is_written_like_anything_else(api: Api) -> None:
    raw = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}, "status": {"phase": "a"}}
    await api.db.tx(lambda tx: api.store.put(tx, NODE, raw))
    before = await api.patch(NODE, "n", {"status": {"phase": "a"}}, "merge", "status")
    again = await api.patch(NODE, "n", {"status": {"phase": "a"}}, "merge", "status")
    after = await api.patch(NODE, "n", {"status": {"phase": "b"}}, "merge", "status", field_manager="edge")
    assert before == again
    assert after["metadata"]["managedFields"][0]["fieldsV1"] == {"f:status": {"f:phase": {}}}
