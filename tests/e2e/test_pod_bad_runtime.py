"""What goes wrong at run time on one gateway with containerd: probes and hooks that hang, a runtime that dies or hangs, a flood of log lines.

Each is told in words that a person understands, and a pod beside it never notices. Memory beyond its limit (OOMKilled), a
deadline and a back-off over clock jumps are shown elsewhere: tests/e2e/test_pods_on_containerd.py, tests/unit/edgecore_pods.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.kit.containerd import Host
from tests.kit.fleet import Fleet, Json, container, fleet, pod
from tests.kit.leftovers import state
from tests.kit.platform import command

NODE = "gw-1"
HANGS = {"exec": {"command": ["sleep", "98765"]}, "timeoutSeconds": 1, "periodSeconds": 1}
DEAF = "trap '' TERM; echo deaf; while true; do sleep 1; done"
LINES = 50_000
FLOOD = f"sleep 1; i=0; while [ $i -lt 100 ]; do seq 1 {LINES // 100}; sleep 0.03; i=$((i+1)); done; echo over; exec sleep 100000"
LOG_BYTES, LOG_FILES = 256 << 10, 3
MOST_RSS_BYTES = 66 << 20


@pytest.fixture(scope="module")
def site() -> Iterator[Fleet]:
    with fleet(NODE, edge_sets=(f"pods.log_max_bytes={LOG_BYTES}", f"pods.log_files={LOG_FILES}")) as one:
        one.apply(pod("steady"))
        one.say("wait --for=condition=Ready pod/steady --timeout=50s")
        yield one


def host(site: Fleet) -> Host:
    found = site.edges[NODE].host
    assert found is not None
    return found


def status(site: Fleet, name: str) -> Json:
    found = site.get(f"pod {name}")["status"]
    return {**found, "main": next(iter(found.get("containerStatuses") or [{}]))}


def said(site: Fleet, name: str, reason: str) -> str:
    """The messages of a pod's events of one reason."""
    return site.say(
        f"get events --field-selector involvedObject.name={name},reason={reason} -o jsonpath={{.items[*].message}}"
    )


def node_ready(site: Fleet) -> Json:
    found: Json = next(c for c in site.get(f"node {NODE}")["status"]["conditions"] if c["type"] == "Ready")
    return found


def sleepers(site: Fleet, seconds: str) -> list[int]:
    """Processes of the gateway that run ``sleep`` for so long."""
    out = []
    for pid in host(site).processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", seconds.encode()] and state(Path(f"/proc/{pid}/stat")) != "Z":
            out.append(pid)
    return out


def test_a_probe_that_hangs_is_a_failed_one_and_leaves_no_process(site: Fleet) -> None:
    live = container(livenessProbe={**HANGS, "failureThreshold": 2})
    ready = container(readinessProbe={**HANGS, "failureThreshold": 1})
    site.apply(pod("stuck", live), pod("shy", ready))

    site.eventually(lambda: status(site, "stuck")["main"].get("restartCount", 0) >= 1, 60)
    site.eventually(lambda: "Readiness probe failed" in said(site, "shy", "Unhealthy"))
    site.eventually(lambda: "Liveness probe failed" in said(site, "stuck", "Unhealthy"))
    heard = said(site, "stuck", "Unhealthy")
    shy = status(site, "shy")["main"]
    site.say("delete pod stuck shy")
    site.eventually(lambda: not sleepers(site, "98765"))

    assert "timed out after 1s" in heard, heard
    assert (shy["ready"], shy["restartCount"], "running" in shy["state"]) == (False, 0, True)


def test_a_probe_that_hangs_does_not_pile_up(site: Fleet) -> None:
    site.apply(pod("hung", container(readinessProbe={**HANGS, "failureThreshold": 1})))
    seen: list[int] = []

    def failed_often() -> bool:
        seen.append(len(sleepers(site, "98765")))
        metrics = site.call(site.edges[NODE].metrics())
        return failures(metrics) >= before + 4

    before = failures(site.call(site.edges[NODE].metrics()))
    site.eventually(failed_often)
    site.say("delete pod hung")

    assert max(seen) in {1, 2}, seen  # one that is just being killed may be beside the next


def failures(metrics: str) -> float:
    """Readiness probes that failed since the daemon began."""
    name = 'skerry_edge_probe_failures_total{kind="readiness"}'
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name))


