"""The plan as tables: what is there, what is to be done."""

from dataclasses import replace
from typing import Any

import pytest

from edgecore.pods.backoff import CALM_S, CrashBackoff, shown
from edgecore.pods.marks import spec_hash
from edgecore.pods.plan import Stop, is_finished, plan
from edgecore.pods.runtime import State
from edgecore.pods.seen import Ended, Kill, Memory, Seen
from tests.unit.edgecore_pods.shown import NOW_S, box, container, made, memory, pod, seen, steps

A, B = container("a"), container("b")
INIT, SIDE, LAST = container("init"), container("side", restartPolicy="Always"), container("last")
EXITED, CREATED = State.EXITED, State.CREATED


def todo(obj: dict[str, Any], now: Seen, remembered: Memory | None = None) -> list[str]:
    return steps(plan(obj, now, remembered or memory(now), NOW_S))


def test_a_new_pod_gets_a_sandbox_then_its_containers_in_order() -> None:
    two = pod("web", A, B)

    assert todo(two, seen()) == ["RunSandbox 0"]
    assert todo(two, seen(box())) == ["Start a 0", "Start b 0"]
    assert todo(two, seen(box(), made(A))) == ["Start b 0"]


def test_a_pod_that_is_as_it_should_be_needs_nothing() -> None:
    """POD-1."""
    now = seen(box(), made(A), made(B))

    assert todo(pod("web", A, B), now) == []
    assert todo(pod("web", A, B), now, Memory(admitted=True)) == [], "nor does one that a new process finds"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([], ["Start init 0"]),
        ([made(INIT)], []),
        ([made(INIT, EXITED, code=1)], ["Start init 1"]),
        ([made(INIT, CREATED)], ["Remove init-0", "Start init 0"]),
        ([made(INIT, EXITED)], ["Start side 0"]),
        ([made(INIT, EXITED), made(SIDE)], ["Start last 0"]),
        ([made(INIT, EXITED), made(SIDE), made(LAST, EXITED)], ["Start a 0"]),
        ([made(INIT, EXITED), made(SIDE), made(LAST, EXITED), made(A)], []),
        ([made(INIT, EXITED), made(SIDE, EXITED), made(LAST, EXITED), made(A)], ["Start side 1"]),
        ([made(A), made(SIDE)], []),
    ],
)
def test_init_containers_come_one_after_the_other_and_sidecars_stay(there: list[Any], expected: list[str]) -> None:
    """POD-5: the last row: what init containers did is done once a main container ran."""
    assert todo(pod("web", A, initContainers=[INIT, SIDE, LAST]), seen(box(), *there)) == expected


def test_a_sidecar_that_has_not_started_holds_the_others_back() -> None:
    now = seen(box(), made(SIDE))
    remembered = memory(now)
    remembered.held("side").started = False

    assert todo(pod("web", A, initContainers=[SIDE]), now, remembered) == []


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 0, ["Start a 1"]),
        ("Always", 1, ["Start a 1"]),
        ("OnFailure", 0, []),
        ("OnFailure", 1, ["Start a 1"]),
        ("Never", 0, []),
        ("Never", 1, []),
    ],
)
def test_what_ended_comes_back_by_policy(policy: str, code: int, expected: list[str]) -> None:
    """POD-5."""
    now = seen(box(), made(A, EXITED, code=code), made(B))

    assert todo(pod("web", A, B, restartPolicy=policy), now) == expected


def test_only_a_changed_container_is_stopped_and_started_again_whatever_its_policy() -> None:
    """POD-3."""
    newer = {**A, "image": "other:2"}
    wanted = pod("web", newer, B, restartPolicy="Never")

    assert todo(wanted, seen(box(), made(A), made(B))) == ["Stop a-0"]
    assert todo(wanted, seen(box(), made(A, EXITED, code=137), made(B))) == ["Start a 1"]


def test_other_fields_of_a_container_change_nothing() -> None:
    """POD-3: a newer API server fills in more defaults."""
    fuller = {**A, "resizePolicy": [], "imagePullPolicy": "Always", "env": [{"name": "NEW", "value": ""}]}

    assert spec_hash(fuller) == spec_hash(A)
    assert todo(pod("web", fuller), seen(box(), made(A))) == []


