"""What the API fills into workloads, volumes and classes."""

from collections.abc import Callable
from typing import Any

from kubeapi.defaulting import fill_in, mapped, objects
from kubeapi.pod_defaults import canonical_map, template_defaults

Json = dict[str, Any]
Fill = Callable[[Json, Json | None], None]
MAX_INT = 2**31 - 1
JOB_NAME, CONTROLLER_UID = "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"


def _templated(fill: Callable[[Json], None]) -> Fill:
    """Return the defaults of a kind with a pod template; an unchanged spec is complete."""

    def complete(obj: Json, old: Json | None) -> None:
        if old is not None and obj.get("spec") == old.get("spec"):
            return
        spec = obj["spec"] = dict(mapped(obj.get("spec")))
        if isinstance(spec.get("template"), dict):
            spec["template"] = template_defaults(spec["template"])
        fill(spec)

    return complete


def _replicas(spec: Json) -> None:
    fill_in(spec, replicas=1)


def _deployment(spec: Json) -> None:
    fill_in(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    spec["strategy"] = _strategy(spec["strategy"], {"maxUnavailable": "25%", "maxSurge": "25%"})


def _strategy(strategy: Any, rolling: Json) -> Any:
    if not isinstance(strategy, dict):
        return strategy
    out = dict(strategy)
    fill_in(out, type="RollingUpdate")
    if out["type"] == "RollingUpdate" and isinstance(out.get("rollingUpdate", {}), dict | None):
        out["rollingUpdate"] = {
            **rolling,
            **{k: v for k, v in mapped(out.get("rollingUpdate")).items() if v is not None},
        }
    return out


def _daemon_set(spec: Json) -> None:
    fill_in(spec, revisionHistoryLimit=10, updateStrategy={})
    spec["updateStrategy"] = _strategy(spec["updateStrategy"], {"maxUnavailable": 1, "maxSurge": 0})


def _stateful_set(spec: Json) -> None:
    fill_in(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady", updateStrategy={})
    fill_in(spec, persistentVolumeClaimRetentionPolicy={})
    spec["updateStrategy"] = _strategy(spec["updateStrategy"], {"partition": 0})
    if isinstance(spec["persistentVolumeClaimRetentionPolicy"], dict):
        spec["persistentVolumeClaimRetentionPolicy"] = {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
            **spec["persistentVolumeClaimRetentionPolicy"],
        }
    if isinstance(spec.get("volumeClaimTemplates"), list):
        spec["volumeClaimTemplates"] = [_claim_template(c) for c in objects(spec["volumeClaimTemplates"])]


def _claim_template(claim: Json) -> Json:
    out: Json = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim}
    out["metadata"] = {"creationTimestamp": None, **mapped(claim.get("metadata"))}
    out["spec"] = claim_spec(mapped(claim.get("spec")))
    out["status"] = {"phase": "Pending"}
    return out


def claim_spec(spec: Json) -> Json:
    """Return a claim's spec completed."""
    out = dict(spec)
    fill_in(out, volumeMode="Filesystem")
    requests = mapped(mapped(out.get("resources")).get("requests"))
    if requests:
        out["resources"] = {**out["resources"], "requests": canonical_map(requests)}
    return out


def _job(obj: Json, old: Json | None) -> None:
    _templated(_job_spec)(obj, old)
    metadata, spec = obj["metadata"], mapped(obj.get("spec"))
    if old is not None or not isinstance(spec.get("template"), dict):
        return
    template_labels = mapped(mapped(spec["template"].get("metadata")).get("labels"))
    if not metadata.get("labels") and template_labels:
        obj["metadata"] = {**metadata, "labels": dict(template_labels)}
    if spec.get("manualSelector") is not True:
        _select_own_pods(obj, spec)


def _job_spec(spec: Json) -> None:
    if spec.get("completions") is None and spec.get("parallelism") is None:
        fill_in(spec, completions=1)
    fill_in(spec, parallelism=1, suspend=False, completionMode="NonIndexed", manualSelector=False)
    fill_in(spec, backoffLimit=6 if spec.get("backoffLimitPerIndex") is None else MAX_INT)
    fill_in(spec, podReplacementPolicy="Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")


def _select_own_pods(obj: Json, spec: Json) -> None:
    """Give the job a selector that no other job has, and its pods the labels for it."""
    uid, name = obj["metadata"].get("uid", ""), obj["metadata"].get("name", "")
    own = {CONTROLLER_UID: uid, JOB_NAME: name, "controller-uid": uid, "job-name": name}
    template = spec["template"]
    metadata = {**template["metadata"], "labels": {**mapped(template["metadata"].get("labels")), **own}}
    spec["template"] = {**template, "metadata": metadata}
    if not spec.get("selector"):
        spec["selector"] = {"matchLabels": {CONTROLLER_UID: uid}}


def _cron_job(obj: Json, old: Json | None) -> None:
    if old is not None and obj.get("spec") == old.get("spec"):
        return
    spec = obj["spec"] = dict(mapped(obj.get("spec")))
    fill_in(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    if isinstance(spec.get("jobTemplate"), dict):
        job = dict(mapped(spec["jobTemplate"].get("spec")))
        if isinstance(job.get("template"), dict):
            job["template"] = template_defaults(job["template"])
        metadata = {"creationTimestamp": None, **mapped(spec["jobTemplate"].get("metadata"))}
        spec["jobTemplate"] = {**spec["jobTemplate"], "metadata": metadata, "spec": job}


def _replication_controller(obj: Json, old: Json | None) -> None:
    _templated(_replicas)(obj, old)
    spec = mapped(obj.get("spec"))
    labels = mapped(mapped(mapped(spec.get("template")).get("metadata")).get("labels"))
    if labels and not spec.get("selector"):
        spec["selector"] = dict(labels)
    if labels and not obj["metadata"].get("labels"):
        obj["metadata"] = {**obj["metadata"], "labels": dict(labels)}


def _pod_template(obj: Json, _old: Json | None) -> None:
    if isinstance(obj.get("template"), dict):
        obj["template"] = template_defaults(obj["template"])


def _volume(obj: Json, old: Json | None) -> None:
    spec = obj["spec"] = dict(mapped(obj.get("spec")))
    fill_in(spec, persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    if isinstance(spec.get("capacity"), dict):
        spec["capacity"] = canonical_map(spec["capacity"])
    if old is None:
        obj["status"] = {"phase": "Pending"}


def _claim(obj: Json, old: Json | None) -> None:
    obj["spec"] = claim_spec(mapped(obj.get("spec")))
    if old is None:
        obj["status"] = {"phase": "Pending"}


def _storage_class(obj: Json, _old: Json | None) -> None:
    fill_in(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _priority_class(obj: Json, _old: Json | None) -> None:
    fill_in(obj, preemptionPolicy="PreemptLowerPriority")


def _ports_of(owner: Json) -> None:
    if isinstance(owner.get("ports"), list):
        owner["ports"] = [{"protocol": "TCP", **p} if isinstance(p, dict) else p for p in owner["ports"]]


def _endpoints(obj: Json, _old: Json | None) -> None:
    if isinstance(obj.get("subsets"), list):
        obj["subsets"] = [dict(s) for s in objects(obj["subsets"])]
        for subset in obj["subsets"]:
            _ports_of(subset)


def _slice(obj: Json, _old: Json | None) -> None:
    fill_in(obj, endpoints=[])
    if isinstance(obj.get("ports"), list):
        obj["ports"] = [{"name": "", "protocol": "TCP", **p} if isinstance(p, dict) else p for p in obj["ports"]]


def _network_policy(obj: Json, _old: Json | None) -> None:
    spec = obj["spec"] = dict(mapped(obj.get("spec")))
    fill_in(spec, policyTypes=["Ingress", *(["Egress"] if spec.get("egress") else [])])
    for direction in ("ingress", "egress"):
        if isinstance(spec.get(direction), list):
            spec[direction] = [dict(rule) for rule in objects(spec[direction])]
            for rule in spec[direction]:
                _ports_of(rule)


def _autoscaler(obj: Json, _old: Json | None) -> None:
    spec = obj["spec"] = dict(mapped(obj.get("spec")))
    target = {"type": "Utilization", "averageUtilization": 80}
    fill_in(spec, minReplicas=1, metrics=[{"type": "Resource", "resource": {"name": "cpu", "target": target}}])


def _limit_range(obj: Json, _old: Json | None) -> None:
    """Complete each container limit: what stands in for a missing default is the nearest stricter bound."""
    spec = obj["spec"] = dict(mapped(obj.get("spec")))
    if not isinstance(spec.get("limits"), list):
        return
    spec["limits"] = [dict(item) for item in objects(spec["limits"])]
    for item in spec["limits"]:
        if item.get("type") != "Container":
            continue
        highest, lowest = mapped(item.get("max")), mapped(item.get("min"))
        default = {**highest, **mapped(item.get("default"))}
        request = {**lowest, **default, **mapped(item.get("defaultRequest"))}
        for key, value in (("default", default), ("defaultRequest", request)):
            if value:
                item[key] = canonical_map(value)


WORKLOAD_DEFAULTS: dict[str, Fill] = {
    "CronJob": _cron_job,
    "DaemonSet": _templated(_daemon_set),
    "Deployment": _templated(_deployment),
    "EndpointSlice": _slice,
    "Endpoints": _endpoints,
    "HorizontalPodAutoscaler": _autoscaler,
    "Job": _job,
    "LimitRange": _limit_range,
    "NetworkPolicy": _network_policy,
    "PersistentVolume": _volume,
    "PersistentVolumeClaim": _claim,
    "PodTemplate": _pod_template,
    "PriorityClass": _priority_class,
    "ReplicaSet": _templated(_replicas),
    "ReplicationController": _replication_controller,
    "StatefulSet": _templated(_stateful_set),
    "StorageClass": _storage_class,
}
