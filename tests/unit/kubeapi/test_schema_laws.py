"""Laws of the schema walk, for generated schemas and values."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubeapi.crd_schema import structural_causes
from kubeapi.schema import Checker
from kubeapi.typed import Type

Json = dict[str, Any]
names = st.sampled_from("abc")
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["x", "y", "zz"]) | st.floats(-2, 2)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=10
)
leaves = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("integer")}, optional={"minimum": st.integers(-2, 2), "default": st.just(1)}
    ),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "enum": st.just(["x", "y"]),
            "maxLength": st.just(1),
            "default": st.just("x"),
            "nullable": st.booleans(),
        },
    ),
    st.just({"type": "boolean"}),
    st.just({"x-kubernetes-int-or-string": True}),
    st.just({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
    st.just({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
)


def nested(inner: "st.SearchStrategy[Json]") -> "st.SearchStrategy[Json]":
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=3)},
            optional={"required": st.lists(names, max_size=1), "default": st.just({})},
        ),
        st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
    )


schemas = nested(st.recursive(leaves, nested, max_leaves=6))


def walk(schema: Json, value: Any) -> tuple[Any, Checker]:
    checker = Checker(drop_nulls=False)
    return checker.check(Type(schema, lambda _: {}, structural=True), value, "spec"), checker


@settings(max_examples=200)
@given(schemas, values)
def test_pruning_and_defaulting_twice_is_doing_it_once_and_changes_nothing_given(schema: Json, value: Any) -> None:
    before = copy.deepcopy(value)
    once, first = walk(schema, value)
    assert value == before
    if first.found.types:
        return
    again, second = walk(schema, once)
    assert again == once
    assert second.found.unknown == []
    assert second.found.types == []


@given(schemas, values)
def test_every_refusal_names_its_field_and_says_why(schema: Json, value: Any) -> None:
    _, checker = walk(schema, value)
    for cause in (*checker.found.types, *checker.found.causes):
        assert cause.field.startswith("spec")
        assert cause.message
        assert "Traceback" not in str(cause)


@given(schemas, st.data())
def test_what_a_schema_accepts_stays_accepted_when_unknown_fields_come(schema: Json, data: Any) -> None:
    value = data.draw(st.dictionaries(names, values, max_size=3))
    _, plain = walk(schema, value)
    _, more = walk(schema, {**value, "unheard-of": 1} if schema["type"] == "object" else value)
    extra = set(map(str, more.found.causes)) - set(map(str, plain.found.causes))
    if "additionalProperties" not in schema:
        assert not extra


@given(schemas)
def test_generated_schemas_are_structural_or_say_where_they_are_not(schema: Json) -> None:
    root = {"type": "object", "properties": {"spec": schema}}
    for cause in structural_causes(root, "schema.openAPIV3Schema"):
        assert cause.field.startswith("schema.openAPIV3Schema")
