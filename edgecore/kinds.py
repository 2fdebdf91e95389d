"""The kinds in an edge's store. The cloud has validated every object; the edge only keeps them."""

from kubeapi import kinds
from kubeapi.kinds import CUSTOM_RESOURCE_DEFINITION as CRD
from kubeapi.kinds import NODE, POD
from kubeapi.resources import Registry, Resource

__all__ = [
    "CRD",
    "DEVICE",
    "DEVICES_GROUP",
    "DEVICE_MODEL",
    "DEVICE_STATUS",
    "NODE",
    "POD",
    "WRITE_CONFLICT",
    "registry",
]

DEVICES_GROUP = "devices.kubeedge.io"
DEVICES_VERSION = "v1beta1"

DEVICE = Resource(DEVICES_GROUP, DEVICES_VERSION, "devices", "Device", custom=True)
DEVICE_MODEL = Resource(DEVICES_GROUP, DEVICES_VERSION, "devicemodels", "DeviceModel", custom=True)
DEVICE_STATUS = Resource(DEVICES_GROUP, DEVICES_VERSION, "devicestatuses", "DeviceStatus", custom=True)
WRITE_CONFLICT = Resource("edge.skerry.io", "v1alpha1", "writeconflicts", "WriteConflict", custom=True)


def registry() -> Registry:
    """A fresh registry of Kubernetes' own kinds and the devices'; definitions from the cloud add theirs."""
    return Registry([*kinds.BUILT_IN, DEVICE, DEVICE_MODEL, DEVICE_STATUS, WRITE_CONFLICT])
