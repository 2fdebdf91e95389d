"""The built-in kinds around the workloads: networking, storage, quotas."""

from kubeapi.resources import Resource

CORE, NETWORKING, STORAGE = "io.k8s.api.core.v1.", "io.k8s.api.networking.v1.", "io.k8s.api.storage.v1."
STATUS = frozenset({"status"})

ENDPOINTS = Resource(
    "", "v1", "endpoints", "Endpoints", short_names=("ep",), definition=CORE + "Endpoints", generation=False
)
ENDPOINT_SLICE = Resource(
    "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", definition="io.k8s.api.discovery.v1.EndpointSlice"
)
PERSISTENT_VOLUME = Resource(
    "", "v1", "persistentvolumes", "PersistentVolume", namespaced=False, short_names=("pv",), subresources=STATUS,
    returns_object_on_delete=True, definition=CORE + "PersistentVolume", generation=False,
)  # fmt: skip
PERSISTENT_VOLUME_CLAIM = Resource(
    "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short_names=("pvc",), subresources=STATUS,
    returns_object_on_delete=True, definition=CORE + "PersistentVolumeClaim", generation=False,
)  # fmt: skip
LIMIT_RANGE = Resource(
    "", "v1", "limitranges", "LimitRange", short_names=("limits",), definition=CORE + "LimitRange", generation=False
)
RESOURCE_QUOTA = Resource(
    "", "v1", "resourcequotas", "ResourceQuota", short_names=("quota",), subresources=STATUS,
    returns_object_on_delete=True, definition=CORE + "ResourceQuota", generation=False,
)  # fmt: skip
STORAGE_CLASS = Resource(
    "storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False, short_names=("sc",),
    returns_object_on_delete=True, definition=STORAGE + "StorageClass", generation=False,
)  # fmt: skip
CSI_NODE = Resource(
    "storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False, returns_object_on_delete=True,
    definition=STORAGE + "CSINode", generation=False, unconditional_update=False,
)  # fmt: skip
CSI_DRIVER = Resource(
    "storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False, returns_object_on_delete=True,
    definition=STORAGE + "CSIDriver", generation=False, unconditional_update=False,
)  # fmt: skip
INGRESS = Resource(
    "networking.k8s.io", "v1", "ingresses", "Ingress", short_names=("ing",), subresources=STATUS,
    definition=NETWORKING + "Ingress",
)  # fmt: skip
INGRESS_CLASS = Resource(
    "networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False,
    definition=NETWORKING + "IngressClass",
)  # fmt: skip
NETWORK_POLICY = Resource(
    "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short_names=("netpol",),
    definition=NETWORKING + "NetworkPolicy",
)  # fmt: skip

CLUSTER = (
    ENDPOINTS, ENDPOINT_SLICE, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, LIMIT_RANGE, RESOURCE_QUOTA, STORAGE_CLASS,
    CSI_NODE, CSI_DRIVER, INGRESS, INGRESS_CLASS, NETWORK_POLICY,
)  # fmt: skip
