"""PodStatus as kubelet shows it: one row per situation."""

from typing import Any

import pytest

from edgecore.pods.backoff import CrashBackoff
from edgecore.pods.phases import pod_status
from edgecore.pods.runtime import State
from edgecore.pods.seen import Ended, Memory, Seen, Waiting
from tests.kit.pods import uid_of
from tests.unit.edgecore_pods.shown import NOW, NOW_S, box, container, look, made, memory, pod, seen

A, B, INIT = container("a"), container("b"), container("init")
SIDE = container("side", restartPolicy="Always")
EXITED = State.EXITED
HOST = ("192.0.2.10",)
Json = dict[str, Any]


def status(obj: Json, now: Seen, remembered: Memory | None = None, before: Json | None = None) -> Json:
    return pod_status(look(obj, now, remembered or memory(now), before), HOST)


def conditions(found: Json) -> dict[str, str]:
    return {c["type"]: c["status"] + (f" {c['reason']}" if "reason" in c else "") for c in found["conditions"]}


@pytest.mark.parametrize(
    ("policy", "there", "expected"),
    [
        ("Always", [], "Pending"),
        ("Always", [made(A)], "Pending"),
        ("Always", [made(A), made(B)], "Running"),
        ("Always", [made(A), made(B, EXITED, code=1)], "Running"),
        ("Always", [made(A, EXITED), made(B, EXITED)], "Running"),
        ("OnFailure", [made(A, EXITED), made(B, EXITED)], "Succeeded"),
        ("OnFailure", [made(A, EXITED), made(B, EXITED, code=1)], "Running"),
        ("Never", [made(A, EXITED), made(B)], "Running"),
        ("Never", [made(A, EXITED), made(B, EXITED)], "Succeeded"),
        ("Never", [made(A, EXITED), made(B, EXITED, code=1)], "Failed"),
    ],
)
def test_the_phase_follows_from_policy_and_containers(policy: str, there: list[Any], expected: str) -> None:
    """POD-10."""
    assert status(pod("web", A, B, restartPolicy=policy), seen(box(), *there))["phase"] == expected


@pytest.mark.parametrize(
    ("policy", "there", "expected"),
    [
        ("Always", [made(INIT)], "Pending"),
        ("Never", [made(INIT, EXITED, code=1)], "Failed"),
        ("Always", [made(INIT, EXITED, code=1)], "Pending"),
        ("Always", [made(INIT, EXITED)], "Pending"),
        ("Always", [made(INIT, EXITED), made(A)], "Running"),
    ],
)
def test_the_phase_while_init_containers_run(policy: str, there: list[Any], expected: str) -> None:
    wanted = pod("web", A, initContainers=[INIT], restartPolicy=policy)

    assert status(wanted, seen(box(), *there))["phase"] == expected


def test_a_pod_is_not_finished_while_a_sidecar_runs() -> None:
    """POD-10."""
    wanted = pod("web", A, initContainers=[SIDE], restartPolicy="Never")

    assert status(wanted, seen(box(), made(SIDE), made(A, EXITED)))["phase"] == "Running"
    assert status(wanted, seen(box(), made(SIDE, EXITED, code=143), made(A, EXITED)))["phase"] == "Succeeded"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_an_ended_phase_is_for_ever(phase: str) -> None:
    """POD-10."""
    assert status(pod("web", A), seen(), before={"phase": phase})["phase"] == phase


def test_a_running_pod_says_everything_a_client_needs() -> None:
    found = status(pod("web", A), seen(box(), made(A)))

    assert found["containerStatuses"] == [
        {
            "name": "a",
            "state": {"running": {"startedAt": "1970-01-01T00:00:01Z"}},
            "lastState": {},
            "ready": True,
            "restartCount": 0,
            "image": A["image"],
            "imageID": "sha256:1",
            "started": True,
            "resources": {},
            "containerID": "containerd://a-0",
        }
    ]
    assert {key: found[key] for key in ("podIP", "podIPs", "hostIP", "hostIPs", "startTime", "qosClass")} == {
        "podIP": "10.88.0.2",
        "podIPs": [{"ip": "10.88.0.2"}],
        "hostIP": "192.0.2.10",
        "hostIPs": [{"ip": "192.0.2.10"}],
        "startTime": NOW,
        "qosClass": "BestEffort",
    }
    assert conditions(found) == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }


@pytest.mark.parametrize(
    ("there", "name", "reason"),
    [([], "a", "PodInitializing"), ([], "init", "ContainerCreating"), ([made(INIT)], "a", "PodInitializing")],
)
def test_what_has_not_started_says_what_it_waits_for(there: list[Any], name: str, reason: str) -> None:
    found = status(pod("web", A, initContainers=[INIT]), seen(box(), *there))

    every = found["containerStatuses"] + found["initContainerStatuses"]
    assert next(s["state"] for s in every if s["name"] == name) == {"waiting": {"reason": reason}}


