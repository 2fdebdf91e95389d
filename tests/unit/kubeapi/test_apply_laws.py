"""Laws of the patches, for any objects: hypothesis looks for the one that breaks them."""

import copy
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubeapi import fieldsv1
from kubeapi.errors import ApiError
from kubeapi.ownership import entries_of, owned_part, track_update
from kubeapi.patch.apply import apply_patch
from kubeapi.patch.jsonpatch import json_patch
from kubeapi.patch.merge import merge_patch
from kubeapi.resources import Resource
from kubeapi.typed import type_of

Json = dict[str, Any]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "n": {"type": "integer"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "plain": {"type": "array", "items": {"type": "integer"}},
                "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "v": {"type": "integer"}, "w": {"type": "integer"}},
                    },
                },
            },
        }
    },
}
RES = Resource("laws.io", "v1", "laws", "Law", schema=SCHEMA, custom=True)
KIND = type_of(RES)

names = st.sampled_from("abcd")
small = st.integers(0, 3)
part = st.fixed_dictionaries({"name": names}, optional={"v": small, "w": small})
specs = st.fixed_dictionaries(
    {},
    optional={
        "n": small,
        "labels": st.dictionaries(names, st.sampled_from(["x", "y"]), min_size=1, max_size=3),
        "plain": st.lists(small, min_size=1, max_size=3),
        "tags": st.lists(names, min_size=1, max_size=3, unique=True),
        "parts": st.lists(part, min_size=1, max_size=3, unique_by=lambda p: p["name"]),
    },
)
json_values = st.recursive(
    st.none() | st.booleans() | small | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
json_objects = st.dictionaries(names, json_values, max_size=4)


def contains(tree: fieldsv1.Tree, other: fieldsv1.Tree) -> bool:
    """Whether every field of ``other`` is in ``tree``."""
    return not fieldsv1.subtract(other, tree)


def config(spec: Json) -> Json:
    body: Json = {"metadata": {"name": "l"}}
    if spec:
        body["spec"] = spec
    return body


def applied(old: Json | None, spec: Json, manager: str, *, force: bool = True) -> Json:
    return apply_patch(RES, old, config(spec), manager=manager, force=force, subresource="", now=NOW)


def says(obj: Json, spec: Json) -> bool:
    """Whether every field of ``spec`` has its value in ``obj``."""
    live = owned_part(obj)
    changed, _ = fieldsv1.compare(KIND, live, merged_view(live, spec))
    return not changed


def merged_view(live: Json, spec: Json) -> Json:
    from kubeapi.patch.apply import merge

    out: Json = merge(KIND, live, config(spec) if spec else {})
    out.pop("metadata", None)
    return out


@given(specs, specs)
def test_after_a_forced_apply_the_object_says_what_was_applied(first: Json, second: Json) -> None:
    obj = applied(applied(None, first, "alice"), second, "bob")
    assert says(obj, second)


@given(specs, specs)
def test_apply_twice_is_apply_once(first: Json, second: Json) -> None:  # API-11
    once = applied(applied(None, first, "alice"), second, "bob")
    assert applied(once, second, "bob") == once


@given(specs, specs)
def test_a_sole_managers_apply_leaves_exactly_its_configuration(first: Json, second: Json) -> None:
    obj = applied(applied(None, first, "alice"), second, "alice")
    again = applied(None, second, "alice")
    assert normal(owned_part(obj)) == normal(owned_part(again))


def normal(live: Json) -> Json:
    """Order of keyed items is no part of the law."""
    out = copy.deepcopy(live)
    spec = out.get("spec") or {}
    for key, by in (("parts", lambda p: p["name"]), ("tags", lambda t: t)):
        if key in spec:
            spec[key] = sorted(spec[key], key=by)
    return out


@given(specs, specs, specs)
def test_nobody_loses_a_field_that_nobody_took(first: Json, second: Json, third: Json) -> None:  # API-11
    obj = applied(applied(None, first, "alice"), second, "bob", force=True)
    alices = next((e.fields for e in entries_of(obj) if e.manager == "alice"), {})
    try:
        after = applied(obj, third, "bob", force=False)
    except ApiError:
        return
    live = fieldsv1.of_value(KIND, owned_part(after))
    assert contains(live, alices)


@given(specs, specs)
def test_an_apply_without_conflict_takes_nothing(first: Json, second: Json) -> None:
    obj = applied(None, first, "alice")
    try:
        after = applied(obj, second, "bob", force=False)
    except ApiError as refused:
        error: ApiError | None = refused
    else:
        error = None
    if error is not None:
        assert (error.status, bool(error.details["causes"])) == (409, True)
        return
    assert says(after, first)
    assert says(after, second)


@given(specs, specs)
def test_every_field_that_an_update_changed_has_one_plain_owner(first: Json, second: Json) -> None:  # API-12
    obj = applied(None, first, "alice")
    new = {**obj, "spec": second}
    after = track_update(RES, obj, new, "edit", "", NOW)
    changed, _ = fieldsv1.compare(KIND, owned_part(obj), owned_part(new))
    owners = {e.manager: e.fields for e in entries_of(after)}
    if changed:
        assert contains(owners["edit"], changed)
        assert not fieldsv1.intersect(owners.get("alice", {}), changed)


@given(specs, specs)
def test_field_sets_obey_the_laws_of_sets(first: Json, second: Json) -> None:
    a, b = (fieldsv1.of_value(KIND, config(s)) for s in (first, second))
    both = fieldsv1.merge_sets(a, b)
    assert contains(both, a)
    assert contains(both, b)
    assert fieldsv1.subtract(a, a) == {}
    assert not fieldsv1.intersect(fieldsv1.subtract(a, b), b)
    assert set(fieldsv1.leaves(fieldsv1.merge_sets(fieldsv1.subtract(a, b), fieldsv1.intersect(a, b)))) == set(
        fieldsv1.leaves(a)
    )


@given(json_objects, json_objects)
def test_a_merge_patch_is_idempotent_and_changes_neither_side(target: Json, patch: Json) -> None:
    before = copy.deepcopy((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert (target, patch) == before


@given(json_objects, json_objects)
def test_a_json_patch_of_replacements_is_the_replacement(target: Json, wanted: Json) -> None:
    before = copy.deepcopy(target)
    steps = [{"op": "remove", "path": f"/{k}"} for k in target]
    steps += [{"op": "add", "path": f"/{k}", "value": v} for k, v in wanted.items()]
    assert json_patch(target, steps) == wanted
    assert target == before


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from(["op", "path", "from", "value"]), json_values | names), max_size=3))
def test_any_json_patch_is_applied_or_refused_cleanly(steps: list[Json]) -> None:
    status = 200
    try:
        json_patch({"a": [1, {"b": 2}]}, steps)
    except ApiError as error:
        status = error.status
    assert status in (200, 400, 422)
