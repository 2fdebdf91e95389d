"""Which pods a Job makes next: plain ones, or one for each index (pure)."""

from collections.abc import Container, Mapping
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


def completed(status: Json) -> set[int]:
    return read(status.get("completedIndexes") or "")


def failed(status: Json) -> set[int]:
    return read(status.get("failedIndexes") or "")


def bodies(
    job: Json, pods: list[Json], missing: int, waiting: Container[int] = (), notes: Mapping[int, dict[str, str]] = {}
) -> list[Json]:
    """Return the bodies of the next pods, ``missing`` at most: no index of ``waiting``, with the annotations ``notes`` by index."""
    template = job["spec"]["template"]
    if not is_indexed(job):
        return [parts.pod_of(JOB, job, template) for _ in range(missing)]
    status = job.get("status") or {}
    taken = completed(status) | failed(status)
    taken |= {n for p in pods if parts.is_active(p) and (n := index_of(p)) is not None}
    free = (n for n in range(job["spec"]["completions"]) if n not in taken and n not in waiting)
    return [
        _numbered(job, template, number, notes.get(number, {})) for number, _ in zip(free, range(missing), strict=False)
    ]


def _numbered(job: Json, template: Json, number: int, notes: dict[str, str]) -> Json:
    body = parts.pod_of(JOB, job, template, **{INDEX: str(number)})
    metadata, spec = body["metadata"], body["spec"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), INDEX: str(number), **notes}
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
