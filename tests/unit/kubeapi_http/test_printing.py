"""Tables: cells of built-in kinds, JSONPath columns of custom ones, ages."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi import kinds, tables
from kubeapi.durations import age, human
from kubeapi.jsonpath import BadPath, find
from kubeapi.resources import Column, Resource

NOW = datetime(2026, 1, 10, tzinfo=UTC)
CREATED = "2026-01-09T23:59:00Z"


def cells(res: Resource, obj: dict[str, Any]) -> list[Any]:
    obj = {"metadata": {"name": "x", "creationTimestamp": CREATED}, **obj}
    return tables.cells(res, obj, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-0.5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (599, "9m59s"), (600, "10m"),
        (10799, "179m"), (10800, "3h"), (12000, "3h20m"), (28800, "8h"), (172799, "47h"), (172800, "2d"), (180000, "2d2h"),
        (691200, "8d"), (63071999, "729d"), (63072000, "2y"), (63158400, "2y1d"), (252288000, "8y"),
    ],
)  # fmt: skip
def test_an_age_shows_its_two_digits_that_matter(seconds: float, text: str) -> None:
    assert human(timedelta(seconds=seconds)) == text


def test_an_age_of_nothing_is_unknown() -> None:
    assert [age(text, NOW) for text in (None, "", "yesterday", 5, "2026-01-01T00:00:00")] == ["<unknown>"] * 5


def test_a_nodes_row_has_status_roles_and_addresses() -> None:
    labels = {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""}
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian"},
    }
    row = cells(
        kinds.NODE, {"metadata": {"name": "x", "labels": labels}, "spec": {"unschedulable": True}, "status": status}
    )
    assert row == [
        "x", "Ready,SchedulingDisabled", "agent,edge", "<unknown>", "v1", "10.0.0.1", "<none>", "Debian", "<unknown>", "<unknown>"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ([], "Unknown"),
        ([{"type": "Ready", "status": "False"}], "NotReady"),
        ([{"type": "Ready", "status": "Unknown"}], "NotReady"),
    ],
)
def test_a_node_without_a_ready_condition_is_not_shown_as_ready(conditions: list[Any], text: str) -> None:
    assert cells(kinds.NODE, {"status": {"conditions": conditions}})[1] == text


@pytest.mark.parametrize(
    ("status", "deleted", "text"),
    [
        ({"phase": "Pending"}, False, "Pending"),
        ({"phase": "Failed", "reason": "Evicted"}, False, "Evicted"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}, False, "ImagePullBackOff"),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, False, "ExitCode:3"),
        ({"containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}, False, "Signal:9"),
        ({"initContainerStatuses": [{"state": {"running": {}}}]}, False, "Init:0/1"),
        (
            {"initContainerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]},
            False,
            "Init:Error",
        ),
        ({"phase": "Running"}, True, "Terminating"),
        ({"phase": "Running", "reason": "NodeLost"}, True, "Unknown"),
    ],
)
def test_a_pods_status_is_one_word(status: dict[str, Any], deleted: bool, text: str) -> None:
    metadata = {"name": "x", **({"deletionTimestamp": CREATED} if deleted else {})}
    spec = {"containers": [{}], "initContainers": [{"name": "i"}]}
    assert cells(kinds.POD, {"metadata": metadata, "spec": spec, "status": status})[2] == text


def test_a_pods_restarts_say_when_the_last_one_was() -> None:
    state = {
        "restartCount": 3,
        "ready": True,
        "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": CREATED}},
    }
    row = cells(kinds.POD, {"spec": {"containers": [{}, {}]}, "status": {"containerStatuses": [state]}})
    assert (row[1], row[3]) == ("1/2", "3 (60s ago)")


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (
            {"ports": [{"port": 80, "nodePort": 30080}], "clusterIP": "10.0.0.1"},
            ["ClusterIP", "10.0.0.1", "<none>", "80:30080/TCP"],
        ),
        ({"type": "ExternalName", "externalName": "a.b"}, ["ExternalName", "<none>", "a.b", "<none>"]),
        ({"type": "LoadBalancer"}, ["LoadBalancer", "<none>", "<pending>", "<none>"]),
        ({"externalIPs": ["1.2.3.4"]}, ["ClusterIP", "<none>", "1.2.3.4", "<none>"]),
    ],
)
def test_a_services_row_shows_where_it_is_reached(spec: dict[str, Any], shown: list[str]) -> None:
    assert cells(kinds.SERVICE, {"spec": spec})[1:5] == shown


def test_both_kinds_of_events_show_the_same_row() -> None:
    core = {
        "type": "Warning",
        "reason": "R",
        "message": "M\n",
        "involvedObject": {"kind": "Pod", "name": "p"},
        "lastTimestamp": CREATED,
    }
    new = {
        "type": "Warning",
        "reason": "R",
        "note": "M",
        "regarding": {"kind": "Pod", "name": "p"},
        "deprecatedLastTimestamp": CREATED,
    }
    assert cells(kinds.EVENT, core) == cells(kinds.EVENT_VIEW, new)
    assert cells(kinds.EVENT, core)[:5] == ["60s", "Warning", "R", "pod/p", "M"]


def test_every_built_in_kind_has_as_many_cells_as_columns_even_when_it_is_empty_or_wrong() -> None:
    for res in kinds.BUILT_IN:
        for obj in (
            {"metadata": {"name": "x"}},
            {"metadata": {"name": "x"}, "spec": [], "status": {"conditions": [1]}},
        ):
            assert len(tables.cells(res, obj, NOW)) == len(tables.definitions(res))


def custom(*columns: Column) -> Resource:
    return Resource("g.example.com", "v1", "things", "Thing", columns=columns, custom=True)


def test_a_custom_kind_without_columns_shows_name_and_age() -> None:
    assert cells(custom(), {}) == ["x", "60s"]


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("string", True, "true"), ("string", 3, "3"), ("string", 2.0, "2"), ("string", ["a", "b"], "a,b"), ("integer", 3.7, 3),
        ("integer", "3", None), ("integer", True, None), ("number", 2.5, 2.5), ("boolean", True, True), ("boolean", "true", None),
        ("date", CREATED, "60s"), ("string", None, None),
    ],
)  # fmt: skip
def test_a_custom_column_shows_its_type_or_nothing(kind: str, value: Any, shown: Any) -> None:
    assert cells(custom(Column("C", ".spec.c", kind)), {"spec": {"c": value}})[1] == shown


def test_an_absent_date_is_unknown_and_anything_else_absent_is_empty() -> None:
    assert cells(custom(Column("C", ".spec.c", "date"), Column("D", ".spec.d")), {})[1:] == ["<unknown>", None]


THING = {"a": {"b.c": 1, "d": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]}, "n": None}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.d[0].v", [1]), ("{.a.d[-1].v}", [2]), ("$.a.d[*].v", [1, 2]), (".a['b.c']", [1]), (r".a.b\.c", [1]), (".n", [None]),
        ('.a.d[?(@.t=="y")].v', [2]), (".a.d[?(@.v>1)].t", ["y"]), (".a.d[?(@.t!='x')].v", [2]), (".a.d[?(@.w)]", []),
        (".a.d[0:1].v", [1]), (".a.*", [1, THING["a"]["d"]]), (".z.y.x", []), ("a.d[1].t", ["y"]), ("", [THING]),  # type: ignore[index]
        (".a.d[9]", []), (".a.d[?(@.t>1)]", []),
    ],
)  # fmt: skip
def test_a_jsonpath_finds(path: str, found: list[Any]) -> None:
    assert find(THING, path) == found


@pytest.mark.parametrize("path", ["..a", ".a[", ".a[?(@.b==c)]", ".a[x]", "." * 2000, ".a..b"])
def test_what_is_no_jsonpath_is_refused(path: str) -> None:
    with pytest.raises(BadPath):
        find({}, path)


@given(st.text(max_size=60))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        find(THING, text)
    except BadPath:
        return
