"""What an office runs on its gateways with kubectl alone: deployments, daemon sets, stateful sets, jobs, and what moves them."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.fleet import Fleet, Json, container, fleet, job, side_by_side, template, workload
from tests.kit.gateway import boot, power_cut

NODES = ("gw-1", "gw-2")
ROLLOUT = "--timeout=30s"


@pytest.fixture(scope="module", params=["cri", "process"])
def site(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with fleet(*NODES, runtime=request.param) as one:
        yield one


def is_ready(pod: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def where(pods: list[Json]) -> Counter[str]:
    return Counter(pod["spec"]["nodeName"] for pod in pods)


def lives(pods: list[Json]) -> set[tuple[str, int]]:
    return {(s["containerID"], s["restartCount"]) for pod in pods for s in pod["status"]["containerStatuses"]}


def gone(site: Fleet, kind: str, app: str) -> None:
    """Delete a workload; its pods go with it."""
    site.say(f"delete {kind} {app} --wait=false")
    site.eventually(lambda: not site.get(f"pods -l app={app}")["items"])


def test_cron_jobs_begin(site: Fleet) -> None:
    """The first of two parts: it fires while the other tests run."""
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick"},
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {"spec": {"template": template("tick", container("main", "true"), restartPolicy="Never")}},
        },
    }
    site.apply(cron)
    site.say("create job by-hand --from=cronjob/tick")
    site.say("wait --for=condition=Complete job/by-hand --timeout=30s")


def test_a_deployment_of_twenty_pods_is_spread_over_the_gateways(site: Fleet) -> None:
    site.apply(workload("Deployment", "many", template("many"), replicas=20))
    site.say(f"rollout status deployment/many {ROLLOUT}")

    pods = site.pods("app=many")
    spread = where(pods)
    assert (len(pods), all(map(is_ready, pods)), min(spread[name] for name in NODES) >= 8) == (20, True, True), spread
    assert len({pod["status"]["podIP"] for pod in pods}) == 20
    assert "20/20" in site.say("get deployment many")
    gone(site, "deployment", "many")


def test_a_rollout_is_watched_stopped_by_a_bad_image_and_undone(site: Fleet) -> None:
    site.apply(workload("Deployment", "web", template("web"), replicas=4))
    site.say(f"rollout status deployment/web {ROLLOUT}")
    before = lives(site.pods("app=web"))

    site.say("set image deployment/web main=localhost/skerry/nowhere:1")
    waiting = site.run("rollout status deployment/web --timeout=4s")
    still = sum(map(is_ready, site.pods("app=web")))
    site.say("rollout undo deployment/web")
    site.say(f"rollout status deployment/web {ROLLOUT}")

    assert (waiting.returncode, still >= 3, "2" in site.say("rollout history deployment/web")) == (1, True, True)
    assert len(lives(site.pods("app=web")) & before) >= 3


def test_restart_and_scale_change_what_they_say(site: Fleet) -> None:
    before = lives(site.pods("app=web"))
    site.say("rollout restart deployment/web")
    site.say(f"rollout status deployment/web {ROLLOUT}")
    site.eventually(lambda: len(site.pods("app=web")) == 4)
    restarted = lives(site.pods("app=web"))
    site.say("scale deployment/web --replicas=6")
    site.say(f"rollout status deployment/web {ROLLOUT}")
    grown = lives(site.pods("app=web"))
    site.say("scale deployment/web --replicas=1")
    site.eventually(lambda: len(site.pods("app=web")) == 1)

    assert (before & restarted, restarted <= grown, len(grown)) == (set(), True, 6)
    gone(site, "deployment", "web")


def test_a_daemon_set_has_one_pod_on_each_gateway(site: Fleet) -> None:
    site.apply(workload("DaemonSet", "agent", template("agent")))
    site.say(f"rollout status daemonset/agent {ROLLOUT}")
    before = site.pods("app=agent")
    site.say("set env daemonset/agent A=1")
    site.say(f"rollout status daemonset/agent {ROLLOUT}")
    after = site.pods("app=agent")

    assert where(before) == where(after) == Counter(NODES)
    assert not lives(before) & lives(after)
    gone(site, "daemonset", "agent")


def claims(**volume: Any) -> list[Json]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, **volume}
    return [{"metadata": {"name": "data"}, "spec": spec}]


def kept(site: Fleet) -> list[str]:
    return [site.say(f"exec db-{at} -- cat /data/own").strip() for at in range(2)]


def settled(site: Fleet) -> None:
    site.eventually(lambda: sum(map(is_ready, site.pods("app=db"))) == 2, 60)


def test_a_stateful_set_keeps_its_data_through_deletion_and_a_power_cut(site: Fleet) -> None:
    main = container(volumeMounts=[{"name": "data", "mountPath": "/data"}])
    pods = template("db", main)
    site.apply(workload("StatefulSet", "db", pods, replicas=2, serviceName="db", volumeClaimTemplates=claims()))
    site.say(f"rollout status statefulset/db {ROLLOUT}")
    for at in range(2):
        site.say(f"exec db-{at} -- sh -c 'hostname > /data/own; sync'")
    homes = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in site.pods("app=db")}

    site.say("delete pod db-0 db-1")
    settled(site)
    assert kept(site) == ["db-0", "db-1"]
    lose_power(site, homes["db-0"])
    settled(site)

    assert kept(site) == ["db-0", "db-1"]
    assert {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in site.pods("app=db")} == homes
    gone(site, "statefulset", "db")


def lose_power(site: Fleet, name: str) -> None:
    """Everything on a gateway ends at once, and starts as a boot does."""
    edge = site.edges[name]
    before = {pod["metadata"]["name"]: lives([pod]) for pod in site.pods("app=db") if pod["spec"]["nodeName"] == name}
    site.call(power_cut(edge))
    site.call(boot(edge))
    site.call(edge.connected())
    site.eventually(lambda: not any(lives([site.get(f"pod {pod}")]) & lived for pod, lived in before.items()))


def test_jobs_complete_in_parallel_and_fail_at_their_limit(site: Fleet) -> None:
    site.apply(
        job("sums", template("sums", container("main", "true"), restartPolicy="Never"), completions=6, parallelism=3),
        job("fails", template("fails", container("main", "sh", "-c", "exit 3"), restartPolicy="Never"), backoffLimit=0),
    )
    site.say("wait --for=condition=Complete job/sums --timeout=30s")
    site.say("wait --for=condition=Failed job/fails --timeout=30s")

    done, failed = site.get("job sums")["status"], site.get("job fails")["status"]
    (why,) = [c["reason"] for c in failed["conditions"] if c["type"] == "Failed"]
    assert (done["succeeded"], failed["failed"], why) == (6, 1, "BackoffLimitExceeded")
    site.say("delete job sums fails")


def test_a_changed_config_map_and_secret_reach_a_running_pod(site: Fleet) -> None:
    site.say("create configmap words --from-literal=word=one")
    site.say("create secret generic pins --from-literal=pin=1")
    volumes = [{"name": "c", "configMap": {"name": "words"}}, {"name": "s", "secret": {"secretName": "pins"}}]
    mounts = [{"name": "c", "mountPath": "/c"}, {"name": "s", "mountPath": "/s"}]
    site.apply(workload("Deployment", "reads", template("reads", container(volumeMounts=mounts), volumes=volumes)))
    site.say(f"rollout status deployment/reads {ROLLOUT}")
    before = lives(site.pods("app=reads"))
    assert site.say("exec deploy/reads -- cat /c/word /s/pin") == "one1"

    site.say('patch configmap words -p \'{"data":{"word":"two"}}\'')
    site.say('patch secret pins -p \'{"stringData":{"pin":"2"}}\'')
    site.eventually(lambda: site.say("exec deploy/reads -- cat /c/word /s/pin") == "two2")

    assert lives(site.pods("app=reads")) == before
    gone(site, "deployment", "reads")


def test_drain_moves_what_may_move_and_waits_for_the_budget(site: Fleet) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "moves"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "moves"}}},
    }
    site.apply(workload("Deployment", "moves", template("moves"), replicas=4), budget)
    site.say(f"rollout status deployment/moves {ROLLOUT}")
    site.eventually(lambda: site.get("pdb moves")["status"].get("disruptionsAllowed") == 1)

    said = site.say("drain gw-1 --ignore-daemonsets --delete-emptydir-data --force --timeout=30s")
    site.eventually(lambda: where(site.pods("app=moves")) == Counter({"gw-2": 4}))
    cordoned = site.say("get node gw-1")
    site.say("uncordon gw-1")

    assert ("drained" in said, "SchedulingDisabled" in cordoned) == (True, True)
    site.say("scale deployment/moves --replicas=8")
    site.say(f"rollout status deployment/moves {ROLLOUT}")
    assert where(site.pods("app=moves"))["gw-1"] >= 3
    site.say("delete pdb moves")
    gone(site, "deployment", "moves")


def test_cron_jobs_have_fired(site: Fleet) -> None:
    site.eventually(lambda: "lastScheduleTime" in site.get("cronjob tick")["status"], 90)
    fired = [each["metadata"]["name"] for each in site.get("jobs")["items"]]
    (name, *_) = [name for name in fired if name.startswith("tick-")]
    site.say(f"wait --for=condition=Complete job/{name} --timeout=30s")
    site.say("delete cronjob tick")
    site.eventually(lambda: not site.get("pods -l app=tick")["items"])


def test_both_gateways_are_well_at_the_end(site: Fleet) -> None:
    nodes = side_by_side(*(lambda name=name: site.get(f"node {name}") for name in NODES))
    assert [is_ready(node) for node in nodes] == [True, True], json.dumps(nodes)
