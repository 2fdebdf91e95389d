"""What is wrong with a pod's spec, of a Pod or of a template."""

from typing import Any

from kubeapi import causes as say
from kubeapi.causes import Causes, bad, duplicate, forbid, one_of, required
from kubeapi.container_rules import container_causes
from kubeapi.pod_defaults import CONTAINER_LISTS
from kubeapi.volume_rules import volume_causes

Json = dict[str, Any]
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
RESTARTS = ("Always", "Never", "OnFailure")
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
NODE_OPERATORS = ("DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn")
MAX_DEADLINE_S = 2**31 - 1


def pod_causes(obj: Json) -> Causes:
    """Return what is wrong with a Pod."""
    return spec_causes(obj.get("spec") or {}, "spec")


def spec_causes(spec: Json, path: str) -> Causes:
    """Return what is wrong with a pod's spec at ``path``."""
    out, volumes = volume_causes(spec.get("volumes") or [], f"{path}.volumes")
    if not spec.get("containers"):
        out.append(required(f"{path}.containers"))
    seen: set[str] = set()
    for key in CONTAINER_LISTS:
        for i, container in enumerate(spec.get(key) or ()):
            out += container_causes(container, f"{path}.{key}[{i}]", volumes, seen)
    out += _restarts(spec, path) + _host_ports(spec, path) + _life(spec, path)
    out += say.labels(f"{path}.nodeSelector", spec.get("nodeSelector"))
    out += _tolerations(spec.get("tolerations") or [], f"{path}.tolerations")
    out += _affinity(spec.get("affinity") or {}, f"{path}.affinity")
    out += _spreading(spec.get("topologySpreadConstraints") or [], f"{path}.topologySpreadConstraints")
    return out


def _restarts(spec: Json, path: str) -> Causes:
    out = (
        []
        if spec.get("restartPolicy") in RESTARTS
        else [say.unsupported(f"{path}.restartPolicy", spec.get("restartPolicy"), RESTARTS)]
    )
    for i, container in enumerate(spec.get("initContainers") or ()):
        where, sidecar = f"{path}.initContainers[{i}]", container.get("restartPolicy") == "Always"
        out += one_of(f"{where}.restartPolicy", container.get("restartPolicy"), ("Always",))
        for key in () if sidecar else ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
            if container.get(key):
                out.append(forbid(f"{where}.{key}", "may not be set for init containers without restartPolicy=Always"))
    for i, container in enumerate(spec.get("containers") or ()):
        if container.get("restartPolicy"):
            out.append(forbid(f"{path}.containers[{i}].restartPolicy", "may not be set for non-init containers"))
    return out


def _host_ports(spec: Json, path: str) -> Causes:
    out: Causes = []
    taken: set[tuple[Any, ...]] = set()
    for i, container in enumerate(spec.get("containers") or ()):
        for j, port in enumerate(container.get("ports") or ()):
            number, where = port.get("hostPort"), f"{path}.containers[{i}].ports[{j}]"
            if not number:
                continue
            key = (port.get("hostIP") or "", number, port.get("protocol"))
            if key in taken:
                out.append(duplicate(f"{where}.hostPort", f"{key[2]}/{key[0]}/{number}"))
            taken.add(key)
            if spec.get("hostNetwork") and number != port.get("containerPort"):
                out.append(
                    bad(
                        f"{where}.containerPort",
                        port.get("containerPort"),
                        "must match `hostPort` when `hostNetwork` is true",
                    )
                )
    return out


