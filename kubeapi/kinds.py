"""The built-in kinds, as data. A new kind is a row here and, where clients need them, defaults in ``kubeapi.builtin`` or ``kubeapi.workload_defaults``."""

from kubeapi.kinds_cluster import (
    CLUSTER,
    CSI_DRIVER,
    CSI_NODE,
    ENDPOINT_SLICE,
    ENDPOINTS,
    INGRESS,
    INGRESS_CLASS,
    LIMIT_RANGE,
    NETWORK_POLICY,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    RESOURCE_QUOTA,
    STORAGE_CLASS,
)  # fmt: skip
from kubeapi.kinds_workloads import (
    CONTROLLER_REVISION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    JOB,
    POD_DISRUPTION_BUDGET,
    POD_TEMPLATE,
    PRIORITY_CLASS,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    RUNTIME_CLASS,
    STATEFUL_SET,
    WORKLOADS,
)  # fmt: skip
from kubeapi.resources import Column, Registry, Resource

__all__ = [
    "BUILT_IN", "CERTIFICATE_SIGNING_REQUEST", "CLUSTER_ROLE", "CLUSTER_ROLE_BINDING", "CONFIG_MAP",
    "CONTROLLER_REVISION", "CRON_JOB", "CSI_DRIVER", "CSI_NODE", "CUSTOM_RESOURCE_DEFINITION", "DAEMON_SET",
    "DEPLOYMENT", "ENDPOINTS", "ENDPOINT_SLICE", "EVENT", "EVENT_VIEW", "HORIZONTAL_POD_AUTOSCALER", "INGRESS",
    "INGRESS_CLASS", "JOB", "LEASE", "LIMIT_RANGE", "NAMESPACE", "NETWORK_POLICY", "NODE", "PERSISTENT_VOLUME",
    "PERSISTENT_VOLUME_CLAIM", "POD", "POD_DISRUPTION_BUDGET", "POD_TEMPLATE", "PRIORITY_CLASS", "REPLICATION_CONTROLLER",
    "REPLICA_SET", "RESOURCE_QUOTA", "ROLE", "ROLE_BINDING", "RUNTIME_CLASS", "SECRET", "SERVICE", "SERVICE_ACCOUNT",
    "STATEFUL_SET", "STORAGE_CLASS", "registry",
]  # fmt: skip

CORE, RBAC_GROUP, CERTIFICATES = "io.k8s.api.core.v1.", "rbac.authorization.k8s.io", "certificates.k8s.io"
RBAC = "io.k8s.api.rbac.v1."
STATUS = frozenset({"status"})

_EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)

CUSTOM_RESOURCE_DEFINITION = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
    short_names=("crd", "crds"),
    categories=("api-extensions",),
    subresources=STATUS,
    columns=(Column("Created At", ".metadata.creationTimestamp", "date"),),
    definition="io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    unconditional_update=False,
)
NAMESPACE = Resource(
    "",
    "v1",
    "namespaces",
    "Namespace",
    namespaced=False,
    short_names=("ns",),
    subresources=frozenset({"status", "finalize"}),
    columns=(Column("Status", ".status.phase"),),
    definition=CORE + "Namespace",
    names="label",
    fields=("status.phase",),
    generation=False,
)
POD = Resource(
    "",
    "v1",
    "pods",
    "Pod",
    short_names=("po",),
    categories=("all",),
    subresources=frozenset(
        {
            "status",
            "binding",
            "eviction",
            "ephemeralcontainers",
            "resize",
            "log",
            "exec",
            "attach",
            "portforward",
            "proxy",
        }
    ),
    returns_object_on_delete=True,
    definition=CORE + "Pod",
    fields=(
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    generation=False,
)
NODE = Resource(
    "",
    "v1",
    "nodes",
    "Node",
    namespaced=False,
    short_names=("no",),
    subresources=frozenset({"status", "proxy"}),
    definition=CORE + "Node",
    fields=("spec.unschedulable",),
    generation=False,
)
SECRET = Resource(
    "",
    "v1",
    "secrets",
    "Secret",
    definition=CORE + "Secret",
    fields=("type",),
    generation=False,
    columns=(Column("Type", ".type"),),
)
CONFIG_MAP = Resource(
    "", "v1", "configmaps", "ConfigMap", short_names=("cm",), definition=CORE + "ConfigMap", generation=False
)
SERVICE_ACCOUNT = Resource(
    "",
    "v1",
    "serviceaccounts",
    "ServiceAccount",
    short_names=("sa",),
    subresources=frozenset({"token"}),
    returns_object_on_delete=True,
    definition=CORE + "ServiceAccount",
    generation=False,
)
SERVICE = Resource(
    "",
    "v1",
    "services",
    "Service",
    short_names=("svc",),
    categories=("all",),
    subresources=frozenset({"status", "proxy"}),
    returns_object_on_delete=True,
    definition=CORE + "Service",
    names="service",
    fields=("spec.clusterIP", "spec.type"),
    generation=False,
)
EVENT = Resource(
    "", "v1", "events", "Event", short_names=("ev",), definition=CORE + "Event", fields=_EVENT_FIELDS, generation=False
)
EVENT_VIEW = Resource(
    "events.k8s.io",
    "v1",
    "events",
    "Event",
    short_names=("ev",),
    definition="io.k8s.api.events.v1.Event",
    generation=False,
    view_of="core/events",
    fields=("reason", "regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "type"),
)
LEASE = Resource(
    "coordination.k8s.io",
    "v1",
    "leases",
    "Lease",
    durable=False,
    definition="io.k8s.api.coordination.v1.Lease",
    columns=(Column("Holder", ".spec.holderIdentity"),),
    generation=False,
    unconditional_update=False,
)
ROLE = Resource(RBAC_GROUP, "v1", "roles", "Role", definition=RBAC + "Role", names="path", generation=False)
ROLE_BINDING = Resource(
    RBAC_GROUP, "v1", "rolebindings", "RoleBinding", definition=RBAC + "RoleBinding", names="path", generation=False
)
CLUSTER_ROLE = Resource(
    RBAC_GROUP,
    "v1",
    "clusterroles",
    "ClusterRole",
    namespaced=False,
    definition=RBAC + "ClusterRole",
    names="path",
    generation=False,
)
CLUSTER_ROLE_BINDING = Resource(
    RBAC_GROUP,
    "v1",
    "clusterrolebindings",
    "ClusterRoleBinding",
    namespaced=False,
    definition=RBAC + "ClusterRoleBinding",
    names="path",
    generation=False,
)
CERTIFICATE_SIGNING_REQUEST = Resource(
    CERTIFICATES,
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    namespaced=False,
    short_names=("csr",),
    subresources=frozenset({"status", "approval"}),
    fields=("spec.signerName",),
    definition="io.k8s.api.certificates.v1.CertificateSigningRequest",
    generation=False,
)

BUILT_IN: tuple[Resource, ...] = (
    NAMESPACE, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, NODE, POD, SERVICE, EVENT, EVENT_VIEW, LEASE,
    ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING, CERTIFICATE_SIGNING_REQUEST, CUSTOM_RESOURCE_DEFINITION,
    *WORKLOADS, *CLUSTER,
)  # fmt: skip


def registry() -> Registry:
    """Return a Registry of every built-in kind."""
    return Registry(BUILT_IN)
