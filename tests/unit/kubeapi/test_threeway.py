"""Three-way merge: what only one side changed is taken, what both changed in two ways clashes, theirs stays."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi.patch.merge import merge_patch
from kubeapi.patch.threeway import covers, diff, merge

LEAVES = st.one_of(st.integers(0, 3), st.sampled_from(["a", "b"]), st.lists(st.integers(0, 2), max_size=2))
OBJECTS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(st.sampled_from("xyz"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), st.one_of(LEAVES, inner), max_size=3),
    max_leaves=8,
)


@given(OBJECTS, OBJECTS)
def test_a_difference_is_the_patch_from_one_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merge_patch(before, diff(before, after)) == after


@given(OBJECTS, OBJECTS)
def test_nothing_clashes_when_one_side_stood_still(before: dict[str, Any], after: dict[str, Any]) -> None:
    mine, base = diff(before, after), diff(after, before)
    assert merge(base, mine, before) == (after, [])
    assert merge({}, {}, after) == (after, [])


@given(OBJECTS, OBJECTS)
def test_a_change_that_is_there_already_is_none(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merge(diff(after, before), diff(before, after), after) == (after, [])


@given(OBJECTS, OBJECTS, OBJECTS)
def test_where_it_clashes_theirs_stays(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    merged, clashes = merge(diff(mine, base), diff(base, mine), theirs)
    for clash in clashes:
        at: Any = merged
        for step in clash.path.split("."):
            at = at.get(step) if isinstance(at, dict) else None
        assert at == clash.theirs


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged", "clashes"),
    [
        (
            {"data": {"a": "1"}},
            {"data": {"a": "2"}},
            {"data": {"a": "1", "b": "9"}},
            {"data": {"a": "2", "b": "9"}},
            [],
        ),
        ({"data": {"a": "1"}}, {"data": {"a": "2"}}, {"data": {"a": "3"}}, {"data": {"a": "3"}}, ["data.a"]),
        ({"data": {"a": "1"}}, {"data": {"a": None}}, {"data": {"a": "3"}}, {"data": {"a": "3"}}, ["data.a"]),
        ({"labels": None}, {"labels": {"x": "1"}}, {"labels": {"y": "2"}}, {"labels": {"x": "1", "y": "2"}}, []),
    ],
)
def test_fields(base: Any, mine: Any, theirs: Any, merged: Any, clashes: list[str]) -> None:
    found, told = merge(base, mine, theirs)
    assert (found, [clash.path for clash in told]) == (merged, clashes)


def test_items_with_names_are_merged_one_by_one() -> None:
    base = {"c": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}, {"name": "old"}]}
    mine = {"c": [{"name": "a", "image": "2"}, {"name": "b", "image": "1"}, {"name": "new"}]}
    theirs = {"c": [{"name": "a", "image": "1", "pull": "Always"}, {"name": "b", "image": "7"}, {"name": "old"}]}

    merged, clashes = merge(base, mine, theirs)

    wanted = [{"name": "a", "image": "2", "pull": "Always"}, {"name": "b", "image": "7"}, {"name": "new"}]
    assert (merged["c"], clashes) == (wanted, [])


def test_finalizers_are_a_set_and_kubectls_own_annotation_is_no_field() -> None:
    last = "kubectl.kubernetes.io/last-applied-configuration"
    base = {"metadata": {"finalizers": ["a"], "annotations": {last: "0"}}}
    mine = {"metadata": {"finalizers": ["a", "mine"], "annotations": {last: "1"}}}
    theirs = {"metadata": {"finalizers": ["theirs", "a"], "annotations": {last: "2"}}}

    merged, clashes = merge(base, mine, theirs)

    assert clashes == []
    assert merged == {"metadata": {"finalizers": ["theirs", "a", "mine"], "annotations": {last: "2"}}}


def test_what_the_other_side_filled_in_is_no_change() -> None:
    seen = {"spec": {"ports": [{"port": 80}]}}
    assert covers(seen, {"spec": {"ports": [{"port": 80, "protocol": "TCP"}], "type": "ClusterIP"}})
    assert not covers(seen, {"spec": {"ports": [{"port": 81}]}})
    assert not covers(seen, {"spec": {"ports": [{"port": 80}, {"port": 81}]}})
