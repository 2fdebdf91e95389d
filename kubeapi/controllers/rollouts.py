"""A Deployment's arithmetic: which ReplicaSet is the new one, how many pods each may have now, and what people are told. Pure."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from kubeapi.conditions import condition, with_condition
from kubeapi.controllers.parts import share
from kubeapi.durations import parse_time
from kubeapi.metadata import SUFFIX_ALPHABET
from proto.kit import canonical

Json = dict[str, Any]
HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED, MOST = "deployment.kubernetes.io/desired-replicas", "deployment.kubernetes.io/max-replicas"
NOT_COPIED = (
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
)
COMPLETE, TIMED_OUT = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"
PAUSED = ("DeploymentPaused", "DeploymentResumed")


def template_hash(template: Json, collisions: int) -> str:
    """Return ten letters that stand for a template."""
    digest = int.from_bytes(hashlib.sha256(canonical.encode([template, collisions])).digest()[:8], "big")
    out = ""
    while len(out) < 10:
        digest, letter = divmod(digest, len(SUFFIX_ALPHABET))
        out += SUFFIX_ALPHABET[letter]
    return out


def same_template(one: Json, other: Json) -> bool:
    """Whether two templates make the same pods: the hash label does not count."""
    return _bare(one) == _bare(other)


def _bare(template: Json) -> Json:
    metadata = {k: v for k, v in (template.get("metadata") or {}).items() if v is not None}
    metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH}
    return {**template, "metadata": metadata}


def oldest_first(sets: Iterable[Json]) -> list[Json]:
    return sorted(sets, key=lambda rs: (rs["metadata"].get("creationTimestamp") or "", rs["metadata"]["name"]))


def new_set(deployment: Json, sets: Iterable[Json]) -> Json | None:
    """Return the ReplicaSet of the present template, None when there is none yet."""
    template = deployment["spec"]["template"]
    return next((rs for rs in oldest_first(sets) if same_template(rs["spec"]["template"], template)), None)


def revision(obj: Json) -> int:
    text = (obj["metadata"].get("annotations") or {}).get(REVISION, "")
    return int(text) if text.isdigit() else 0


def wanted(rs: Json) -> int:
    return int(rs["spec"].get("replicas", 1))


def count(rs: Json, key: str = "replicas") -> int:
    return int((rs.get("status") or {}).get(key) or 0)


def bounds(deployment: Json) -> tuple[int, int]:
    """Return (maxSurge, maxUnavailable) as counts; never both 0."""
    spec = deployment["spec"]
    replicas = spec.get("replicas", 1)
    if (spec.get("strategy") or {}).get("type") != "RollingUpdate" or not replicas:
        return 0, 0
    rolling = spec["strategy"].get("rollingUpdate") or {}
    surge = share(rolling.get("maxSurge"), replicas, up=True)
    unavailable = share(rolling.get("maxUnavailable"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, replicas)


def new_size(deployment: Json, new: Json, sets: list[Json]) -> int:
    """Return how many pods the new ReplicaSet may have now."""
    replicas = deployment["spec"].get("replicas", 1)
    if (deployment["spec"].get("strategy") or {}).get("type") != "RollingUpdate":
        return int(replicas)
    if wanted(new) >= replicas:
        return int(replicas)
    surge, _ = bounds(deployment)
    room = replicas + surge - sum(map(wanted, sets))
    return int(wanted(new) + max(0, min(room, replicas - wanted(new))))


def old_sizes(deployment: Json, new: Json, old: list[Json]) -> dict[str, int]:
    """Return by name what the old ReplicaSets shrink to: first what is broken anyway, then what the budget allows."""
    _, unavailable = bounds(deployment)
    least = deployment["spec"].get("replicas", 1) - unavailable
    everything = [*old, new]
    sizes = {rs["metadata"]["name"]: wanted(rs) for rs in old}
    spare = sum(map(wanted, everything)) - least - (wanted(new) - count(new, "availableReplicas"))
    if spare <= 0:
        return sizes
    for rs in oldest_first(old):
        name = rs["metadata"]["name"]
        broken = min(spare, max(0, sizes[name] - count(rs, "availableReplicas")))
        sizes[name] -= broken
        spare -= broken
    spare = sum(count(rs, "availableReplicas") for rs in everything) - least
    for rs in oldest_first(old):
        name = rs["metadata"]["name"]
        less = min(sizes[name], max(0, spare))
        sizes[name] -= less
        spare -= less
    return sizes


def proportional(deployment: Json, sets: list[Json]) -> dict[str, int]:
    """Return by name how a change of size in the midst of a rollout is spread over the active ReplicaSets."""
    replicas = deployment["spec"].get("replicas", 1)
    surge, _ = bounds(deployment)
    allowed = replicas + surge if replicas else 0
    to_add = allowed - sum(map(wanted, sets))
    grows = to_add > 0
    order = sorted(sets, key=lambda rs: rs["metadata"].get("creationTimestamp") or "", reverse=grows)
    order.sort(key=wanted, reverse=True)
    sizes, added = {}, 0
    for rs in order:
        left = to_add - added
        part = _fraction(deployment, rs, replicas, surge) if to_add else 0
        part = min(max(part, 0), left) if grows else max(min(part, 0), left)
        sizes[rs["metadata"]["name"]] = wanted(rs) + part
        added += part
    if order and to_add != added:
        name = order[0]["metadata"]["name"]
        sizes[name] = max(0, sizes[name] + to_add - added)
    return sizes


def _fraction(deployment: Json, rs: Json, replicas: int, surge: int) -> int:
    if not replicas:
        return -wanted(rs)
    text = (rs["metadata"].get("annotations") or {}).get(MOST, "")
    before = int(text) if text.isdigit() and int(text) else count(deployment)
    return round(wanted(rs) * (replicas + surge) / before) - wanted(rs) if before else 0


def is_complete(deployment: Json, status: Json) -> bool:
    """Whether the rollout has reached what was asked for."""
    replicas = deployment["spec"].get("replicas", 1)
    counts = [status.get(key, 0) for key in ("updatedReplicas", "replicas", "availableReplicas")]
    return counts == [replicas] * 3 and status.get("observedGeneration", 0) >= deployment["metadata"].get(
        "generation", 0
    )


def counted(deployment: Json, new: Json | None, sets: list[Json]) -> Json:
    """Return the numbers of a Deployment's status."""
    replicas, available = sum(map(count, sets)), sum(count(rs, "availableReplicas") for rs in sets)
    numbers = {
        "replicas": replicas,
        "updatedReplicas": count(new) if new is not None else 0,
        "readyReplicas": sum(count(rs, "readyReplicas") for rs in sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(map(wanted, sets)) - available),
    }
    out: Json = {"observedGeneration": deployment["metadata"].get("generation", 0)}
    out.update({key: number for key, number in numbers.items() if number})
    collisions = (deployment.get("status") or {}).get("collisionCount")
    return {**out, **({"collisionCount": collisions} if collisions else {})}


