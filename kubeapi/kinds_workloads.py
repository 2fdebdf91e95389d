"""The built-in kinds that run things: apps, batch, policy, autoscaling, and the templates of the core group."""

from kubeapi.resources import Resource, Scale

APPS, BATCH = "io.k8s.api.apps.v1.", "io.k8s.api.batch.v1."
STATUS = frozenset({"status"})
SCALED = frozenset({"scale", "status"})
SCALE = Scale(".spec.replicas", ".status.replicas", ".spec.selector")
ALL = ("all",)

DEPLOYMENT = Resource(
    "apps", "v1", "deployments", "Deployment", short_names=("deploy",), categories=ALL, subresources=SCALED,
    scale=SCALE, definition=APPS + "Deployment",
)  # fmt: skip
REPLICA_SET = Resource(
    "apps", "v1", "replicasets", "ReplicaSet", short_names=("rs",), categories=ALL, subresources=SCALED,
    scale=SCALE, definition=APPS + "ReplicaSet", fields=("status.replicas",),
)  # fmt: skip
STATEFUL_SET = Resource(
    "apps", "v1", "statefulsets", "StatefulSet", short_names=("sts",), categories=ALL, subresources=SCALED,
    scale=SCALE, definition=APPS + "StatefulSet",
)  # fmt: skip
DAEMON_SET = Resource(
    "apps", "v1", "daemonsets", "DaemonSet", short_names=("ds",), categories=ALL, subresources=STATUS,
    definition=APPS + "DaemonSet",
)  # fmt: skip
CONTROLLER_REVISION = Resource(
    "apps", "v1", "controllerrevisions", "ControllerRevision", definition=APPS + "ControllerRevision", generation=False
)
REPLICATION_CONTROLLER = Resource(
    "", "v1", "replicationcontrollers", "ReplicationController", short_names=("rc",), categories=ALL,
    subresources=SCALED, scale=SCALE, definition="io.k8s.api.core.v1.ReplicationController",
    fields=("status.replicas",),
)  # fmt: skip
POD_TEMPLATE = Resource(
    "", "v1", "podtemplates", "PodTemplate", returns_object_on_delete=True,
    definition="io.k8s.api.core.v1.PodTemplate",
)  # fmt: skip
JOB = Resource(
    "batch", "v1", "jobs", "Job", categories=ALL, subresources=STATUS, definition=BATCH + "Job",
    fields=("status.successful",),
)  # fmt: skip
CRON_JOB = Resource(
    "batch", "v1", "cronjobs", "CronJob", short_names=("cj",), categories=ALL, subresources=STATUS,
    definition=BATCH + "CronJob",
)  # fmt: skip
POD_DISRUPTION_BUDGET = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short_names=("pdb",), subresources=STATUS,
    definition="io.k8s.api.policy.v1.PodDisruptionBudget", unconditional_update=False,
)  # fmt: skip
HORIZONTAL_POD_AUTOSCALER = Resource(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", short_names=("hpa",), categories=ALL,
    subresources=STATUS, definition="io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", generation=False,
)  # fmt: skip
PRIORITY_CLASS = Resource(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short_names=("pc",),
    definition="io.k8s.api.scheduling.v1.PriorityClass",
)  # fmt: skip
RUNTIME_CLASS = Resource(
    "node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False,
    definition="io.k8s.api.node.v1.RuntimeClass", names="label", generation=False, unconditional_update=False,
)  # fmt: skip

WORKLOADS = (
    DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET, CONTROLLER_REVISION, REPLICATION_CONTROLLER, POD_TEMPLATE,
    JOB, CRON_JOB, POD_DISRUPTION_BUDGET, HORIZONTAL_POD_AUTOSCALER, PRIORITY_CLASS, RUNTIME_CLASS,
)  # fmt: skip