def test_a_container_without_our_mark_is_left_alone() -> None:
    strange = replace(made(A), annotations={})

    assert todo(pod("web", {**A, "image": "other:2"}), seen(box(), strange)) == []


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 255, ["StopSandbox s0", "RunSandbox 1"]),
        ("OnFailure", 255, ["StopSandbox s0", "RunSandbox 1"]),
        ("OnFailure", 0, []),
        ("Never", 255, []),
    ],
)
def test_a_dead_sandbox_is_made_again_when_something_would_start_in_it(
    policy: str, code: int, expected: list[str]
) -> None:
    """POD-4."""
    now = seen(box(state=EXITED), made(A, EXITED, code=code))

    assert todo(pod("web", A, restartPolicy=policy), now) == expected


def test_in_a_new_sandbox_init_containers_run_again_before_the_others_restart() -> None:
    """POD-4."""
    wanted = pod("web", A, initContainers=[INIT])
    before = (box(state=EXITED), made(INIT, EXITED), made(A, EXITED, code=255))

    assert todo(wanted, seen(*before, box(1))) == ["Start init 1"]
    again = made(INIT, EXITED, 1, sandbox="s1")
    assert todo(wanted, seen(*before, box(1), again))[0] == "Start a 1"


def test_what_was_made_in_a_sandbox_that_died_and_never_ran_is_no_restart() -> None:
    """POD-4."""
    there = seen(box(state=EXITED), made(A, EXITED), made(A, CREATED, 1), box(1))

    assert todo(pod("web", A), there) == ["Remove a-1", "Start a 1"]


def test_what_still_runs_in_a_dead_sandbox_is_stopped_first() -> None:
    assert todo(pod("web", A), seen(box(state=EXITED), made(A))) == ["Stop a-0", "StopSandbox s0"]


def test_a_sandbox_that_cannot_be_made_is_tried_again_later_under_another_attempt() -> None:
    remembered = Memory(sandbox_failures=2, retry_at_s=NOW_S + 4)

    waiting = plan(pod("web", A), seen(), remembered, NOW_S)
    after = plan(pod("web", A), seen(), remembered, NOW_S + 4)

    assert (steps(waiting), waiting.wake_s, steps(after)) == ([], NOW_S + 4, ["RunSandbox 2"])


def test_a_crashing_container_waits_for_its_back_off() -> None:
    """POD-6."""
    now = seen(box(), made(A, EXITED, 1, code=1))
    remembered = memory(now)
    remembered.held("a").backoff = CrashBackoff(10.0, NOW_S + 10.0, "a-1")

    waiting = plan(pod("web", A), now, remembered, NOW_S)

    assert (steps(waiting), waiting.wake_s) == ([], NOW_S + 10.0)
    assert steps(plan(pod("web", A), now, remembered, NOW_S + 10.0)) == ["Start a 2"]


@pytest.mark.parametrize("forgiven", [True, False])
def test_a_person_s_restart_does_not_wait_and_a_failed_probe_s_does(forgiven: bool) -> None:
    """POD-6."""
    now = seen(box(), made(A, EXITED, 1))
    remembered = memory(now)
    held = remembered.held("a")
    held.backoff = CrashBackoff(20.0, NOW_S + 20.0, "a-1")
    held.kill = Kill("a-1", "", restart=True, forgiven=forgiven)

    assert todo(pod("web", A, restartPolicy="OnFailure"), now, remembered) == (["Start a 2"] if forgiven else [])


def test_a_container_that_must_go_is_stopped_once() -> None:
    now = seen(box(), made(A))
    remembered = memory(now)
    remembered.held("a").kill = Kill("a-0", "Container a failed liveness probe", restart=True, grace_s=3)

    first = plan(pod("web", A), now, remembered, NOW_S)
    remembered.stopping["a-0"] = NOW_S + 3

    assert first.steps == [Stop("a-0", "a", NOW_S + 3, "Container a failed liveness probe")]
    assert todo(pod("web", A), now, remembered) == []


def test_a_deleted_pod_ends_main_containers_together_then_sidecars_last_first() -> None:
    """POD-7."""
    second = container("side2", restartPolicy="Always")
    wanted = pod("web", A, B, initContainers=[SIDE, second])
    sides = (made(SIDE), made(second))
    remembered = Memory(stop_by_s=NOW_S + 30)

    assert todo(wanted, seen(box(), made(A), made(B), *sides), remembered) == ["Stop a-0", "Stop b-0"]
    ended = (made(A, EXITED), made(B, EXITED))
    assert todo(wanted, seen(box(), *ended, *sides), remembered) == ["Stop side2-0"]
    assert todo(wanted, seen(box(), *ended, made(SIDE), made(second, EXITED)), remembered) == ["Stop side-0"]
    assert todo(wanted, seen(box(), *ended), remembered) == ["StopSandbox s0", "RemoveSandbox s0", "Forget"]
    assert todo(wanted, seen(), remembered) == ["Forget"]


