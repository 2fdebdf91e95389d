"""The kinds in an edge's store. The cloud has validated every object; the edge only keeps them."""

from kubeapi.resources import Registry, Resource

DEVICES_GROUP = "devices.kubeedge.io"
DEVICES_VERSION = "v1beta1"

NODE = Resource("", "v1", "nodes", "Node", namespaced=False)
DEVICE = Resource(DEVICES_GROUP, DEVICES_VERSION, "devices", "Device", custom=True)
DEVICE_MODEL = Resource(DEVICES_GROUP, DEVICES_VERSION, "devicemodels", "DeviceModel", custom=True)
DEVICE_STATUS = Resource(DEVICES_GROUP, DEVICES_VERSION, "devicestatuses", "DeviceStatus", custom=True)


def registry() -> Registry:
    """A fresh registry of exactly these kinds."""
    return Registry([NODE, DEVICE, DEVICE_MODEL, DEVICE_STATUS])
