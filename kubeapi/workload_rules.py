"""What is wrong with a workload beyond its schema."""

from collections.abc import Callable
from typing import Any

from kubeapi import causes as say
from kubeapi.causes import Causes, at_least, bad, forbid, one_of, required
from kubeapi.job_rules import job_causes
from kubeapi.label_selectors import label_test
from kubeapi.pod_rules import spec_causes
from kubeapi.schedules import BadSchedule, check_schedule, check_zone
from kubeapi.volume_rules import claim_causes, claim_spec_causes, volume_object_causes

Json = dict[str, Any]
TEMPLATE = "spec.template"
MAX_CRON_NAME = 52  # a job's name is this and eleven characters of its time
MAX_USER_PRIORITY = 1_000_000_000
ENDING = ("Never", "OnFailure")  # restart policies of pods that end


def _template(template: Any, path: str, restarts: tuple[str, ...]) -> Causes:
    if not isinstance(template, dict):
        return [required(path)]
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    out = say.labels(f"{path}.metadata.labels", metadata.get("labels"))
    out += spec_causes(spec, f"{path}.spec")
    if spec.get("restartPolicy") not in restarts:
        out.append(say.unsupported(f"{path}.spec.restartPolicy", spec.get("restartPolicy"), restarts))
    if restarts == ("Always",) and spec.get("activeDeadlineSeconds") is not None:
        out.append(
            forbid(f"{path}.spec.activeDeadlineSeconds", "must not be specified for a workload that always runs")
        )
    if spec.get("ephemeralContainers"):
        out.append(forbid(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template"))
    return out


def _selected(spec: Json, kind: str) -> Causes:
    """Check that a selector selects the pods of the template, and no others by being empty."""
    selector = spec.get("selector")
    if selector is None:
        return [required("spec.selector")]
    out = say.label_selector("spec.selector", selector)
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        return [*out, bad("spec.selector", selector, f"empty selector is invalid for {kind}")]
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not out and not label_test(selector)(labels):
        out.append(bad(f"{TEMPLATE}.metadata.labels", labels, "`selector` does not match template `labels`"))
    return out


def _counts(spec: Json, *keys: str) -> Causes:
    return [cause for key in keys for cause in at_least(f"spec.{key}", spec.get(key))]


def _rolling(strategy: Json, path: str) -> Causes:
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if kind != "RollingUpdate":
        text = f"may not be specified when strategy `type` is '{kind}'"
        return [forbid(f"{path}.rollingUpdate", text)] if rolling else []
    rolling = rolling or {}
    out: Causes = []
    for key in ("maxUnavailable", "maxSurge"):
        out += say.int_or_percent(f"{path}.rollingUpdate.{key}", rolling.get(key))
    out += say.more_than_all(f"{path}.rollingUpdate.maxUnavailable", rolling.get("maxUnavailable"))
    if not out and _is_zero(rolling.get("maxUnavailable")) and _is_zero(rolling.get("maxSurge")):
        out.append(bad(f"{path}.rollingUpdate.maxUnavailable", 0, "may not be 0 when `maxSurge` is 0"))
    return out


def _is_zero(value: Any) -> bool:
    return str(value if value is not None else 0).rstrip("%").lstrip("0") == ""


def _deployment(obj: Json) -> Causes:
    spec = obj.get("spec") or {}
    out = _selected(spec, "deployment") + _template(spec.get("template"), TEMPLATE, ("Always",))
    out += _counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    strategy = spec.get("strategy") or {}
    if strategy.get("type") not in ("Recreate", "RollingUpdate"):
        out.append(say.unsupported("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate")))
    else:
        out += _rolling(strategy, "spec.strategy")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= (spec.get("minReadySeconds") or 0):
        out.append(bad("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"))
    return out


def _replica_set(obj: Json) -> Causes:
    spec = obj.get("spec") or {}
    out = _selected(spec, "ReplicaSet") + _template(spec.get("template"), TEMPLATE, ("Always",))
    return out + _counts(spec, "replicas", "minReadySeconds")


def _replication_controller(obj: Json) -> Causes:
    spec = obj.get("spec") or {}
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    out = _template(spec.get("template"), TEMPLATE, ("Always",)) + _counts(spec, "replicas", "minReadySeconds")
    if not spec.get("selector"):
        out.append(required("spec.selector"))
    elif not label_test({"matchLabels": spec["selector"]})(labels):
        out.append(bad(f"{TEMPLATE}.metadata.labels", labels, "`selector` does not match template `labels`"))
    return out


def _daemon_set(obj: Json) -> Causes:
    spec = obj.get("spec") or {}
    out = _selected(spec, "daemonset") + _template(spec.get("template"), TEMPLATE, ("Always",))
    out += _counts(spec, "minReadySeconds", "revisionHistoryLimit")
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") not in ("OnDelete", "RollingUpdate"):
        out.append(say.unsupported("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate")))
        return out
    rolling = strategy.get("rollingUpdate") or {}
    out += _rolling(strategy, "spec.updateStrategy")
    if not _is_zero(rolling.get("maxSurge")) and not _is_zero(rolling.get("maxUnavailable")):
        text = "may not be set when maxUnavailable is non-zero"
        out.append(bad("spec.updateStrategy.rollingUpdate.maxSurge", rolling["maxSurge"], text))
    return out