def test_a_deaf_container_and_a_hook_that_hangs_end_with_the_grace(site: Fleet) -> None:
    hook = {"preStop": {"exec": {"command": ["sleep", "87654"]}}}
    site.apply(
        pod("deaf", container("main", "sh", "-c", DEAF), terminationGracePeriodSeconds=2),
        pod("hooked", container("main", "sh", "-c", DEAF, lifecycle=hook), terminationGracePeriodSeconds=2),
    )
    site.say("wait --for=condition=Ready pod/deaf pod/hooked --timeout=50s")

    site.say("delete pod deaf hooked --timeout=50s")

    site.eventually(lambda: said(site, "hooked", "FailedPreStopHook"))
    assert "Stopping container main" in said(site, "deaf", "Killing")
    site.eventually(lambda: not sleepers(site, "87654"))


def test_a_deaf_container_that_is_restarted_shows_137(site: Fleet) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    main = container("main", "sh", "-c", DEAF, livenessProbe=probe)
    site.apply(pod("deaf", main, terminationGracePeriodSeconds=2))

    site.eventually(lambda: (status(site, "deaf")["main"].get("lastState") or {}).get("terminated"), 60)
    ended = status(site, "deaf")["main"]["lastState"]["terminated"]
    site.say("delete pod deaf")

    assert ended["exitCode"] == 137


@contextmanager
def containerd_away(site: Fleet) -> Iterator[None]:
    site.call(host(site).kill())
    try:
        yield
    finally:
        site.call(host(site).start())


@contextmanager
def containerd_hangs(site: Fleet) -> Iterator[None]:
    site.call(host(site).pause())
    try:
        yield
    finally:
        host(site).resume()


def doctor(site: Fleet) -> str:
    """What a person at the gateway reads."""
    edge = site.edges[NODE]
    where = ("--set", "pods.runtime=cri", "--set", f"pods.cri_socket={host(site).socket}")
    return site.call(command("edgecore", "doctor", "--data-dir", str(edge.data_dir), *where, check=False))


@pytest.mark.parametrize(
    ("trouble", "words"), [(containerd_away, "no container runtime at"), (containerd_hangs, "does not answer")]
)
def test_a_runtime_that_does_not_answer_is_named_and_the_rest_goes_on(
    site: Fleet, trouble: Callable[[Fleet], AbstractContextManager[None]], words: str
) -> None:
    """Pods from the cloud still arrive, and what is said of them still leaves."""
    before = status(site, "steady")["main"]
    with trouble(site):
        site.eventually(lambda: node_ready(site)["status"] == "False", 60)
        ready = node_ready(site)
        assert site.call(site.edges[NODE].status())["link"]["connected"]
        site.apply(pod("waits", nodeName=NODE))  # no scheduler brings pods to a node that is not ready
        site.eventually(lambda: "container runtime is down" in json.dumps(status(site, "waits")["main"]), 60)
        examined = doctor(site)
        meanwhile = status(site, "steady")["main"]
    site.say("wait --for=condition=Ready pod/waits --timeout=60s")
    site.eventually(lambda: node_ready(site)["status"] == "True", 60)
    after = status(site, "steady")["main"]
    site.say("exec steady -- true")
    site.say("delete pod waits")

    assert (ready["reason"], "container runtime is down" in ready["message"]) == ("ContainerRuntimeDown", True)
    assert (words in ready["message"], words in examined) == (True, True), (ready["message"], examined)
    lives = [(each["containerID"], each["restartCount"]) for each in (before, meanwhile, after)]
    assert lives == [(before["containerID"], 0)] * 3


def test_a_flood_of_log_lines_is_bounded_and_can_be_read(site: Fleet) -> None:
    site.apply(pod("loud", container("main", "sh", "-c", FLOOD)))
    site.say("wait --for=condition=Ready pod/loud --timeout=50s")

    site.eventually(lambda: site.say("logs loud --tail=1") == "over\n", 90)
    (folder,) = (site.edges[NODE].data_dir / "logs").glob("default_loud_*/main")
    site.eventually(lambda: len(list(folder.iterdir())) > 1 and (folder / "0.log").stat().st_size <= LOG_BYTES)
    files = list(folder.iterdir())
    tail = site.say("logs loud --tail=3").splitlines()
    rss = site.edges[NODE].process.rss_bytes()
    site.say("delete pod loud")

    assert (tail[-1], len(tail), len(files) <= LOG_FILES) == ("over", 3, True), files
    assert rss <= MOST_RSS_BYTES, rss


def test_the_pod_beside_it_all_was_never_restarted(site: Fleet) -> None:
    main = status(site, "steady")["main"]
    assert (main["restartCount"], main["ready"], node_ready(site)["status"]) == (0, True, "True"), json.dumps(main)
