"""The roles and bindings that every new API starts with, as data; missing ones are put back at each start."""

from typing import Any

LABEL = "kubernetes.io/bootstrapping"
AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
READ = ["get", "list", "watch"]
WRITE = ["create", "delete", "deletecollection", "patch", "update"]
DEVICES = ["devices", "devicemodels", "devicestatuses"]
_CLAIMS = ["persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale"]
_VIEW = [
    "bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces/status", "persistentvolumeclaims",
    "persistentvolumeclaims/status", "pods", "pods/log", "pods/status", "replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
    "resourcequotas", "resourcequotas/status", "serviceaccounts", "services", "services/status",
]  # fmt: skip
_EDIT = [  # no Endpoints: with them one Service's traffic goes to another namespace's pods
    "configmaps", "events", "pods", "pods/attach", "pods/eviction", "pods/exec", "pods/portforward",
    "pods/proxy", "secrets", "serviceaccounts", "services", "services/proxy", *_CLAIMS,
]  # fmt: skip
_APPS = [
    "daemonsets", "deployments", "deployments/scale", "replicasets", "replicasets/scale", "statefulsets",
    "statefulsets/scale",
]  # fmt: skip
# group: what people who edit a namespace may write there
_WORKLOADS: dict[str, list[str]] = {
    "apps": [*_APPS, "deployments/rollback"],
    "autoscaling": ["horizontalpodautoscalers"],
    "batch": ["cronjobs", "jobs"],
    "networking.k8s.io": ["ingresses", "networkpolicies"],
    "policy": ["poddisruptionbudgets"],
}
_WORKLOAD_STATES: dict[str, list[str]] = {
    "apps": [*_APPS, "controllerrevisions", "daemonsets/status", "deployments/status", "replicasets/status",
             "statefulsets/status"],
    "autoscaling": ["horizontalpodautoscalers", "horizontalpodautoscalers/status"],
    "batch": ["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
    "discovery.k8s.io": ["endpointslices"],
    "networking.k8s.io": ["ingresses", "ingresses/status", "networkpolicies"],
    "policy": ["poddisruptionbudgets", "poddisruptionbudgets/status"],
}  # fmt: skip


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


def _paths(*paths: str) -> dict[str, Any]:
    return {"nonResourceURLs": list(paths), "verbs": ["get"]}


_PUBLIC = _paths("/healthz", "/livez", "/readyz", "/version", "/version/")
_DISCOVERY = _paths(
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
)
_SELF = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]

