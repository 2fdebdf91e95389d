"""Settings of the pod room."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class PodsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What runs pods on this gateway, and within which limits."""

    runtime: Annotated[
        Literal["auto", "cri", "process", "none"],
        Meta(description="auto: cri when its socket answers, else process when bubblewrap is here, else none"),
    ] = "auto"
    cri_socket: Annotated[str, Meta(description="socket of the CRI runtime (containerd, K3s, CRI-O)")] = (
        "/run/containerd/containerd.sock"
    )
    process_subnet: Annotated[
        str, Meta(description="addresses of pods that edgecore runs as plain processes: an IPv4 network in CIDR form")
    ] = "10.89.0.0/24"
    static_path: Annotated[str, Meta(description="folder of static pods; empty: manifests in the data directory")] = ""
    max_pods: Annotated[int, Meta(ge=0, description="pods that may run here at once")] = 110
    parallel: Annotated[int, Meta(ge=1, description="runtime calls under way at once")] = 8
    relist_every_s: Annotated[float, Meta(gt=0, description="seconds between two full looks at the runtime")] = 60.0
    log_max_bytes: Annotated[int, Meta(ge=1024, description="size at which a container's log is rotated")] = 10 << 20
    log_files: Annotated[int, Meta(ge=2, description="log files kept per container, the current one included")] = 5
    reserved_cpu_milli: Annotated[int, Meta(ge=0, description="thousandths of a CPU that pods do not get")] = 0
    reserved_memory_bytes: Annotated[int, Meta(ge=0, description="bytes of memory that pods do not get")] = 64 << 20
    reserved_disk_bytes: Annotated[int, Meta(ge=0, description="bytes of disk that pods do not get")] = 256 << 20
    evict_memory_bytes: Annotated[
        int, Meta(ge=0, description="bytes of memory free below which pods are evicted; 0: never")
    ] = 32 << 20
    evict_disk_bytes: Annotated[
        int, Meta(ge=0, description="bytes of disk free below which pods are evicted; 0: never")
    ] = 128 << 20
    evict_after_s: Annotated[float, Meta(ge=0, description="seconds below a threshold before a pod is evicted")] = 30.0
    dns_servers: Annotated[
        list[str], Meta(description="name servers of pods with dnsPolicy ClusterFirst; empty: the host's")
    ] = []
    cluster_domain: Annotated[str, Meta(description="search domain of services in pods")] = "cluster.local"
    image_gc_high_percent: Annotated[
        int, Meta(ge=1, le=100, description="use of the image disk above which unused images are removed")
    ] = 85
    image_gc_low_percent: Annotated[
        int, Meta(ge=0, le=100, description="use of the image disk down to which images are removed")
    ] = 80
    image_min_age_s: Annotated[float, Meta(ge=0, description="seconds an unused image is kept at least")] = 120.0
