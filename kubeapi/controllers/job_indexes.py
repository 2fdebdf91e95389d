"""Which pods a Job makes next, and what an ended one counts for: plain jobs, indexed ones, failure policies (pure)."""

from typing import Any

from kubeapi.controllers import parts
from kubeapi.kinds import JOB

Json = dict[str, Any]
INDEX = "batch.kubernetes.io/job-completion-index"


def is_indexed(job: Json) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def read(text: str) -> set[int]:
    """Return the numbers of ``1,3-5``."""
    out: set[int] = set()
    for term in filter(None, text.split(",")):
        first, _, last = term.partition("-")
        out.update(range(int(first), int(last or first) + 1))
    return out


def write(numbers: set[int]) -> str:
    """Return numbers as ``1,3-5``."""
    out: list[list[int]] = []
    for number in sorted(numbers):
        if out and number == out[-1][1] + 1:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ",".join(str(a) if a == b else f"{a},{b}" if b == a + 1 else f"{a}-{b}" for a, b in out)


def index_of(pod: Json) -> int | None:
    text = (pod["metadata"].get("annotations") or {}).get(INDEX, "")
    return int(text) if text.isdigit() else None


def count(job: Json, status: Json, pod: Json) -> str:
    """Count an ended pod into ``status``; one that succeeds twice for an index counts once.

    Returns why the job's failure policy ends the job, "" when it does not.
    """
    if (pod.get("status") or {}).get("phase") != "Succeeded":
        action, why = policy(job, pod)
        if action != "Ignore":
            status["failed"] = status.get("failed", 0) + 1
        return why if action == "FailJob" else ""
    if not is_indexed(job):
        status["succeeded"] = status.get("succeeded", 0) + 1
        return ""
    done, number = read(status.get("completedIndexes", "")), index_of(pod)
    if number is not None and number < job["spec"]["completions"]:
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


def bodies(job: Json, pods: list[Json], missing: int) -> list[Json]:
    """Return the bodies of the next pods, ``missing`` at most."""
    template = job["spec"]["template"]
    if not is_indexed(job):
        return [parts.pod_of(JOB, job, template) for _ in range(missing)]
    taken = read((job.get("status") or {}).get("completedIndexes", ""))
    taken |= {n for p in pods if parts.is_active(p) and (n := index_of(p)) is not None}
    free = (n for n in range(job["spec"]["completions"]) if n not in taken)
    return [_numbered(job, template, number) for number, _ in zip(free, range(missing), strict=False)]


def _numbered(job: Json, template: Json, number: int) -> Json:
    body = parts.pod_of(JOB, job, template, **{INDEX: str(number)})
    metadata, spec = body["metadata"], body["spec"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), INDEX: str(number)}
    metadata["generateName"] = f"{job['metadata']['name']}-{number}-"
    spec.setdefault("hostname", f"{job['metadata']['name']}-{number}"[:63])
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    variable = {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}
    for key in ("initContainers", "containers"):
        if spec.get(key):
            spec[key] = [
                c
                if any(e.get("name") == variable["name"] for e in c.get("env") or ())
                else {**c, "env": [*(c.get("env") or ()), variable]}
                for c in spec[key]
            ]
    return body
