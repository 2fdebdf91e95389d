"""What the end of a Job's pod means: counts, failure policies, back-off, and failures counted for each index by itself (pure).

With ``backoffLimitPerIndex`` a pod carries how often its index has failed before it. The newest failed pod of an index is
therefore counted, and let go, only when the next one is there to carry the number on, or none will be.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from kubeapi.controllers import parts
from kubeapi.controllers.job_indexes import completed, failed, index_of, is_indexed, read, write
from kubeapi.durations import parse_time

Json = dict[str, Any]
FAILED_BEFORE = "batch.kubernetes.io/job-index-failure-count"
IGNORED_BEFORE = "batch.kubernetes.io/job-index-ignored-failure-count"
TRACKING = "batch.kubernetes.io/job-tracking"  # the finalizer of a pod that is not counted yet
RETRY_S, LONGEST_RETRY_S = 10.0, 600.0


def is_tracked(pod: Json) -> bool:
    """Whether the pod is still to be counted."""
    return TRACKING in (pod["metadata"].get("finalizers") or ())


def count(job: Json, status: Json, pod: Json) -> str:
    """Count an ended pod into ``status``; one that succeeds twice for an index counts once.

    Returns why the job's failure policy ends the job, "" when it does not.
    """
    number = index_of(pod) if is_indexed(job) else None
    done = completed(status)
    if (pod.get("status") or {}).get("phase") != "Succeeded":
        action, why = policy(job, pod)
        if action != "Ignore":
            status["failed"] = status.get("failed", 0) + 1
        if number is not None and number not in done and gives_up(job, pod):
            status["failedIndexes"] = write(failed(status) | {number})
        return why if action == "FailJob" else ""
    if not is_indexed(job):
        status["succeeded"] = status.get("succeeded", 0) + 1
        return ""
    if number is not None and number < job["spec"]["completions"] and number not in failed(status):
        done.add(number)
    status["completedIndexes"] = write(done)
    status["succeeded"] = len(done)
    return ""


def policy(job: Json, pod: Json) -> tuple[str, str]:
    """Return (action, sentence) of the first failure rule that a failed pod matches; ("Count", "") without one."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
    for i, rule in enumerate((job["spec"].get("podFailurePolicy") or {}).get("rules") or ()):
        action, codes = str(rule.get("action")), rule.get("onExitCodes")
        found = _exit(codes, status) if codes else None
        if found is not None:
            text = f"Container {found[0]} for pod {name} failed with exit code {found[1]} matching {action} rule at index {i}"
            return action, text
        for wanted in rule.get("onPodConditions") or ():
            pair = (wanted.get("type"), wanted.get("status") or "True")
            if any((c.get("type"), c.get("status")) == pair for c in status.get("conditions") or ()):
                return action, f"Pod {name} has condition {pair[0]} matching {action} rule at index {i}"
    return "Count", ""


def _exit(codes: Json, status: Json) -> tuple[str, int] | None:
    """Return the first container that ended with a code that the rule names."""
    values, only = codes.get("values") or (), codes.get("containerName")
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        code = ((container.get("state") or {}).get("terminated") or {}).get("exitCode") or 0
        named = only in (None, container.get("name"))
        if code and named and (code in values) == (codes.get("operator") == "In"):
            return str(container.get("name")), int(code)
    return None


# each index by itself


def by_index(job: Json) -> bool:
    """Whether failures are counted for each index by itself."""
    return is_indexed(job) and job["spec"].get("backoffLimitPerIndex") is not None


def _before(pod: Json) -> tuple[int, int]:
    """Return how often the pod's index had (failed, failed without that counting) before it."""
    notes = pod["metadata"].get("annotations") or {}
    texts = (notes.get(FAILED_BEFORE, ""), notes.get(IGNORED_BEFORE, ""))
    counted, ignored = (int(text) if text.isdigit() else 0 for text in texts)
    return counted, ignored


def _after(job: Json, pod: Json) -> tuple[int, int]:
    """Return the same with this pod, which did not succeed."""
    counted, ignored = _before(pod)
    return (counted, ignored + 1) if policy(job, pod)[0] == "Ignore" else (counted + 1, ignored)