def _stateful_set(obj: Json) -> Causes:
    spec = obj.get("spec") or {}
    out = _selected(spec, "statefulset") + _template(spec.get("template"), TEMPLATE, ("Always",))
    out += _counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    out += one_of("spec.podManagementPolicy", spec.get("podManagementPolicy"), ("OrderedReady", "Parallel"))
    strategy = spec.get("updateStrategy") or {}
    out += one_of("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate"))
    rolling = strategy.get("rollingUpdate") or {}
    out += at_least("spec.updateStrategy.rollingUpdate.partition", rolling.get("partition"))
    out += say.int_or_percent("spec.updateStrategy.rollingUpdate.maxUnavailable", rolling.get("maxUnavailable"))
    for key, value in (spec.get("persistentVolumeClaimRetentionPolicy") or {}).items():
        out += one_of(f"spec.persistentVolumeClaimRetentionPolicy.{key}", value, ("Delete", "Retain"))
    for i, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        path = f"spec.volumeClaimTemplates[{i}]"
        out += say.dns_label(f"{path}.metadata.name", (claim.get("metadata") or {}).get("name"))
        out += claim_spec_causes(claim.get("spec") or {}, f"{path}.spec")
    return _known_claims(spec, out)


def _known_claims(spec: Json, out: Causes) -> Causes:
    """Leave out what is only wrong until the set adds the volumes of its claim templates."""
    names = {(c.get("metadata") or {}).get("name") for c in spec.get("volumeClaimTemplates") or ()}
    waived = {f'Not found: "{name}"' for name in names}
    return [c for c in out if not (c.field.endswith(".name") and c.message in waived)]


def _job(obj: Json) -> Causes:
    spec = obj.get("spec") or {}
    return job_causes(spec, "spec") + _template(spec.get("template"), TEMPLATE, ENDING) + _selected(spec, "job")


def _cron_job(obj: Json) -> Causes:
    spec, name = obj.get("spec") or {}, obj["metadata"].get("name") or ""
    out: Causes = []
    if len(name) > MAX_CRON_NAME:
        out.append(bad("metadata.name", name, f"must be no more than {MAX_CRON_NAME} characters"))
    if not spec.get("schedule"):
        out.append(required("spec.schedule"))
    else:
        out += _checked("spec.schedule", spec["schedule"], check_schedule)
    if spec.get("timeZone") is not None:
        out += _checked("spec.timeZone", spec["timeZone"], check_zone)
    policies = ("Allow", "Forbid", "Replace")
    out += one_of("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), policies)
    out += _counts(spec, "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    path = "spec.jobTemplate.spec"
    out += job_causes({"completionMode": None, **job}, path)
    return out + _template(job.get("template"), f"{path}.template", ENDING)


def _checked(path: str, value: Any, check: Callable[[str], None]) -> Causes:
    try:
        check(value)
    except BadSchedule as error:
        return [bad(path, value, str(error))]
    return []


def _budget(obj: Json) -> Causes:
    spec = obj.get("spec") or {}
    out = say.label_selector("spec.selector", spec.get("selector"))
    for key in ("minAvailable", "maxUnavailable"):
        out += say.int_or_percent(f"spec.{key}", spec.get(key)) + say.more_than_all(f"spec.{key}", spec.get(key))
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        out.append(bad("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
    policies = ("AlwaysAllow", "IfHealthyBudget")
    return out + one_of("spec.unhealthyPodEvictionPolicy", spec.get("unhealthyPodEvictionPolicy"), policies)


def _priority_class(obj: Json) -> Causes:
    name, value = obj["metadata"].get("name") or "", obj.get("value") or 0
    reserved = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
    out = one_of("preemptionPolicy", obj.get("preemptionPolicy"), ("Never", "PreemptLowerPriority"))
    if name.startswith("system-"):
        if reserved.get(name) != value:
            text = "priority class names with 'system-' prefix are reserved for system use only"
            out.append(forbid("metadata.name", text))
    elif value > MAX_USER_PRIORITY:
        out.append(forbid("value", f"maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}"))
    return out


def _storage_class(obj: Json) -> Causes:
    out = [] if obj.get("provisioner") else [required("provisioner")]
    out += one_of("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"))
    return out + one_of("volumeBindingMode", obj.get("volumeBindingMode"), ("Immediate", "WaitForFirstConsumer"))


def _slice(obj: Json) -> Causes:
    kinds = ("FQDN", "IPv4", "IPv6")
    out = [] if obj.get("addressType") in kinds else [say.unsupported("addressType", obj.get("addressType"), kinds)]
    for i, endpoint in enumerate(obj.get("endpoints") or ()):
        if not endpoint.get("addresses"):
            out.append(required(f"endpoints[{i}].addresses", "must contain at least 1 address"))
    if len(obj.get("endpoints") or ()) > 1000:
        out.append(bad("endpoints", len(obj["endpoints"]), "must have at most 1000 items"))
    return out


def _pod_template(obj: Json) -> Causes:
    return _template(obj.get("template"), "template", ("Always", "Never", "OnFailure"))


WORKLOAD_CHECKS: dict[str, Callable[[Json], Causes]] = {
    "CronJob": _cron_job,
    "DaemonSet": _daemon_set,
    "Deployment": _deployment,
    "EndpointSlice": _slice,
    "Job": _job,
    "PersistentVolume": volume_object_causes,
    "PersistentVolumeClaim": claim_causes,
    "PodDisruptionBudget": _budget,
    "PodTemplate": _pod_template,
    "PriorityClass": _priority_class,
    "ReplicaSet": _replica_set,
    "ReplicationController": _replication_controller,
    "StatefulSet": _stateful_set,
    "StorageClass": _storage_class,
}