def _life(spec: Json, path: str) -> Causes:
    out: Causes = []
    if spec.get("dnsPolicy") not in DNS_POLICIES:
        out.append(say.unsupported(f"{path}.dnsPolicy", spec.get("dnsPolicy"), DNS_POLICIES))
    servers = (spec.get("dnsConfig") or {}).get("nameservers") or []
    if spec.get("dnsPolicy") == "None" and not servers:
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        out.append(required(f"{path}.dnsConfig.nameservers", text))
    if len(servers) > 3:
        out.append(bad(f"{path}.dnsConfig.nameservers", servers, "must not have more than 3 nameservers"))
    out += say.within(f"{path}.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"), 1, MAX_DEADLINE_S)
    out += say.at_least(f"{path}.terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    for key in ("hostname", "subdomain"):
        if spec.get(key):
            out += say.dns_label(f"{path}.{key}", spec[key])
    for key in ("serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName"):
        if spec.get(key):
            out += say.dns_name(f"{path}.{key}", spec[key])
    policies = ("Never", "PreemptLowerPriority")
    out += one_of(f"{path}.preemptionPolicy", spec.get("preemptionPolicy"), policies)
    gates = [gate.get("name") for gate in spec.get("schedulingGates") or ()]
    for i, gate in enumerate(gates):
        if gate in gates[:i]:
            out.append(duplicate(f"{path}.schedulingGates[{i}]", gate))
    context = spec.get("securityContext") or {}
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        out += say.within(f"{path}.securityContext.{key}", context.get(key), 0, MAX_DEADLINE_S)
    return out


def _tolerations(tolerations: list[Json], path: str) -> Causes:
    out: Causes = []
    for i, toleration in enumerate(tolerations):
        where, operator = f"{path}[{i}]", toleration.get("operator") or "Equal"
        if not toleration.get("key") and operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            out.append(bad(f"{where}.operator", toleration.get("operator", ""), text))
        if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            out.append(bad(f"{where}.effect", toleration.get("effect", ""), text))
        if operator == "Exists" and toleration.get("value"):
            out.append(bad(f"{where}.operator", operator, "value must be empty when `operator` is 'Exists'"))
        out += one_of(f"{where}.operator", toleration.get("operator"), ("Equal", "Exists"))
        out += one_of(f"{where}.effect", toleration.get("effect") or None, EFFECTS)
    return out


REQUIRED_RULE, PREFERRED_RULE = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


def _affinity(affinity: Json, path: str) -> Causes:
    out: Causes = []
    nodes = affinity.get("nodeAffinity") or {}
    needed = nodes.get(REQUIRED_RULE)
    where = f"{path}.nodeAffinity.{REQUIRED_RULE}"
    if needed is not None and not needed.get("nodeSelectorTerms"):
        out.append(required(f"{where}.nodeSelectorTerms", "must have at least one node selector term"))
    for i, term in enumerate((needed or {}).get("nodeSelectorTerms") or ()):
        out += _node_term(f"{where}.nodeSelectorTerms[{i}]", term)
    for i, wish in enumerate(nodes.get(PREFERRED_RULE) or ()):
        spot = f"{path}.nodeAffinity.{PREFERRED_RULE}[{i}]"
        out += say.within(f"{spot}.weight", wish.get("weight", 0), 1, 100)
        out += _node_term(f"{spot}.preference", wish.get("preference") or {})
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        for i, term in enumerate(rules.get(REQUIRED_RULE) or ()):
            out += _pod_term(f"{path}.{kind}.{REQUIRED_RULE}[{i}]", term)
        for i, wish in enumerate(rules.get(PREFERRED_RULE) or ()):
            spot = f"{path}.{kind}.{PREFERRED_RULE}[{i}]"
            out += say.within(f"{spot}.weight", wish.get("weight", 0), 1, 100)
            out += _pod_term(f"{spot}.podAffinityTerm", wish.get("podAffinityTerm") or {})
    return out


def _node_term(path: str, term: Json) -> Causes:
    out: Causes = []
    for i, entry in enumerate(term.get("matchExpressions") or ()):
        out += say.requirement(f"{path}.matchExpressions[{i}]", entry, NODE_OPERATORS)
    for i, entry in enumerate(term.get("matchFields") or ()):
        if entry.get("key") != "metadata.name":
            out.append(bad(f"{path}.matchFields[{i}].key", entry.get("key"), "not a valid field selector key"))
        elif len(entry.get("values") or ()) != 1:
            out.append(
                required(
                    f"{path}.matchFields[{i}].values",
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                )
            )
    return out


def _pod_term(path: str, term: Json) -> Causes:
    out = say.label_selector(f"{path}.labelSelector", term.get("labelSelector"))
    if not term.get("topologyKey"):
        out.append(required(f"{path}.topologyKey", "can not be empty"))
    return out


def _spreading(constraints: list[Json], path: str) -> Causes:
    out: Causes = []
    pairs: set[tuple[Any, Any]] = set()
    for i, constraint in enumerate(constraints):
        where, key, unsatisfiable = f"{path}[{i}]", constraint.get("topologyKey"), constraint.get("whenUnsatisfiable")
        skew = constraint.get("maxSkew", 0)
        if skew <= 0:
            out.append(bad(f"{where}.maxSkew", skew, "must be greater than zero"))
        if not key:
            out.append(required(f"{where}.topologyKey", "can not be empty"))
        if unsatisfiable not in ("DoNotSchedule", "ScheduleAnyway"):
            out.append(
                say.unsupported(f"{where}.whenUnsatisfiable", unsatisfiable, ("DoNotSchedule", "ScheduleAnyway"))
            )
        if (key, unsatisfiable) in pairs:
            out.append(duplicate(f"{where}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {unsatisfiable}}}"))
        pairs.add((key, unsatisfiable))
        if constraint.get("minDomains") is not None and constraint["minDomains"] <= 0:
            out.append(bad(f"{where}.minDomains", constraint["minDomains"], "must be greater than zero"))
        out += say.label_selector(f"{where}.labelSelector", constraint.get("labelSelector"))
    return out
