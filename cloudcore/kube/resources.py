"""The kinds cloudcore reads and writes, and where an API server keeps them."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from proto.names import ObjectKey

DEVICES_GROUP = "devices.kubeedge.io"


class Kind(NamedTuple):
    """One resource of one API version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """Return the URL path of a collection (all namespaces when None), an object, or its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def key(self, namespace: str, name: str) -> str:
        """Return the link's name of an object of this kind."""
        return str(ObjectKey(self.group, self.plural, namespace if self.namespaced else "", name))


DEVICE = Kind(DEVICES_GROUP, "v1beta1", "devices", "Device")
DEVICE_MODEL = Kind(DEVICES_GROUP, "v1beta1", "devicemodels", "DeviceModel")
DEVICE_STATUS = Kind(DEVICES_GROUP, "v1beta1", "devicestatuses", "DeviceStatus")
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
EVENT = Kind("", "v1", "events", "Event")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
CRD = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
POD = Kind("", "v1", "pods", "Pod")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
SECRET = Kind("", "v1", "secrets", "Secret")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
SERVICE = Kind("", "v1", "services", "Service")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
VOLUME = Kind("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
RUNTIME_CLASS = Kind("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
REPLICA_SET = Kind("apps", "v1", "replicasets", "ReplicaSet")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
DAEMON_SET = Kind("apps", "v1", "daemonsets", "DaemonSet")
STATEFUL_SET = Kind("apps", "v1", "statefulsets", "StatefulSet")
JOB = Kind("batch", "v1", "jobs", "Job")
CRON_JOB = Kind("batch", "v1", "cronjobs", "CronJob")
NODE_GROUP = Kind("apps.kubeedge.io", "v1alpha1", "nodegroups", "NodeGroup", namespaced=False)
EDGE_APPLICATION = Kind("apps.kubeedge.io", "v1alpha1", "edgeapplications", "EdgeApplication")
RBAC = "rbac.authorization.k8s.io"
ROLE = Kind(RBAC, "v1", "roles", "Role")
ROLE_BINDING = Kind(RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE = Kind(RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Kind(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)


def is_owned_by(item: Mapping[str, Any], uid: str) -> bool:
    """Whether an owner reference of ``item`` names ``uid``."""
    return any(ref.get("uid") == uid for ref in item["metadata"].get("ownerReferences") or [])