def gives_up(job: Json, pod: Json) -> bool:
    """Whether the index of a failed pod is not tried again."""
    limit = job["spec"].get("backoffLimitPerIndex")
    return limit is not None and (policy(job, pod)[0] == "FailIndex" or _after(job, pod)[0] > limit)


def carries_on(job: Json, pod: Json, pods: Iterable[Json]) -> bool:
    """Whether a pod that ended is still needed for its number: its index is tried again, by a pod that is not there yet."""
    number = index_of(pod)
    if not by_index(job) or number is None or (pod.get("status") or {}).get("phase") == "Succeeded":
        return False
    status = job.get("status") or {}
    if number in completed(status) | failed(status) or gives_up(job, pod):
        return False
    return all(index_of(p) != number or sum(_before(p)) <= sum(_before(pod)) for p in pods)


def newest(job: Json, pods: Iterable[Json]) -> dict[int, Json]:
    """Return by index its last pod, where that is over or on its way out and did not succeed; one that we stopped is none."""
    out: dict[int, Json] = {}
    for pod in pods:
        number, phase = index_of(pod), (pod.get("status") or {}).get("phase")
        stopped = parts.is_deleting(pod) and phase not in parts.FINISHED and not is_tracked(pod)
        if number is not None and not stopped and (number not in out or sum(_before(pod)) > sum(_before(out[number]))):
            out[number] = pod
    spent = {
        n: p for n, p in out.items() if not parts.is_active(p) and (p.get("status") or {}).get("phase") != "Succeeded"
    }
    return spent if by_index(job) else {}


def notes(job: Json, pod: Json) -> dict[str, str]:
    """Return the annotations of the pod that follows a failed one."""
    counted, ignored = _after(job, pod)
    return {FAILED_BEFORE: str(counted), **({IGNORED_BEFORE: str(ignored)} if ignored else {})}


# how long to wait


def waits(job: Json, last: dict[int, Json], now: datetime) -> dict[int, float]:
    """Return by index in how many seconds it may be tried again, of those that must wait."""
    found = {number: _left_s(pod, sum(_after(job, pod)), now) for number, pod in last.items()}
    return {number: left for number, left in found.items() if left > 0}


def backoff_s(pods: Iterable[Json], now: datetime) -> float:
    """Return how long to wait after failures in a row: 10 s, doubled each time, up to ten minutes."""
    ended = [p for p in pods if (p.get("status") or {}).get("phase") in parts.FINISHED]
    ended.sort(key=_ended_at, reverse=True)
    row = 0
    for pod in ended:
        if pod["status"]["phase"] == "Succeeded":
            break
        row += 1
    return _left_s(ended[0], row, now) if row else 0.0


def _left_s(pod: Json, failures: int, now: datetime) -> float:
    at = parse_time(_ended_at(pod))
    if at is None:
        return 0.0
    return float(min(LONGEST_RETRY_S, RETRY_S * 2.0 ** min(failures - 1, 10)) - (now - at).total_seconds())


def _ended_at(pod: Json) -> str:
    """Return when a pod's last container ended, else when the pod was made."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [((c.get("state") or {}).get("terminated") or {}).get("finishedAt") for c in statuses]
    return max(filter(None, ends), default=None) or str(pod["metadata"].get("creationTimestamp") or "")


# the end of the job


def verdict(job: Json) -> tuple[str, str, str] | None:
    """Return (condition, reason, message) when an indexed job is over by its indexes."""
    spec, status = job["spec"], job.get("status") or {}
    lost, most = failed(status), spec.get("maxFailedIndexes")
    if most is not None and len(lost) > most:
        text = "Job has exceeded the specified maximal number of failed indexes"
        return "Failed", "MaxFailedIndexesExceeded", text
    done = completed(status)
    for i, rule in enumerate((spec.get("successPolicy") or {}).get("rules") or ()):
        named = read(rule["succeededIndexes"]) if rule.get("succeededIndexes") else None
        enough = rule.get("succeededCount") or len(named or ())
        if len(done if named is None else done & named) >= enough:
            return "Complete", "SuccessPolicy", f"Matched rules at index {i}"
    if lost and len(lost | done) >= spec["completions"]:
        return "Failed", "FailedIndexes", "Job has failed indexes"
    return None
