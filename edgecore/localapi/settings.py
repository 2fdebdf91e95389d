"""Settings of the node-local Kubernetes API."""

from typing import Annotated

import msgspec
from msgspec import Meta


class LocalApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where kubectl, pods and the mesh on this gateway find the Kubernetes API, online and offline."""

    enabled: Annotated[bool, Meta(description="serve the Kubernetes API of this node's own store")] = True
    host: Annotated[str, Meta(description="address for the technician and host programs, HTTPS, authenticated")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the node-local API; 0: any free")] = 10550
    pod_address: Annotated[
        str,
        Meta(description="address for pods; put on the loopback interface where the daemon may; empty: none"),
    ] = "169.254.20.1"
    max_connections: Annotated[int, Meta(ge=1, description="open connections of the node-local API")] = 256
    admin_days: Annotated[int, Meta(ge=1, le=3650, description="days that `edgecore kubectl-config` is good for")] = 365