# name: (rules, labels, names of the aggregation labels that it selects)
ROLES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...], tuple[str, ...]]] = {
    "cluster-admin": ([_rule(["*"], ["*"], ["*"]), {"nonResourceURLs": ["*"], "verbs": ["*"]}], (), ()),
    "admin": ([], (), ("admin",)),
    "edit": ([], ("admin",), ("edit",)),
    "view": ([], ("edit",), ("view",)),
    "system:aggregate-to-admin": (
        [
            _rule(["rbac.authorization.k8s.io"], ["roles", "rolebindings"], [*READ, *WRITE]),
            _rule(["authorization.k8s.io"], ["localsubjectaccessreviews"], ["create"]),
        ],
        ("admin",),
        (),
    ),
    "system:aggregate-to-edit": (
        [
            _rule([""], _EDIT, WRITE),
            _rule(
                [""], ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"], READ
            ),
            _rule([""], ["serviceaccounts/token"], ["create"]),
            _rule([""], ["serviceaccounts"], ["impersonate"]),
            *(_rule([group], kinds, WRITE) for group, kinds in _WORKLOADS.items()),
            _rule(["coordination.k8s.io"], ["leases"], [*READ, *WRITE]),
            _rule(["events.k8s.io"], ["events"], WRITE),
        ],
        ("edit",),
        (),
    ),
    "system:aggregate-to-view": (
        [
            _rule([""], [*_VIEW, "namespaces"], READ),
            _rule(["events.k8s.io"], ["events"], READ),
            *(_rule([group], kinds, READ) for group, kinds in _WORKLOAD_STATES.items()),
        ],
        ("view",),
        (),
    ),
    "skerry:devices-edit": ([_rule(["devices.kubeedge.io"], DEVICES, WRITE)], ("edit",), ()),
    "skerry:devices-view": (
        [_rule(["devices.kubeedge.io"], [*DEVICES, *(f"{d}/status" for d in DEVICES)], READ)],
        ("view",),
        (),
    ),
    "skerry:conflicts-edit": (
        [_rule(["edge.skerry.io"], ["writeconflicts"], ["delete", "deletecollection"])],
        ("edit",),
        (),
    ),
    "skerry:conflicts-view": ([_rule(["edge.skerry.io"], ["writeconflicts"], READ)], ("view",), ()),
    # kubectl top, under the name and with the labels that metrics-server gives it
    "system:aggregated-metrics-reader": (
        [_rule(["metrics.k8s.io"], ["nodes", "pods"], READ)],
        ("admin", "edit", "view", "node-admin"),
        (),
    ),
    # The technician at a node, whose writes there are made again here; only for objects of that node (cloudcore.hub.replay).
    # A role with the label aggregate-to-node-admin adds more kinds. Without it nothing by which others than this node are reached.
    "skerry:node-admin": ([], (), ("node-admin",)),
    "skerry:aggregate-to-node-admin": (
        [
            _rule([""], ["configmaps", "events", "persistentvolumeclaims", "pods", "services"], [*READ, *WRITE]),
            _rule([""], ["pods/ephemeralcontainers"], ["patch", "update"]),
            *(_rule([group], _WORKLOADS[group], [*READ, *WRITE]) for group in ("apps", "batch")),
            _rule(["events.k8s.io"], ["events"], [*READ, *WRITE]),
            _rule(["devices.kubeedge.io"], ["devices", "devicemodels"], [*READ, *WRITE]),
            _rule(["edge.skerry.io"], ["writeconflicts"], [*READ, "delete", "deletecollection"]),
        ],
        ("node-admin",),
        (),
    ),
    "system:basic-user": (
        [
            _rule(["authorization.k8s.io"], _SELF, ["create"]),
            _rule(["authentication.k8s.io"], ["selfsubjectreviews"], ["create"]),
        ],
        (),
        (),
    ),
    "system:discovery": ([_DISCOVERY], (), ()),
    "system:public-info-viewer": ([_PUBLIC], (), ()),
    # Nodes get nothing from roles: the node authorizer gives each its own objects.
    "system:node": ([], (), ()),
    "system:auth-delegator": (
        [
            _rule(["authentication.k8s.io"], ["tokenreviews"], ["create"]),
            _rule(["authorization.k8s.io"], ["subjectaccessreviews"], ["create"]),
        ],
        (),
        (),
    ),
}

# Each binding gives one role to some groups.
BINDINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cluster-admin": ("cluster-admin", ("system:masters",)),
    "skerry:node-admins": ("skerry:node-admin", ("skerry:node-admins",)),
    "system:basic-user": ("system:basic-user", ("system:authenticated",)),
    "system:discovery": ("system:discovery", ("system:authenticated",)),
    "system:public-info-viewer": ("system:public-info-viewer", ("system:authenticated", "system:unauthenticated")),
}


def default_roles() -> list[dict[str, Any]]:
    """Return the ClusterRoles."""
    out = []
    for name, (rules, labels, selects) in ROLES.items():
        role: dict[str, Any] = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name, "labels": {LABEL: "rbac-defaults", **{AGGREGATE + to: "true" for to in labels}}},
            "rules": rules,
        }
        if selects:
            role["aggregationRule"] = {
                "clusterRoleSelectors": [{"matchLabels": {AGGREGATE + to: "true"}} for to in selects]
            }
        out.append(role)
    return out


def default_bindings() -> list[dict[str, Any]]:
    """Return the ClusterRoleBindings."""
    api = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "labels": {LABEL: "rbac-defaults"}},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "Group", "apiGroup": api, "name": group} for group in groups],
        }
        for name, (role, groups) in BINDINGS.items()
    ]
