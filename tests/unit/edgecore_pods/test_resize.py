"""In-place resize as tables: what is promised, what is done, what is said (POD-17)."""

from typing import Any

import pytest

from edgecore.pods import resize
from edgecore.pods.admission import NodeRoomLeft
from edgecore.pods.phases import pod_status
from edgecore.pods.plan import plan
from edgecore.pods.runtime import State
from edgecore.pods.seen import Memory
from tests.unit.edgecore_pods.shown import NOW_S, box, container, look, made, memory, pod, seen, steps

Json = dict[str, Any]
NODE = NodeRoomLeft("gw-1", {}, {"cpu": 4000, "memory": 4 << 30, "pods": 10})


def of(cpu: str, ram: str = "64Mi", *policy: tuple[str, str]) -> Json:
    resources = {"requests": {"cpu": cpu, "memory": ram}, "limits": {"cpu": cpu, "memory": ram}}
    policies = [{"resourceName": name, "restartPolicy": what} for name, what in policy]
    return container("a", resources=resources, resizePolicy=policies)


def after(before: Json, now: Json, *others: Json, static: bool = False) -> tuple[Memory, Json]:
    """What is remembered after a pod with ``before`` was given ``now``, and that pod."""
    shown = seen(box(), made(before))
    remembered = memory(shown)
    remembered.held("a").given = resize.resources_of(before)
    resize.decide(pod("web", before), remembered, shown, list, lambda: NODE)
    wanted = pod("web", now)
    if static:
        wanted["metadata"]["annotations"] = {"kubernetes.io/config.source": "file"}
    resize.decide(wanted, remembered, shown, lambda: list(others), lambda: NODE)
    return remembered, wanted


def conditions(remembered: Memory, wanted: Json) -> dict[str, Json]:
    found = pod_status(look(wanted, seen(box(), made(of("1"))), remembered), ("192.0.2.10",))["conditions"]
    return {c["type"]: c for c in found if "Resize" in c["type"]}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (of("1"), of("1"), []),
        (of("1"), of("1000m", "65536Ki"), []),
        (of("1"), of("2"), ["Resize a-0"]),
        (of("1"), of("1", "128Mi"), ["Resize a-0"]),
        (of("1"), of("2", "64Mi", ("cpu", "NotRequired"), ("memory", "RestartContainer")), ["Resize a-0"]),
        (of("1"), of("2", "64Mi", ("cpu", "RestartContainer")), ["Stop a-0"]),
        (of("1"), of("1", "128Mi", ("memory", "RestartContainer")), ["Stop a-0"]),
        (of("1"), of("8"), []),
    ],
)
def test_a_running_container_is_changed_in_place_unless_its_policy_wants_a_restart(
    before: Json, now: Json, expected: list[str]
) -> None:
    """POD-17."""
    remembered, wanted = after(before, now)

    assert steps(plan(wanted, seen(box(), made(before)), remembered, NOW_S)) == expected


def test_a_wish_that_this_node_can_never_keep_is_infeasible_and_changes_nothing() -> None:
    remembered, wanted = after(of("1"), of("8"))

    pending = conditions(remembered, wanted)["PodResizePending"]
    assert (pending["status"], pending["reason"]) == ("True", "Infeasible")
    assert pending["message"] == "Node didn't have enough capacity: cpu, requested: 8000, capacity: 4000"
    assert resize.as_promised(wanted, remembered)["spec"] == pod("web", {**of("8"), **_resources(of("1"))})["spec"]


def test_a_wish_that_others_are_in_the_way_of_waits_and_is_tried_again() -> None:
    other = pod("other", of("2"))
    remembered, wanted = after(of("1"), of("3"), other)
    shown = seen(box(), made(of("1")))
    todo = plan(wanted, shown, remembered, NOW_S)

    assert conditions(remembered, wanted)["PodResizePending"]["reason"] == "Deferred"
    assert (todo.steps, todo.wake_s) == ([], NOW_S + resize.RETRY_S)

    resize.decide(wanted, remembered, shown, list, lambda: NODE)
    assert steps(plan(wanted, shown, remembered, NOW_S)) == ["Resize a-0"]
    assert list(conditions(remembered, wanted)) == ["PodResizeInProgress"]


def test_a_static_pod_is_not_resized() -> None:
    remembered, wanted = after(of("1"), of("2"), static=True)

    message = conditions(remembered, wanted)["PodResizePending"]["message"]
    assert message == "In-place resize of static-pods is not supported"


def test_the_status_tells_what_was_promised_and_what_the_container_has() -> None:
    remembered, wanted = after(of("1"), of("2"))
    (one,) = pod_status(look(wanted, seen(box(), made(of("1"))), remembered), ())["containerStatuses"]

    assert one["allocatedResources"] == {"cpu": "2", "memory": "64Mi"}
    assert one["resources"] == resize.resources_of(of("1"))


def test_what_the_runtime_refuses_is_said_and_not_tried_at_once() -> None:
    remembered, wanted = after(of("1"), of("2"))
    remembered.resize_failed, remembered.resize_at_s = "device or resource busy", NOW_S + 10
    todo = plan(wanted, seen(box(), made(of("1"))), remembered, NOW_S)

    said = conditions(remembered, wanted)["PodResizeInProgress"]
    assert (said["reason"], said["message"]) == ("Error", "device or resource busy")
    assert (todo.steps, todo.wake_s) == ([], NOW_S + 10)


def test_a_container_that_does_not_run_is_made_with_what_was_promised() -> None:
    ended = seen(box(), made(of("1"), State.EXITED, code=1))
    remembered = Memory(admitted=True)
    resize.decide(pod("web", of("1")), remembered, ended, list, lambda: NODE)
    resize.decide(pod("web", of("2")), remembered, ended, list, lambda: NODE)

    assert resize.promised(of("2"), remembered)["resources"] == of("2")["resources"]
    assert conditions(remembered, pod("web", of("2"))) == {}


def _resources(one: Json) -> Json:
    return {"resources": one["resources"]}
