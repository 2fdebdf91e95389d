"""Requests and limits as the kernel takes them, with kubelet's rules (pure)."""

from collections.abc import Mapping
from typing import Any

from edgecore.pods.runtime import Resources
from edgecore.pods.unready import bad_config
from kubeapi import quantities
from kubeapi.pod_defaults import qos_class

Json = dict[str, Any]
PERIOD_US = 100_000
MIN_SHARES, SHARES_PER_CPU, MAX_SHARES = 2, 1024, 262_144
MIN_QUOTA_US = 1000
GUARANTEED_OOM, BEST_EFFORT_OOM = -997, 1000
SYSTEM_CRITICAL = 2_000_000_000  # priority from which a pod is killed last
CGROUPS = "skerry-pods"  # never kubelet's own tree: a kubelet on this machine ends what it does not know there


def of_container(pod: Json, container: Json, memory_bytes: int) -> Resources:
    """Return the container's limits; ``memory_bytes`` is the machine's. Raises Unready for what is no quantity."""
    held = container.get("resources") or {}
    requests, limits = held.get("requests") or {}, held.get("limits") or {}
    try:
        request = _milli(requests, "cpu", _milli(limits, "cpu", 0))
        quota = _milli(limits, "cpu", 0) * PERIOD_US // 1000
        limit = quantities.units(limits["memory"]) if "memory" in limits else 0
        wanted = quantities.units(requests.get("memory", limits.get("memory", "0")))
    except ValueError as error:
        raise bad_config(f"resources of container {container.get('name')}: {error}") from error
    return Resources(
        cpu_shares=shares(request),
        cpu_quota_us=max(quota, MIN_QUOTA_US) if quota else 0,
        cpu_period_us=PERIOD_US,
        memory_bytes=limit,
        oom_score_adj=oom_score(pod, wanted, memory_bytes),
    )


def shares(milli: int) -> int:
    return min(MAX_SHARES, max(MIN_SHARES, milli * SHARES_PER_CPU // 1000))


def oom_score(pod: Json, wanted_bytes: int, memory_bytes: int) -> int:
    """Return oom_score_adj: the less of the machine a pod has asked for, the sooner it is killed."""
    spec = pod.get("spec") or {}
    qos = qos_class(spec)
    if qos == "Guaranteed" or int(spec.get("priority") or 0) >= SYSTEM_CRITICAL:
        return GUARANTEED_OOM
    if qos == "BestEffort" or memory_bytes <= 0:
        return BEST_EFFORT_OOM if qos == "BestEffort" else BEST_EFFORT_OOM - 1
    score = 1000 - 1000 * wanted_bytes // memory_bytes
    return min(max(score, 1000 + GUARANTEED_OOM), BEST_EFFORT_OOM - 1)


def cgroup_parent(pod: Json) -> str:
    """Return the path of the pod's cgroup, below one for its QoS class; Guaranteed pods are at the top."""
    qos = qos_class(pod.get("spec") or {}).lower()
    return "/".join(["", CGROUPS, *([] if qos == "guaranteed" else [qos]), f"pod{pod['metadata']['uid']}"])


def _milli(held: Mapping[str, Any], key: str, default: int) -> int:
    return quantities.milli(held[key]) if key in held else default