def test_without_init_containers_a_container_is_being_created() -> None:
    found = status(pod("web", A), seen())

    assert found["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert conditions(found)["PodReadyToStartContainers"] == "False"


def test_a_crash_loop_shows_its_wait_and_its_last_end() -> None:
    """POD-6, POD-10."""
    now = seen(box(), made(A, EXITED, 2, code=3))
    remembered = memory(now)
    remembered.messages["a-2"] = "no luck"
    remembered.held("a").backoff = CrashBackoff(40.0, NOW_S + 40.0, "a-2")

    found = status(pod("web", A), now, remembered)["containerStatuses"][0]

    message = f"back-off 40s restarting failed container=a pod=web_default({uid_of('web')})"
    assert found["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    assert found["lastState"]["terminated"] == {
        "exitCode": 3,
        "reason": "Error",
        "message": "no luck",
        "startedAt": "1970-01-01T00:00:01Z",
        "finishedAt": "1970-01-01T00:00:02Z",
        "containerID": "containerd://a-2",
    }
    assert (found["restartCount"], found["ready"], found["started"]) == (2, False, False)


def test_a_restarted_container_shows_how_its_predecessor_ended() -> None:
    now = seen(box(), made(A, EXITED, 0, code=137), made(A, attempt=1))

    found = status(pod("web", A), now)["containerStatuses"][0]

    assert "running" in found["state"]
    assert found["lastState"]["terminated"]["exitCode"] == 137


def test_a_failed_attempt_to_start_is_the_waiting_reason() -> None:
    remembered = Memory(start_time=NOW)
    remembered.held("a").trouble = Waiting("ErrImagePull", "not found")

    found = status(pod("web", A), seen(box()), remembered)["containerStatuses"][0]

    assert found["state"] == {"waiting": {"reason": "ErrImagePull", "message": "not found"}}


def test_an_unready_container_makes_the_pod_unready_by_name() -> None:
    now = seen(box(), made(A), made(B))
    remembered = memory(now)
    remembered.held("b").ready = False

    found = status(pod("web", A, B), now, remembered)
    ready = next(c for c in found["conditions"] if c["type"] == "Ready")

    assert (ready["status"], ready["reason"], ready["message"]) == (
        "False",
        "ContainersNotReady",
        "containers with unready status: [b]",
    )


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (None, 'corresponding condition of pod readiness gate "lb" does not exist.'),
        ("False", 'the status of pod readiness gate "lb" is not "True", but False'),
        ("True", ""),
    ],
)
def test_readiness_gates_are_asked_and_conditions_of_others_stay(gate: str | None, expected: str) -> None:
    """POD-10."""
    told = {"conditions": [{"type": "lb", "status": gate, "lastTransitionTime": "x"}] if gate else []}
    wanted = {**pod("web", A, readinessGates=[{"conditionType": "lb"}]), "status": told}
    stale = {"conditions": [{"type": "lb", "status": "Unknown", "lastTransitionTime": "x"}]}

    found = status(wanted, seen(box(), made(A)), before=stale)
    ready = next(c for c in found["conditions"] if c["type"] == "Ready")

    assert ready.get("message", "") == expected
    assert [c for c in found["conditions"] if c["type"] == "lb"] == told["conditions"]


def test_conditions_that_others_set_and_no_gate_names_stay() -> None:
    """POD-10."""
    others = {"type": "example.com/checked", "status": "True", "lastTransitionTime": "x"}

    found = status(pod("web", A), seen(box(), made(A)), before={"conditions": [others]})

    assert others in found["conditions"]


def test_a_condition_keeps_its_transition_time_while_its_status_stays() -> None:
    earlier = "2025-06-01T00:00:00Z"
    before = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": earlier}]}

    found = status(pod("web", A), seen(box(), made(A)), before=before)
    times = {c["type"]: c["lastTransitionTime"] for c in found["conditions"]}

    assert (times["Ready"], times["Initialized"]) == (earlier, NOW)


def test_an_evicted_pod_is_failed_once_nothing_of_it_runs() -> None:
    remembered = Memory(start_time=NOW, ended=Ended("Evicted", "The node was low on resource: memory."))

    still = status(pod("web", A), seen(box(), made(A)), remembered)
    over = status(pod("web", A), seen(box(state=EXITED), made(A, EXITED, code=137)), remembered)

    assert (still["phase"], over["phase"]) == ("Running", "Failed")
    assert (over["reason"], over["message"]) == ("Evicted", "The node was low on resource: memory.")
    assert conditions(over)["DisruptionTarget"] == "True TerminationByKubelet"


def test_a_pod_that_was_refused_shows_why_and_no_waiting_containers() -> None:
    """POD-13: else `kubectl get` would call it ContainerCreating."""
    refused = Memory(start_time=NOW, ended=Ended("OutOfmemory", "Node didn't have enough resource: memory"))
    found = status(pod("web", A, initContainers=[INIT]), seen(), refused)

    assert (found["phase"], found["reason"], found["containerStatuses"]) == ("Failed", "OutOfmemory", [])
    assert "initContainerStatuses" not in found


def test_an_ended_pod_keeps_its_address() -> None:
    over = status(pod("web", A, restartPolicy="Never"), seen(made(A, EXITED)), before={"podIPs": [{"ip": "10.88.0.9"}]})

    assert over["podIP"] == "10.88.0.9"
    assert conditions(over)["Ready"] == "False PodCompleted"


def test_a_container_that_the_runtime_lost_is_told_as_lost() -> None:
    before = {
        "containerStatuses": [
            {
                "name": "a",
                "containerID": "containerd://old",
                "restartCount": 2,
                "state": {"running": {"startedAt": NOW}},
            }
        ]
    }
    remembered = Memory(start_time=NOW)
    remembered.held("a").least_attempt = 3

    found = status(pod("web", A), seen(box()), remembered, before)["containerStatuses"][0]

    assert found["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert found["restartCount"] == 2


def test_host_network_shows_the_node_s_address() -> None:
    assert status(pod("web", A, hostNetwork=True), seen(box(), made(A)))["podIP"] == "192.0.2.10"


def test_the_status_of_an_unchanged_pod_is_the_same_each_time() -> None:
    now = seen(box(), made(A))
    first = status(pod("web", A), now)

    assert status(pod("web", A), now, before=first) == first