def availability(deployment: Json, status: Json, conditions: list[Json], now: datetime) -> list[Json]:
    """Return the conditions with Available as it is now."""
    _, unavailable = bounds(deployment)
    enough = status.get("availableReplicas", 0) >= deployment["spec"].get("replicas", 1) - unavailable
    told = (
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    )
    return with_condition(conditions, "Available", *told, now, updated=True)


def progress(deployment: Json, new: Json | None, status: Json, conditions: list[Json], now: datetime) -> list[Json]:
    """Return the conditions with Progressing as it is now."""
    held = condition({"conditions": conditions}, "Progressing")
    before = deployment.get("status") or {}
    name = new["metadata"]["name"] if new is not None else ""
    what = f'ReplicaSet "{name}"' if name else f'Deployment "{deployment["metadata"]["name"]}"'
    settled = status.get("replicas", 0) == status.get("updatedReplicas", 0)
    if deployment["spec"].get("progressDeadlineSeconds") is None or (
        settled and held is not None and held.get("reason") == COMPLETE
    ):
        return conditions
    if is_complete(deployment, status):
        text = f"{what} has successfully progressed."
        return with_condition(conditions, "Progressing", "True", COMPLETE, text, now, updated=True)
    if _moves(before, status):
        rest = [c for c in conditions if c is not held]
        made = with_condition(
            [], "Progressing", "True", "ReplicaSetUpdated", f"{what} is progressing.", now, updated=True
        )
        if held is not None and held.get("status") == "True":
            made[0]["lastTransitionTime"] = held.get("lastTransitionTime")
        return [*rest, *made]
    wait = deadline_in_s(deployment, conditions, now)
    if wait is not None and wait <= 0:
        text = f"{what} has timed out progressing."
        return with_condition(conditions, "Progressing", "False", TIMED_OUT, text, now, updated=True)
    return conditions


def _moves(before: Json, after: Json) -> bool:
    def old(status: Json) -> int:
        return int(status.get("replicas", 0)) - int(status.get("updatedReplicas", 0))

    grown = ("updatedReplicas", "readyReplicas", "availableReplicas")
    return old(after) < old(before) or any(after.get(k, 0) > before.get(k, 0) for k in grown)


def deadline_in_s(deployment: Json, conditions: list[Json], now: datetime) -> float | None:
    """Return in how many seconds the rollout counts as stuck; None when it cannot."""
    held = condition({"conditions": conditions}, "Progressing")
    limit = deployment["spec"].get("progressDeadlineSeconds")
    if held is None or limit is None or deployment["spec"].get("paused"):
        return None
    if held.get("reason") in (COMPLETE, TIMED_OUT, *PAUSED):
        return None
    since = parse_time(held.get("lastUpdateTime"))
    return None if since is None else limit - (now - since).total_seconds()
