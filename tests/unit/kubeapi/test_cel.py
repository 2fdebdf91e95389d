"""CEL rules of custom kinds: what they see, when they are asked, how they refuse, and what they may cost."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi import cel_rules, kinds
from kubeapi.cel_rules import CelRules, escaped, nesting
from kubeapi.errors import ApiError
from kubeapi.objects import WriteOptions
from tests.unit.kubeapi.api import Api

CRD = kinds.CUSTOM_RESOURCE_DEFINITION
Json = dict[str, Any]
PARTS = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}},
}
FIELDS: Json = {
    "low": {"type": "integer"},
    "high": {"type": "integer"},
    "ratio": {"type": "number"},
    "name": {"type": "string"},
    "from": {"type": "string", "format": "date-time"},
    "for": {"type": "string", "format": "duration"},
    "max-heat": {"type": "integer"},
    "words": {"type": "array", "items": {"type": "string"}},
    "parts": PARTS,
    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "pairs": {"type": "object", "additionalProperties": {"type": "string"}},
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    one = await Api.open(tmp_path)
    one.objects.admission.append(CelRules().admit)
    yield one
    await one.close()


def rule(text: str, **more: Any) -> Json:
    return {"rule": text, **more}


def crd(*rules: Json, **on_fields: list[Json]) -> Json:
    fields = {k: {**v, **({cel_rules.RULES: on_fields[k]} if k in on_fields else {})} for k, v in FIELDS.items()}
    spec = {"type": "object", "properties": fields, **({cel_rules.RULES: list(rules)} if rules else {})}
    status = {"type": "object", "properties": {"phase": {"type": "string"}}}
    schema = {"type": "object", "properties": {"spec": spec, "status": status}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    names = {"plural": "kilns", "kind": "Kiln"}
    return {
        "metadata": {"name": "kilns.example.io"},
        "spec": {"group": "example.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }


async def serve(api: Api, *rules: Json, **on_fields: list[Json]) -> None:
    await api.objects.create(CRD, "", crd(*rules, **on_fields))


async def put(api: Api, **spec: Any) -> list[str]:
    """Create the kiln, or update it; return what was refused."""
    res = api.registry.find("example.io", "v1", "kilns")
    assert res is not None
    body = {"apiVersion": "example.io/v1", "kind": "Kiln", "metadata": {"name": "k"}, "spec": spec}
    held = api.store.get(res, "default", "k")
    try:
        if held is None:
            await api.objects.create(res, "default", body)
        else:
            await api.objects.update(res, "default", "k", {**held, "spec": spec})
    except ApiError as error:
        if error.status != 422:
            raise
        return [f"{c['field']}: {c['message']}" for c in error.details["causes"]]
    return []


async def test_an_object_that_breaks_a_rule_is_refused_with_its_message(api: Api) -> None:  # API-19
    await serve(api, rule("self.low <= self.high", message="low must not be above high"))
    assert await put(api, low=1, high=2) == []
    assert await put(api, low=3, high=2) == ['spec: Invalid value: "object": low must not be above high']


async def test_without_a_message_the_rule_itself_is_said(api: Api) -> None:
    await serve(api, low=[rule("self > 0")])
    assert await put(api, low=0) == ['spec.low: Invalid value: "integer": failed rule: self > 0']


async def test_a_message_may_be_made_by_an_expression_a_reason_and_a_path_may_be_given(api: Api) -> None:
    said = "'at most ' + string(self.high) + ', not ' + string(self.low)"
    await serve(
        api, rule("self.low <= self.high", messageExpression=said, reason="FieldValueForbidden", fieldPath=".low")
    )
    assert await put(api, low=3, high=2) == ["spec.low: Forbidden: at most 2, not 3"]


async def test_a_message_expression_that_fails_leaves_the_plain_message(api: Api) -> None:
    await serve(api, rule("self.low <= self.high", message="plain", messageExpression="string(1 / (self.low - 3))"))
    assert await put(api, low=3, high=2) == ['spec: Invalid value: "object": plain']


async def test_a_transition_rule_compares_with_what_was_and_not_at_creation(api: Api) -> None:
    await serve(api, name=[rule("self == oldSelf", message="the name stays")])
    assert await put(api, name="a") == []
    assert await put(api, name="b") == ['spec.name: Invalid value: "string": the name stays']
    assert await put(api, name="a", low=1) == []


async def test_with_an_optional_old_self_it_is_asked_at_creation_too(api: Api) -> None:
    text = "oldSelf.hasValue() ? self >= oldSelf.value() : self == 1"
    await serve(api, low=[rule(text, optionalOldSelf=True, message="from 1 upwards")])
    assert await put(api, low=2) == ['spec.low: Invalid value: "integer": from 1 upwards']
    assert await put(api, low=1) == []
    assert await put(api, low=5) == []
    assert await put(api, low=4) == ['spec.low: Invalid value: "integer": from 1 upwards']


async def test_items_of_a_map_list_are_compared_with_themselves_and_not_with_their_place(api: Api) -> None:
    items = {**PARTS["items"], cel_rules.RULES: [rule("self.count >= oldSelf.count", message="no less")]}  # type: ignore[dict-item]
    body = crd()
    body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["parts"]["items"] = (
        items
    )
    await api.objects.create(CRD, "", body)
    assert await put(api, parts=[{"name": "a", "count": 1}, {"name": "b", "count": 5}]) == []
    assert await put(api, parts=[{"name": "b", "count": 5}, {"name": "a", "count": 1}]) == []
    assert await put(api, parts=[{"name": "b", "count": 4}]) == ['spec.parts[0]: Invalid value: "object": no less']


async def test_what_has_not_changed_may_break_a_newer_rule(api: Api) -> None:
    await serve(api)
    assert await put(api, low=0, high=0) == []
    newer = crd(low=[rule("self > 0", message="positive")])
    held = api.store.get(CRD, "", "kilns.example.io")
    assert held is not None
    await api.objects.update(CRD, "", "kilns.example.io", {**held, "spec": newer["spec"]})
    assert await put(api, low=0, high=1) == []
    assert await put(api, low=-1, high=1) == ['spec.low: Invalid value: "integer": positive']


@pytest.mark.parametrize(
    ("text", "spec", "holds"),
    [
        ("has(self.low) || has(self.high)", {"name": "x"}, False),
        ("self.words.all(w, w.startsWith('a'))", {"words": ["ab", "b"]}, False),
        ("self.parts.exists(p, p.name == 'a' && p.count > 1)", {"parts": [{"name": "a", "count": 2}]}, True),
        ("self.ratio > 1 && self.ratio == 2.0", {"ratio": 2}, True),
        ("self.from > timestamp('2026-01-01T00:00:00Z')", {"from": "2026-02-01T00:00:00Z"}, True),
        ("self.__for__ <= duration('1h')", {"for": "90m"}, False),
        ("self.max__dash__heat < 10", {"max-heat": 10}, False),
        ("self.pairs.all(k, self.pairs[k] != '')", {"pairs": {"a-b": "c"}}, True),
        ("'a-b' in self.pairs", {"pairs": {"a-b": "c"}}, True),
        ("self.name.matches('^[a-z]+$')", {"name": "Ab"}, False),
        ("self.name.lowerAscii().replace('a', 'b').split(',').size() == 2", {"name": "A,c"}, True),
        ("self.words.isSorted() && self.words.join('-') == 'a-b'", {"words": ["a", "b"]}, True),
        ("self.words.indexOf('b') == 1 && self.name.indexOf('b') == -1", {"words": ["a", "b"], "name": "a"}, True),
        ("self.name.substring(1).trim() == 'b' && self.name.charAt(0) == 'a'", {"name": "a b"}, True),
        ("self.parts.map(p, p.count).sum() == 3", {"parts": [{"name": n, "count": c} for n, c in (("a", 1), ("b", 2))]}, True),
        ("quantity(self.name).isGreaterThan(quantity('1Mi'))", {"name": "1Gi"}, True),
        ("isURL(self.name) && url(self.name).getHost() == 'a:1'", {"name": "http://a:1/b"}, True),
        ("isIP(self.name) || isCIDR(self.name)", {"name": "10.0.0.0/8"}, True),
        ("self.free.a == 1", {"free": {"a": 1}}, True),
        ("self.low / 0 == 1", {"low": 1}, False),
    ],
)  # fmt: skip
async def test_rules_see_values_as_kubernetes_shows_them(api: Api, text: str, spec: Json, holds: bool) -> None:
    await serve(api, rule(text, message="broken"))
    refused = await put(api, **spec)
    assert (refused == []) is holds, refused


async def test_a_rule_at_the_root_sees_the_name_and_a_status_write_is_asked_too(api: Api) -> None:
    body = crd()
    schema = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema[cel_rules.RULES] = [rule("self.metadata.name.startsWith('k')", message="k")]
    schema["properties"]["status"][cel_rules.RULES] = [rule("self.phase != 'bad'", message="no")]
    await api.objects.create(CRD, "", body)
    assert await put(api, low=1) == []
    res = api.registry.find("example.io", "v1", "kilns")
    assert res is not None
    held = api.objects.get(res, "default", "k")
    with pytest.raises(ApiError, match="no"):
        await api.objects.update(res, "default", "k", {**held, "status": {"phase": "bad"}}, subresource="status")


async def test_a_definition_with_a_rule_that_is_none_is_refused_where_it_stands(api: Api) -> None:
    with pytest.raises(ApiError) as caught:
        await serve(api, rule("self.low >"), name=[rule("self." + "a" * 5000)])
    fields = [cause["field"] for cause in caught.value.details["causes"]]
    root = "spec.versions[0].schema.openAPIV3Schema.properties[spec]"
    assert fields == [
        f"{root}.x-kubernetes-validations[0].rule",
        f"{root}.properties[name].x-kubernetes-validations[0].rule",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "self.?low.orValue(1) == 1",
        "self.name.find('a') == 'a'",
        "'%s'.format(['a']) == 'a'",
        "sets.contains([self.low], [1])",
    ],
)
async def test_a_rule_that_only_another_server_knows_is_kept_and_the_person_is_told(api: Api, text: str) -> None:
    opts = WriteOptions()
    await api.objects.create(CRD, "", crd(rule(text)), opts)
    assert "not evaluated by this server" in opts.warnings[0]
    assert await put(api, low=1) == []


async def test_what_would_take_too_long_is_refused_before_it_runs(api: Api) -> None:
    await serve(api, rule("self.words.all(a, self.words.all(b, a != b || true))"))
    assert await put(api, words=["a"] * 300) == []
    (refused,) = await put(api, words=["a"] * 400)
    assert "cost budget" in refused


async def test_what_would_take_too_much_memory_is_refused_before_it_runs(api: Api) -> None:
    await serve(api, rule("self.words.map(w, self.words.join(w)).size() > 0"))
    assert await put(api, words=["a"] * 300) == []
    (refused,) = await put(api, words=["a" * 1000] * 1000)
    assert "cost budget" in refused


async def test_macros_nested_too_deep_are_no_rule(api: Api) -> None:
    text = "true"
    for at in range(6):
        text = f"self.words.all(x{at}, {text})"
    with pytest.raises(ApiError, match="nested 4 deep"):
        await serve(api, rule(text))


def test_nesting_is_counted_outside_of_texts() -> None:
    assert nesting("self.a.all(x, x.b.exists(y, y == ').all(')) && self.c.map(z, z).size() > 0") == 2
    assert nesting("'self.a.all(x, x.all(y, true))' == \"(\"") == 0
    assert nesting("(((self.a)))") == 0


@given(st.text(max_size=300))
def test_no_text_breaks_the_count(text: str) -> None:
    assert 0 <= nesting(text) <= len(text)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a", "a"),
        ("a-b", "a__dash__b"),
        ("a.b/c", "a__dot__b__slash__c"),
        ("a__b", "a__underscores__b"),
        ("in", "__in__"),
    ],
)
def test_names_that_are_no_identifiers_are_escaped(name: str, wanted: str) -> None:
    assert escaped(name) == wanted


def test_the_interpreter_is_not_loaded_without_a_rule() -> None:
    text = "import sys, kubeapi.cel_rules, kubeapi.objects, cloudcore.embedded_api; sys.exit('cel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0