def test_a_shorter_grace_overtakes_a_stop_that_is_under_way_and_a_longer_one_does_not() -> None:
    """POD-7."""
    now = seen(box(), made(A))

    def wanted(by_s: float) -> list[str]:
        return todo(pod("web", A), now, Memory(stop_by_s=by_s, stopping={"a-0": NOW_S + 10}))

    assert (wanted(NOW_S + 1), wanted(NOW_S + 10), wanted(NOW_S + 60)) == (["Stop a-0"], [], [])


def test_a_pod_that_was_ended_stops_and_keeps_its_containers_for_their_logs() -> None:
    """POD-15."""
    remembered = Memory(ended=Ended("Evicted", "The node was low on resource: memory."))

    assert todo(pod("web", A), seen(box(), made(A)), remembered) == ["Stop a-0"]
    assert todo(pod("web", A), seen(box(), made(A, EXITED, code=137)), remembered) == ["StopSandbox s0", "Release"]

    remembered.released = True
    assert todo(pod("web", A), seen(box(state=EXITED), made(A, EXITED, code=137)), remembered) == []
    full = Memory(ended=Ended("Evicted", "The node was low on resource: ephemeral-storage."), released=True)
    assert todo(pod("web", A), seen(box(state=EXITED), made(A, EXITED, code=137)), full) == ["Remove a-0"]
    assert todo(pod("web", A), seen(box(state=EXITED), made(A, EXITED, code=137)), remembered) == []


def test_a_pod_whose_work_is_done_ends_its_sidecars() -> None:
    wanted = pod("web", A, initContainers=[SIDE], restartPolicy="Never")

    assert todo(wanted, seen(box(), made(SIDE), made(A, EXITED))) == ["Stop side-0"]


@pytest.mark.parametrize(
    ("policy", "there", "finished"),
    [
        ("Always", [made(A, EXITED)], False),
        ("Never", [], False),
        ("Never", [made(A)], False),
        ("Never", [made(A, EXITED, code=1)], True),
        ("OnFailure", [made(A, EXITED, code=1)], False),
        ("OnFailure", [made(A, EXITED)], True),
        ("Never", [made(INIT, EXITED, code=1)], True),
        ("OnFailure", [made(INIT, EXITED, code=1)], False),
    ],
)
def test_when_a_pod_is_finished(policy: str, there: list[Any], finished: bool) -> None:
    wanted = pod("web", A, initContainers=[INIT], restartPolicy=policy)

    assert is_finished(wanted, seen(box(), *there), Memory()) is finished


def test_one_ended_container_per_name_stays_and_empty_dead_sandboxes_go() -> None:
    """POD-11."""
    history = (made(A, EXITED, 0, sandbox="s0"), made(A, EXITED, 1, sandbox="s1"), made(A, attempt=2, sandbox="s2"))
    now = seen(box(0, EXITED), box(1, EXITED), box(2), *history)

    assert todo(pod("web", A), now) == ["Remove a-0", "RemoveSandbox s0"]


def test_back_off_doubles_from_ten_seconds_to_five_minutes_and_calm_forgives() -> None:
    """POD-6."""
    backoff = CrashBackoff()
    waits = []
    for number in range(8):
        backoff.ended(f"c{number}", 1.0, 0.0)
        waits.append(backoff.next_at_s)
        backoff.restarting()
    backoff.ended("calm", CALM_S, 0.0)

    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.next_at_s == 0
    assert [shown(s) for s in (10, 80, 300)] == ["10s", "1m20s", "5m0s"]


def test_one_end_counts_once() -> None:
    backoff = CrashBackoff(10.0)
    backoff.ended("c", 1.0, 100.0)
    backoff.ended("c", 1.0, 500.0)

    assert backoff.next_at_s == 110.0


def test_a_deadline_wakes_the_pod() -> None:
    """POD-8."""
    now = seen(box(), made(A))
    remembered = memory(now)
    remembered.active_since_s = NOW_S - 20

    assert plan(pod("web", A, activeDeadlineSeconds=60), now, remembered, NOW_S).wake_s == NOW_S + 40


def test_what_the_runtime_lost_counts_as_a_restart() -> None:
    remembered = Memory()
    remembered.held("a").least_attempt = 3

    assert todo(pod("web", A), seen(box()), remembered) == ["Start a 3"]
