from typing import Any

import pytest

from kubeapi.errors import ApiError
from kubeapi.kinds import POD as POD_KIND
from kubeapi.patch.strategic import strategic_patch
from tests.unit.kubeapi.api import CM, NODE, POD, Api, config_map

Json = dict[str, Any]


def pod(*names: str, **spec: Any) -> Json:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": n, "image": f"{n}:1"} for n in names], **spec}}


def patched(obj: Json, spec: Json) -> Json:
    out: Json = strategic_patch(POD_KIND, obj, {"spec": spec})["spec"]
    return out


def test_list_items_merge_by_their_key() -> None:
    spec = patched(pod("a", "b"), {"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]})
    assert [(c["name"], c["image"]) for c in spec["containers"]] == [("a", "a:1"), ("b", "b:2"), ("c", "c:1")]


def test_an_item_is_deleted_by_directive() -> None:
    spec = patched(pod("a", "b"), {"containers": [{"$patch": "delete", "name": "a"}]})
    assert [c["name"] for c in spec["containers"]] == ["b"]


def test_a_list_is_replaced_by_directive() -> None:
    spec = patched(pod("a", "b"), {"containers": [{"$patch": "replace"}, {"name": "z", "image": "z"}]})
    assert [c["name"] for c in spec["containers"]] == ["z"]


def test_the_wanted_order_is_kept() -> None:
    order = {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "c"}]}
    assert [c["name"] for c in patched(pod("a"), order)["containers"]] == ["c", "a"]


def test_retain_keys_drops_the_others() -> None:
    obj = pod("a", securityContext={"runAsUser": 1, "runAsGroup": 2})
    spec = patched(obj, {"securityContext": {"$retainKeys": ["runAsUser"], "runAsUser": 3}})
    assert spec["securityContext"] == {"runAsUser": 3}


def test_plain_lists_are_replaced_and_nulls_delete() -> None:
    obj = pod("a", nodeSelector={"x": "1", "y": "2"}, hostAliases=[{"ip": "1.1.1.1"}])
    spec = patched(obj, {"nodeSelector": {"x": None}, "containers": [{"name": "a", "args": ["1"]}]})
    again = patched({"spec": spec}, {"containers": [{"name": "a", "args": ["2"]}]})
    assert again["nodeSelector"] == {"y": "2"}
    assert again["containers"][0] == {"name": "a", "image": "a:1", "args": ["2"]}


def test_values_leave_a_primitive_list() -> None:
    obj = {"metadata": {"finalizers": ["a", "b"]}}
    out = strategic_patch(POD_KIND, obj, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})
    assert out["metadata"]["finalizers"] == ["b"]
    more = strategic_patch(POD_KIND, out, {"metadata": {"finalizers": ["c"]}})
    assert more["metadata"]["finalizers"] == ["b", "c"]


async def test_cordon_and_taint_as_kubectl_sends_them(api: Api) -> None:
    await api.create(NODE, {"metadata": {"name": "n1"}})
    taint = {"key": "k", "effect": "NoSchedule"}
    spec = {"unschedulable": True, "taints": [taint], "$setElementOrder/taints": [taint]}
    after = await api.patch(NODE, "n1", {"spec": spec}, "strategic")
    assert after["spec"] == {"unschedulable": True, "taints": [taint]}
    back = await api.patch(NODE, "n1", {"spec": {"unschedulable": None}}, "strategic")
    assert back["spec"] == {"taints": [taint]}


async def test_an_item_without_its_key_is_refused(api: Api) -> None:
    await api.create(POD, pod("a"))
    with pytest.raises(ApiError, match="merge key name"):
        await api.patch(POD, "p", {"spec": {"containers": [{"image": "x"}]}}, "strategic")


async def test_custom_kinds_do_not_take_strategic_patches(api: Api) -> None:
    from tests.unit.kubeapi.test_crds import served

    res = await served(api)
    with pytest.raises(ApiError) as refused:
        await api.patch(res, "k", {}, "strategic")
    assert refused.value.status == 415


async def test_label_and_annotate(api: Api) -> None:
    await api.create(CM, config_map("a"))
    after = await api.patch(CM, "a", {"metadata": {"labels": {"x": "y"}}}, "strategic")
    assert after["metadata"]["labels"] == {"x": "y"}
