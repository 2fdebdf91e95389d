"""What ``kubectl get`` shows of workloads: deployments and their kin, jobs, budgets, priorities."""

from datetime import datetime
from typing import Any

from kubeapi.durations import age, human, parse_time
from kubeapi.label_selectors import as_text
from kubeapi.printing import NONE, Cells, columns, created, name, part
from kubeapi.resources import Column

Json = dict[str, Any]
Row = list[Any]
TEMPLATE_WIDE = ("Containers", "Images", "Selector")


def _containers(template: Any) -> Row:
    spec = part(template, "spec") if isinstance(template, dict) else {}
    found = [c for c in spec.get("containers") or () if isinstance(c, dict)]
    return [",".join(str(c.get(key, "")) for c in found) for key in ("name", "image")]


def _wide(obj: Json) -> Row:
    spec = part(obj, "spec")
    return [*_containers(spec.get("template")), as_text(spec.get("selector")) or NONE]


def _numbers(status: Json, *keys: str) -> list[int]:
    return [status.get(key) or 0 for key in keys]


def _deployment(obj: Json, now: datetime) -> Row:
    status, wanted = part(obj, "status"), part(obj, "spec").get("replicas", 0)
    ready = f"{status.get('readyReplicas') or 0}/{wanted}"
    return [name(obj), ready, *_numbers(status, "updatedReplicas", "availableReplicas"), created(obj, now), *_wide(obj)]


def _replica_set(obj: Json, now: datetime) -> Row:
    counts = _numbers(part(obj, "status"), "replicas", "readyReplicas")
    return [name(obj), part(obj, "spec").get("replicas", 0), *counts, created(obj, now), *_wide(obj)]


