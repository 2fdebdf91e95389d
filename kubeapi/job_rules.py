"""What is wrong with a Job beyond its schema: indexes, failure and success policies."""

import re
from typing import Any

from kubeapi import causes as say
from kubeapi.causes import Causes, at_least, bad, forbid, one_of, required

Json = dict[str, Any]
MAX_INDEXED = 100_000
MAX_RULES = 20
INDEXES = re.compile(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*")
COUNTS = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
    "ttlSecondsAfterFinished",
)


def job_causes(spec: Json, path: str) -> Causes:
    """Return what is wrong with a Job's spec, but for its template."""
    out: Causes = []
    for key in COUNTS:
        out += at_least(f"{path}.{key}", spec.get(key))
    out += one_of(f"{path}.completionMode", spec.get("completionMode"), ("Indexed", "NonIndexed"))
    if spec.get("completionMode") == "Indexed":
        out += _indexed(spec, path)
    else:
        for key in ("backoffLimitPerIndex", "successPolicy"):
            if spec.get(key) is not None:
                out.append(bad(f"{path}.{key}", spec[key], "requires indexed completion mode"))
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        text = "when maxFailedIndexes is specified"
        out.append(required(f"{path}.backoffLimitPerIndex", text))
    out += _failure_rules(spec, f"{path}.podFailurePolicy")
    restarts = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy")
    for key in ("podFailurePolicy", "backoffLimitPerIndex"):
        if spec.get(key) is not None and restarts != "Never":
            text = f'only "Never" is supported when {key} is specified'
            out.append(bad(f"{path}.template.spec.restartPolicy", restarts, text))
    return out


def _indexed(spec: Json, path: str) -> Causes:
    wanted = spec.get("completions")
    if wanted is None:
        return [required(f"{path}.completions", "when completion mode is Indexed")]
    out: Causes = []
    if min(wanted, spec.get("parallelism") or 0) > MAX_INDEXED:
        text = f"must be less than or equal to {MAX_INDEXED} when completion mode is Indexed"
        out.append(bad(f"{path}.parallelism", spec.get("parallelism"), text))
    if (spec.get("maxFailedIndexes") or 0) > wanted:
        out.append(
            bad(f"{path}.maxFailedIndexes", spec["maxFailedIndexes"], "must be less than or equal to completions")
        )
    return out + _success_rules(spec, wanted, f"{path}.successPolicy.rules")


def _success_rules(spec: Json, completions: int, path: str) -> Causes:
    policy = spec.get("successPolicy")
    if policy is None:
        return []
    rules = policy.get("rules") or ()
    if not 0 < len(rules) <= MAX_RULES:
        return [bad(path, len(rules), f"must have 1 to {MAX_RULES} rules")]
    out: Causes = []
    for i, rule in enumerate(rules):
        text, count = rule.get("succeededIndexes"), rule.get("succeededCount")
        if text is None and count is None:
            out.append(required(f"{path}[{i}]", "at least one of succeededCount or succeededIndexes must be specified"))
        named = completions if text is None else _size(str(text), completions)
        if named is None:
            wrong = f"must be increasing numbers below completions, such as 1,3-5; completions is {completions}"
            out.append(bad(f"{path}[{i}].succeededIndexes", text, wrong))
        elif count is not None and not 0 < count <= named:
            out.append(bad(f"{path}[{i}].succeededCount", count, f"must be between 1 and {named}"))
    return out


def _size(text: str, completions: int) -> int | None:
    """Return how many indexes ``1,3-5`` names, None when it is not such a list."""
    if INDEXES.fullmatch(text) is None:
        return None
    size, above = 0, -1
    for term in text.split(","):
        first, _, last = term.partition("-")
        low, high = int(first), int(last or first)
        if not above < low <= high < completions:
            return None
        size, above = size + high - low + 1, high
    return size


def _failure_rules(spec: Json, path: str) -> Causes:
    actions = ("Count", "FailIndex", "FailJob", "Ignore")
    out: Causes = []
    for i, rule in enumerate((spec.get("podFailurePolicy") or {}).get("rules") or ()):
        where, action = f"{path}.rules[{i}]", rule.get("action")
        if action not in actions:
            out.append(say.unsupported(f"{where}.action", action, actions))
        elif action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            out.append(forbid(f"{where}.action", "FailIndex requires backoffLimitPerIndex"))
        if bool(rule.get("onExitCodes")) == bool(rule.get("onPodConditions")):
            out.append(bad(where, rule, "exactly one of `onExitCodes` and `onPodConditions` must be given"))
    return out
