"""What is completed, refused and kept fixed: as kubectl's users know it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.errors import ApiError
from kubeapi.options import WriteOptions
from kubeapi.quantities import BadQuantity, canonical, milli, units
from kubeapi.resources import Resource
from kubeapi.schedules import missed, next_run
from tests.kit.clock import ManualClock
from tests.unit.kubeapi.api import POD, Api
from tests.unit.kubeapi.workload_kit import Cluster, pod_body, workload

Json = dict[str, Any]
DEPLOYMENT, DS, RS, JOB, CRON, STS = (
    kinds.DEPLOYMENT, kinds.DAEMON_SET, kinds.REPLICA_SET, kinds.JOB, kinds.CRON_JOB, kinds.STATEFUL_SET,
)  # fmt: skip


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    cluster = Cluster(api)
    await cluster.start()
    yield cluster
    await api.close()


def container(**fields: Any) -> Json:
    return {"containers": [{"name": "c", "image": "i", **fields}]}


def job(**spec: Any) -> Json:
    template = {"spec": {**container(), "restartPolicy": "Never"}}
    return {"metadata": {"name": "x"}, "spec": {"template": template, **spec}}


def indexed(**spec: Any) -> Json:
    return {"completionMode": "Indexed", "completions": 3, **spec}


def cron(schedule: str = "* * * * *", **spec: Any) -> Json:
    return {"metadata": {"name": "x"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": job()["spec"]}, **spec}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("0.5Gi", "512Mi"),
        ("1e3", "1e3"),
        ("100", "100"),
        ("1500M", "1500M"),
        ("0", "0"),
    ],
)
def test_quantities_are_written_in_canonical_form(text: str, shown: str) -> None:
    assert canonical(text) == shown


def test_quantities_round_up_and_refuse_nonsense() -> None:
    assert (milli("1.0001"), units("1Ki"), units("0.1"), milli("250m")) == (1001, 1024, 1, 250)
    for wrong in ("", "1.5.5", "Gi", "1 Gi", "1Zi", "1e999", "9" * 100):
        with pytest.raises(BadQuantity):
            units(wrong)


def test_schedules_know_zones_names_and_periods() -> None:
    now = ManualClock().wall()  # 2026-01-01T00:00Z
    assert str(next_run("30 4 * * *", now, "Europe/Berlin")) == "2026-01-01 03:30:00+00:00"
    assert str(next_run("@hourly", now)) == "2026-01-01 01:00:00+00:00"
    assert str(next_run("@every 90m", now)) == "2026-01-01 01:30:00+00:00"
    newest, count = missed("*/10 * * * *", now, now.replace(hour=2))
    assert (str(newest), count) == ("2026-01-01 02:00:00+00:00", 12)


@pytest.mark.parametrize(
    ("res", "body", "message"),
    [
        (POD, pod_body("x", **container(ports=[{"containerPort": 99999}])), r"ports\[0\].containerPort: Invalid value: 99999: must be between 1 and 65535"),
        (POD, pod_body("x", **container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})), "must be less than or equal to cpu limit of 1"),
        (POD, pod_body("x", **container(resources={"limits": {"cpu": "lots"}})), "quantities must match the regular expression"),
        (POD, pod_body("x", **container(livenessProbe={"periodSeconds": 1})), "livenessProbe: Required value: must specify a handler type"),
        (POD, pod_body("x", **container(livenessProbe={"tcpSocket": {"port": 1}, "successThreshold": 2})), "successThreshold: Invalid value: 2: must be 1"),
        (POD, pod_body("x", **container(env=[{"name": "A=B"}])), r"env\[0\].name: Invalid value"),
        (POD, pod_body("x", **container(volumeMounts=[{"name": "no", "mountPath": "/a"}])), 'Not found: "no"'),
        (POD, pod_body("x", volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]), "may not specify more than 1 volume type"),
        (POD, pod_body("x", containers=[{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]), r"containers\[1\]: Duplicate value: ..name.: .a"),
        (POD, pod_body("x", tolerations=[{"operator": "Equal"}]), "operator must be Exists when `key` is empty"),
        (POD, pod_body("x", dnsPolicy="None"), "must provide at least one DNS nameserver"),
        (DEPLOYMENT, workload("x", replicas=-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (DEPLOYMENT, workload("x", selector={"matchLabels": {"a": "b"}}), "`selector` does not match template `labels`"),
        (DEPLOYMENT, workload("x", selector={}), "empty selector is invalid for deployment"),
        (DEPLOYMENT, workload("x", strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}), "may not be 0 when `maxSurge` is 0"),
        (DEPLOYMENT, workload("x", strategy={"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}), "may not be specified when strategy `type` is 'Recreate'"),
        (DEPLOYMENT, workload("x", template={"restartPolicy": "Never"}), 'Unsupported value: "Never": supported values: "Always"'),
        (DEPLOYMENT, workload("x", progressDeadlineSeconds=5, minReadySeconds=9), "must be greater than minReadySeconds"),
        (DS, workload("x", updateStrategy={"type": "Maybe"}), 'Unsupported value: "Maybe"'),
        (JOB, job(completionMode="Indexed", parallelism=1), "spec.completions: Required value: when completion mode is Indexed"),
        (JOB, {"metadata": {"name": "x"}, "spec": {"template": {"spec": container()}}}, 'Unsupported value: "Always": supported values: "Never", "OnFailure"'),
        (JOB, job(successPolicy={"rules": [{"succeededCount": 1}]}), "spec.successPolicy: Invalid value: .*requires indexed completion mode"),
        (JOB, job(**indexed(successPolicy={"rules": [{"succeededIndexes": "1-3"}]})), r"succeededIndexes: Invalid value: .1-3.: must be increasing numbers below completions"),
        (JOB, job(**indexed(successPolicy={"rules": [{"succeededIndexes": "1-9999999999"}]})), "must be increasing numbers below completions"),
        (JOB, job(**indexed(successPolicy={"rules": [{"succeededCount": 4}]})), "succeededCount: Invalid value: 4: must be between 1 and 3"),
        (JOB, job(**indexed(maxFailedIndexes=1)), "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"),
        (JOB, job(**indexed(podFailurePolicy={"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]})), "FailIndex requires backoffLimitPerIndex"),
        (CRON, cron("* * *"), "expected exactly 5 fields, found 3"),
        (CRON, cron("61 * * * *"), "bad minute"),
        (CRON, cron("TZ=UTC * * * * *"), "use timeZone field instead"),
        (CRON, cron(timeZone="Mars/Olympus"), "unknown time zone Mars/Olympus"),
        (CRON, {**cron(), "metadata": {"name": "x" * 53}}, "must be no more than 52 characters"),
        (kinds.POD_DISRUPTION_BUDGET, {"metadata": {"name": "x"}, "spec": {"minAvailable": 1, "maxUnavailable": 1}}, "cannot be both set"),
        (kinds.PRIORITY_CLASS, {"metadata": {"name": "system-x"}, "value": 1}, "reserved for system use only"),
        (kinds.PERSISTENT_VOLUME_CLAIM, {"metadata": {"name": "x"}, "spec": {"accessModes": ["ReadWriteOnce"]}}, "resources.storage.: Required value"),
    ],
)  # fmt: skip
async def test_what_cannot_work_is_refused_with_its_field(
    cluster: Cluster, res: Resource, body: Json, message: str
) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        await cluster.api.create(res, body)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("res", "body", "patch", "message"),
    [
        (POD, pod_body("x"), {"spec": {"containers": [{"name": "c", "image": "i", "command": ["x"]}]}}, "pod updates may not change fields other than"),
        (POD, pod_body("x", tolerations=[{"key": "a", "operator": "Exists"}]), {"spec": {"tolerations": []}}, "existing toleration can not be modified"),
        (POD, pod_body("x", schedulingGates=[{"name": "a/b"}]), {"spec": {"schedulingGates": [{"name": "a/b"}, {"name": "c/d"}]}}, "only deletion is allowed"),
        (DEPLOYMENT, workload("x"), {"spec": {"selector": {"matchLabels": {"app": "x", "b": "c"}}, "template": {"metadata": {"labels": {"app": "x", "b": "c"}}}}}, "spec.selector: Invalid value.*field is immutable"),
        (JOB, job(completions=2), {"spec": {"completions": 3}}, "spec.completions: Invalid value: 3: field is immutable"),
        (STS, workload("x", serviceName="x"), {"spec": {"serviceName": "y"}}, "updates to statefulset spec for fields other than 'replicas'"),
        (kinds.STORAGE_CLASS, {"metadata": {"name": "x"}, "provisioner": "a/b"}, {"provisioner": "c/d"}, "field is immutable"),
    ],
)  # fmt: skip
async def test_what_may_not_change_is_named(
    cluster: Cluster, res: Resource, body: Json, patch: Json, message: str
) -> None:
    await cluster.api.create(res, body)
    with pytest.raises(ApiError, match=message) as refused:
        await cluster.api.patch(res, "x", patch)
    assert refused.value.status == 422


async def test_what_of_a_pod_may_change_can(cluster: Cluster) -> None:
    small = container(resources={"requests": {"cpu": "500m"}})
    await cluster.api.create(POD, pod_body("x", nodeName="n", **small))
    await cluster.api.patch(POD, "x", {"spec": {"containers": [{"name": "c", "image": "app:2"}]}}, "strategic")
    held = (await cluster.api.patch(POD, "x", {"spec": {"activeDeadlineSeconds": 60}}))["spec"]
    more = [*held["tolerations"], {"key": "a", "operator": "Exists"}]
    held = (await cluster.api.patch(POD, "x", {"spec": {"tolerations": more}}))["spec"]
    assert (held["containers"][0]["image"], held["activeDeadlineSeconds"], len(held["tolerations"])) == ("app:2", 60, 3)
    resized = {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}
    changed = await cluster.api.patch(POD, "x", resized, "strategic", "resize")
    assert changed["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "1"}}


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"limits": {"cpu": "500m", "memory": "1Gi"}}, "QOS Class may not change"),
        ({"requests": {"ephemeral-storage": "1Gi"}}, "only cpu and memory resources are mutable"),
    ],
)
async def test_a_resize_keeps_the_class_of_the_pod_and_every_other_resource(
    cluster: Cluster, resources: Json, words: str
) -> None:
    small = container(resources={"requests": {"cpu": "500m", "memory": "1Gi"}})
    await cluster.api.create(POD, pod_body("x", nodeName="n", **small))
    resized = {"spec": {"containers": [{"name": "c", "resources": resources}]}}

    with pytest.raises(ApiError, match=words):
        await cluster.api.patch(POD, "x", resized, "strategic", "resize")


async def test_a_grace_period_is_not_changed_by_an_update(cluster: Cluster) -> None:
    await cluster.api.create(POD, pod_body("x", nodeName="n", terminationGracePeriodSeconds=30))

    with pytest.raises(ApiError, match="pod updates may not change fields other than"):
        await cluster.api.patch(POD, "x", {"spec": {"terminationGracePeriodSeconds": 5}})


async def test_a_pod_is_completed_as_an_api_server_does(cluster: Cluster) -> None:
    await cluster.api.patch(kinds.SERVICE_ACCOUNT, "default", {"imagePullSecrets": [{"name": "pull"}]})
    pod = await cluster.api.create(
        POD, pod_body("x", **container(resources={"limits": {"cpu": "0.5", "memory": "1024Mi"}}))
    )
    spec = pod["spec"]
    (volume,) = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert [next(iter(s)) for s in volume["projected"]["sources"]] == [
        "serviceAccountToken",
        "configMap",
        "downwardAPI",
    ]
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert mount == {
        "name": volume["name"],
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert {(t["key"].rpartition("/")[2], t["tolerationSeconds"]) for t in spec["tolerations"]} == {
        ("not-ready", 300),
        ("unreachable", 300),
    }
    assert (spec["priority"], spec["preemptionPolicy"], spec["serviceAccount"]) == (
        0,
        "PreemptLowerPriority",
        "default",
    )
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["status"] == {"phase": "Pending", "qosClass": "Guaranteed"}


async def test_no_token_is_mounted_where_nobody_wants_one(cluster: Cluster) -> None:
    pod = await cluster.api.create(POD, pod_body("x", automountServiceAccountToken=False))
    assert "volumes" not in pod["spec"]
    mirror = pod_body("m")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "1"}
    pod = await cluster.api.create(POD, mirror)
    assert "volumes" not in pod["spec"]
    assert "tolerations" not in pod["spec"]


async def test_pods_need_an_account_and_a_class_that_exist(cluster: Cluster) -> None:
    with pytest.raises(ApiError, match='error looking up service account default/no: serviceaccount "no" not found'):
        await cluster.api.create(POD, pod_body("x", serviceAccountName="no"))
    with pytest.raises(ApiError, match="no PriorityClass with name no was found"):
        await cluster.api.create(POD, pod_body("x", priorityClassName="no"))
    with pytest.raises(ApiError, match='RuntimeClass "no" not found'):
        await cluster.api.create(POD, pod_body("x", runtimeClassName="no"))


async def test_a_limit_range_gives_and_bounds(cluster: Cluster) -> None:
    item = {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}
    await cluster.api.create(kinds.LIMIT_RANGE, {"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    pod = await cluster.api.create(POD, pod_body("x"))
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}
    assert pod["status"]["qosClass"] == "Burstable"
    with pytest.raises(ApiError, match="maximum cpu usage per Container is 1, but limit is 2"):
        await cluster.api.create(POD, pod_body("y", **container(resources={"limits": {"cpu": "2"}})))


async def test_a_job_selects_its_own_pods_and_no_others(cluster: Cluster) -> None:
    made = await cluster.api.create(JOB, job())
    uid = made["metadata"]["uid"]
    assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert (labels["job-name"], labels["batch.kubernetes.io/controller-uid"]) == ("x", uid)
    assert [made["spec"][k] for k in ("completions", "parallelism", "backoffLimit", "completionMode")] == [
        1,
        1,
        6,
        "NonIndexed",
    ]


async def test_statuses_of_objects_stored_under_older_rules_can_still_be_written(cluster: Cluster) -> None:
    pod = await cluster.api.create(POD, pod_body("x"))
    broken = {**pod, "spec": {**pod["spec"], "restartPolicy": "Perhaps"}}
    await cluster.api.db.tx(lambda tx: cluster.api.store.put(tx, POD, broken))
    changed = await cluster.api.patch(POD, "x", {"status": {"phase": "Running"}}, "merge", "status")
    assert changed["status"]["phase"] == "Running"


@pytest.mark.parametrize(("res", "body"), [(POD, pod_body("x")), (JOB, job())])
async def test_what_the_api_adds_to_a_new_object_is_nobody_s_and_survives_the_move_to_server_side_apply(
    cluster: Cluster, res: Resource, body: Json
) -> None:
    made = await cluster.objects.create(res, "default", body, WriteOptions(field_manager="kubectl-client-side-apply"))
    (entry,) = made["metadata"]["managedFields"]
    assert "f:status" not in entry["fieldsV1"]
    moved = [
        {
            "op": "replace",
            "path": "/metadata/managedFields/0",
            "value": {**entry, "manager": "kubectl", "operation": "Apply"},
        }
    ]
    await cluster.objects.patch(res, "default", "x", json.dumps(moved).encode(), "application/json-patch+json")

    config = json.dumps({"apiVersion": res.api_version, "kind": res.kind, **body}).encode()
    opts = WriteOptions(field_manager="kubectl")
    applied, _ = await cluster.objects.patch(res, "default", "x", config, "application/apply-patch+yaml", opts)

    assert applied["spec"] == made["spec"]