def _daemon_set(obj: Json, now: datetime) -> Row:
    counts = _numbers(
        part(obj, "status"),
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    template = part(obj, "spec").get("template") or {}
    nodes = as_text({"matchLabels": part(template, "spec").get("nodeSelector") or {}}) or NONE
    return [name(obj), *counts, nodes, created(obj, now), *_wide(obj)]


def _stateful_set(obj: Json, now: datetime) -> Row:
    spec, status = part(obj, "spec"), part(obj, "status")
    ready = f"{status.get('readyReplicas') or 0}/{spec.get('replicas', 0)}"
    return [name(obj), ready, created(obj, now), *_containers(spec.get("template"))]


def _controller_revision(obj: Json, now: datetime) -> Row:
    owners = [o for o in part(obj, "metadata").get("ownerReferences") or () if o.get("controller")]
    shown = NONE
    if owners:
        group = str(owners[0].get("apiVersion", "")).rpartition("/")[0]
        kind = str(owners[0].get("kind", "")).lower() + (f".{group}" if group else "")
        shown = f"{kind}/{owners[0].get('name', '')}"
    return [name(obj), shown, obj.get("revision", 0), created(obj, now)]


def _pod_template(obj: Json, now: datetime) -> Row:
    del now
    template = obj.get("template") or {}
    labels = part(template, "metadata").get("labels") or {}
    return [name(obj), *_containers(template), as_text({"matchLabels": labels}) or NONE]


def _job_status(obj: Json) -> str:
    found = {c.get("type") for c in part(obj, "status").get("conditions") or () if c.get("status") == "True"}
    order = (("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"))
    late = (("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet"))
    for kind, text in order:
        if kind in found:
            return text
    if part(obj, "metadata").get("deletionTimestamp"):
        return "Terminating"
    return next((text for kind, text in late if kind in found), "Running")


def _job_duration(obj: Json, now: datetime) -> str:
    status = part(obj, "status")
    started = parse_time(status.get("startTime"))
    if started is None:
        return ""
    return human((parse_time(status.get("completionTime")) or now) - started)


def _job(obj: Json, now: datetime) -> Row:
    spec = part(obj, "spec")
    done, at_once = part(obj, "status").get("succeeded") or 0, spec.get("parallelism") or 0
    if spec.get("completions") is not None:
        shown = f"{done}/{spec['completions']}"
    else:
        shown = f"{done}/1 of {at_once}" if at_once > 1 else f"{done}/1"
    return [name(obj), _job_status(obj), shown, _job_duration(obj, now), created(obj, now), *_wide(obj)]


def _cron_job(obj: Json, now: datetime) -> Row:
    spec, status = part(obj, "spec"), part(obj, "status")
    last = status.get("lastScheduleTime")
    job = part(spec.get("jobTemplate") or {}, "spec")
    return [
        name(obj),
        spec.get("schedule", ""),
        spec.get("timeZone") or NONE,
        str(bool(spec.get("suspend"))),
        len(status.get("active") or ()),
        age(last, now) if last else NONE,
        created(obj, now),
        *_containers(job.get("template")),
        as_text(job.get("selector")) or NONE,
    ]


def _budget(obj: Json, now: datetime) -> Row:
    spec = part(obj, "spec")
    bounds = [str(spec[k]) if spec.get(k) is not None else "N/A" for k in ("minAvailable", "maxUnavailable")]
    return [name(obj), *bounds, part(obj, "status").get("disruptionsAllowed") or 0, created(obj, now)]


def _autoscaler(obj: Json, now: datetime) -> Row:
    spec, status = part(obj, "spec"), part(obj, "status")
    about = part(spec, "scaleTargetRef")
    found = {m.get("type"): m for m in status.get("currentMetrics") or ()}
    targets = [_target(metric, found.get(metric.get("type"), {})) for metric in spec.get("metrics") or ()]
    return [
        name(obj),
        f"{about.get('kind', '')}/{about.get('name', '')}",
        ", ".join(targets) or NONE,
        str(spec["minReplicas"]) if spec.get("minReplicas") is not None else "<unset>",
        spec.get("maxReplicas", 0),
        status.get("currentReplicas") or 0,
        created(obj, now),
    ]


def _target(metric: Json, current: Json) -> str:
    kind = str(metric.get("type", ""))
    key = kind[:1].lower() + kind[1:]
    wanted, seen = part(metric, key), part(part(current, key), "current")
    goal = part(wanted, "target")
    label = f"{wanted['name']}: " if kind == "Resource" and wanted.get("name") else ""
    if goal.get("averageUtilization") is not None:
        now = f"{seen['averageUtilization']}%" if seen.get("averageUtilization") is not None else "<unknown>"
        return f"{label}{now}/{goal['averageUtilization']}%"
    goal_text = goal.get("averageValue") or goal.get("value") or "<unset>"
    return f"{label}{seen.get('averageValue') or seen.get('value') or '<unknown>'}/{goal_text}"


def _priority(obj: Json, now: datetime) -> Row:
    default, preempts = str(bool(obj.get("globalDefault"))).lower(), obj.get("preemptionPolicy", "")
    return [name(obj), obj.get("value", 0), default, created(obj, now), preempts]


def _runtime(obj: Json, now: datetime) -> Row:
    return [name(obj), obj.get("handler", ""), created(obj, now)]


def _replicas(*wide: str) -> tuple[Column, ...]:
    names = ("Name", "Desired", "Current", "Ready", "Age")
    return columns(*names, wide=wide, numbers=("Desired", "Current", "Ready"))


_DAEMON = ("Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age")
_CRON = ("Name", "Schedule", "Timezone", "Suspend", "Active", "Last Schedule", "Age")
_BUDGET = ("Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age")
_SCALER = ("Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age")

WORKLOAD_PRINTERS: dict[tuple[str, str], tuple[tuple[Column, ...], Cells]] = {
    ("apps", "deployments"): (
        columns("Name", "Ready", "Up-to-date", "Available", "Age", wide=TEMPLATE_WIDE),
        _deployment,
    ),
    ("apps", "replicasets"): (_replicas(*TEMPLATE_WIDE), _replica_set),
    ("", "replicationcontrollers"): (_replicas(*TEMPLATE_WIDE), _replica_set),
    ("apps", "daemonsets"): (columns(*_DAEMON, wide=TEMPLATE_WIDE, numbers=_DAEMON[1:6]), _daemon_set),
    ("apps", "statefulsets"): (columns("Name", "Ready", "Age", wide=TEMPLATE_WIDE[:2]), _stateful_set),
    ("apps", "controllerrevisions"): (
        columns("Name", "Controller", "Revision", "Age", numbers=("Revision",)),
        _controller_revision,
    ),
    ("", "podtemplates"): (columns("Name", "Containers", "Images", "Pod Labels"), _pod_template),
    ("batch", "jobs"): (columns("Name", "Status", "Completions", "Duration", "Age", wide=TEMPLATE_WIDE), _job),
    ("batch", "cronjobs"): (columns(*_CRON, wide=TEMPLATE_WIDE, numbers=("Active",)), _cron_job),
    ("policy", "poddisruptionbudgets"): (columns(*_BUDGET, numbers=("Allowed Disruptions",)), _budget),
    ("autoscaling", "horizontalpodautoscalers"): (columns(*_SCALER, numbers=("MaxPods", "Replicas")), _autoscaler),
    ("scheduling.k8s.io", "priorityclasses"): (
        columns("Name", "Value", "Global-Default", "Age", "PreemptionPolicy", numbers=("Value",)),
        _priority,
    ),
    ("node.k8s.io", "runtimeclasses"): (columns("Name", "Handler", "Age"), _runtime),
}
