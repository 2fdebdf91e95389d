from typing import Any

import pytest

from kubeapi.objects import DeleteOptions
from tests.unit.kubeapi.api import CM, SECRET, Api, config_map
from tests.unit.kubeapi.test_crds import served

Json = dict[str, Any]


def owned_by(owner: Json, name: str, *, block: bool = False, **metadata: Any) -> Json:
    ref = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": block,
    }
    return {"metadata": {"name": name, "ownerReferences": [ref], **metadata}}


@pytest.fixture
async def owner(api: Api) -> Json:
    await api.controllers.start()
    made = await api.create(CM, config_map("owner"))
    await api.controllers.settle()
    return made


async def test_dependents_follow_their_owner(api: Api, owner: Json) -> None:  # API-10
    child = await api.create(SECRET, owned_by(owner, "child"))
    await api.create(CM, owned_by(child, "grandchild"))

    await api.objects.delete(CM, "default", "owner")
    await api.controllers.settle()

    assert (api.names(SECRET), api.names(CM)) == ([], [])


async def test_one_living_owner_is_enough(api: Api, owner: Json) -> None:  # API-10
    other = await api.create(CM, config_map("other"))
    body = owned_by(owner, "child")
    body["metadata"]["ownerReferences"] += owned_by(other, "x")["metadata"]["ownerReferences"]
    await api.create(SECRET, body)

    await api.objects.delete(CM, "default", "owner")
    await api.controllers.settle()

    (ref,) = api.objects.get(SECRET, "default", "child")["metadata"]["ownerReferences"]
    assert ref["name"] == "other"


async def test_an_owner_of_another_uid_is_gone(api: Api, owner: Json) -> None:
    body = owned_by(owner, "child")
    body["metadata"]["ownerReferences"][0]["uid"] = "00000000-0000-0000-0000-000000000000"
    await api.create(SECRET, body)
    await api.controllers.settle()
    assert api.names(SECRET) == []


async def test_an_owner_of_an_unknown_kind_protects(api: Api, owner: Json) -> None:
    body = owned_by(owner, "child")
    body["metadata"]["ownerReferences"][0]["apiVersion"] = "elsewhere.io/v1"
    await api.create(SECRET, body)
    await api.controllers.settle()
    assert api.names(SECRET) == ["child"]


async def test_foreground_waits_for_blocking_dependents(api: Api, owner: Json) -> None:  # API-10
    await api.create(SECRET, owned_by(owner, "child", block=True, finalizers=["skerry.io/hold"]))
    answer = await api.objects.delete(CM, "default", "owner", DeleteOptions(propagation="Foreground"))
    await api.controllers.settle()
    assert answer["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert "deletionTimestamp" in api.objects.get(SECRET, "default", "child")["metadata"]
    assert api.names(CM) == ["owner"]

    await api.patch(SECRET, "child", {"metadata": {"finalizers": None}})
    await api.controllers.settle()

    assert (api.names(CM), api.names(SECRET)) == ([], [])


async def test_orphan_leaves_the_dependents_without_owner(api: Api, owner: Json) -> None:  # API-10
    await api.create(SECRET, owned_by(owner, "child"))
    await api.objects.delete(CM, "default", "owner", DeleteOptions(propagation="Orphan"))
    await api.controllers.settle()
    assert api.names(CM) == []
    assert "ownerReferences" not in api.objects.get(SECRET, "default", "child")["metadata"]


async def test_what_was_orphaned_while_nobody_collected_is_found_at_start(api: Api) -> None:
    owner = await api.create(CM, config_map("owner"))
    await api.create(SECRET, owned_by(owner, "child"))
    await api.objects.delete(CM, "default", "owner")

    await api.controllers.start()
    await api.controllers.settle()

    assert api.names(SECRET) == []


async def test_custom_owners_count_too(api: Api) -> None:
    res = await served(api)
    await api.controllers.start()
    kiln = await api.create(res, {"metadata": {"name": "k"}, "spec": {"size": 1}})
    await api.create(CM, owned_by(kiln, "child"))
    await api.objects.delete(res, "default", "k")
    await api.controllers.settle()
    assert api.names(CM) == []
