"""What the API adds to a new pod from other objects: account and token volume, priority, limits, runtime class, tolerations.

A Hook, inside the pod's own transaction. Mirror pods belong to their node: they get a priority and nothing else.
"""

from typing import Any

from kubeapi.admission import Attempt
from kubeapi.defaulting import fill_in
from kubeapi.errors import ApiError, forbidden
from kubeapi.kinds import LIMIT_RANGE, POD, PRIORITY_CLASS, RUNTIME_CLASS, SERVICE_ACCOUNT
from kubeapi.metadata import generated_name
from kubeapi.pod_defaults import qos_class
from kubeapi.quantities import of
from kubeapi.resources import Resource
from kubeapi.store import Store
from proto.kit.backoff import Rng

Json = dict[str, Any]
MIRROR = "kubernetes.io/config.mirror"
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  a directory
TOKEN_LIFE_S = 3607  # an hour, and a number by which these tokens are told from others
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
GONE_NODE_S = 300
ROOT_CA = "kube-root-ca.crt"


class PodAdmission:
    """Completes new pods. ``admit`` is a Hook; raises 403."""

    def __init__(self, store: Store, rng: Rng) -> None:
        self._store, self._rng = store, rng

    def admit(self, attempt: Attempt) -> Json | None:
        if attempt.res != POD or attempt.verb != "CREATE" or attempt.subresource or attempt.obj is None:
            return None
        pod = attempt.obj
        spec = dict(pod["spec"])
        self._priority(attempt, spec)
        if MIRROR not in (pod["metadata"].get("annotations") or {}):
            self.account(attempt, spec)
            self._runtime(attempt, spec)
            self._limits(attempt, spec)
            _tolerate_lost_nodes(spec)
        status = {**(pod.get("status") or {}), "qosClass": qos_class(spec)}
        return {**pod, "spec": spec, "status": status}

    def _get(self, res: Resource, namespace: str, name: str) -> Json | None:
        found = self._store.peek(res, namespace, name)
        return None if found is None else found.object

    def _priority(self, attempt: Attempt, spec: Json) -> None:
        name = spec.get("priorityClassName")
        found = self._get(PRIORITY_CLASS, "", name) if name else self._default_priority()
        if name and found is None:
            raise forbidden(POD, attempt.name, f"no PriorityClass with name {name} was found")
        value, policy = 0, "PreemptLowerPriority"
        if found is not None:
            spec["priorityClassName"] = found["metadata"]["name"]
            value, policy = found.get("value") or 0, found.get("preemptionPolicy") or policy
        if spec.get("priority") not in (None, value):
            text = f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; it is {value}"
            raise forbidden(POD, attempt.name, f"{text} by its priority class")
        if spec.get("preemptionPolicy") not in (None, policy):
            text = f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec"
            raise forbidden(POD, attempt.name, f"{text}; it is {policy} by its priority class")
        spec["priority"], spec["preemptionPolicy"] = value, policy

    def _default_priority(self) -> Json | None:
        defaults = [i.object for i in self._store.peek_all(PRIORITY_CLASS) if i.object.get("globalDefault")]
        return min(defaults, key=lambda o: o.get("value") or 0, default=None)

    def account(self, attempt: Attempt, spec: Json) -> None:
        """Give ``spec`` the token of its service account, and that account's pull secrets. Raises 403."""
        name = spec["serviceAccountName"]
        account = self._get(SERVICE_ACCOUNT, attempt.namespace, name)
        if account is None:
            text = f'error looking up service account {attempt.namespace}/{name}: serviceaccount "{name}" not found'
            raise forbidden(POD, attempt.name, text)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        wanted = spec.get("automountServiceAccountToken")
        if wanted is None:
            wanted = account.get("automountServiceAccountToken")
        if wanted is not False:
            self._mount_token(spec)

    def _mount_token(self, spec: Json) -> None:
        names = {v.get("name") for v in spec.get("volumes") or ()}
        volume = next((n for n in names if str(n).startswith("kube-api-access-")), None)
        mounted = 0
        name = str(volume) if volume else generated_name("kube-api-access-", self._rng)
        mount = {"name": name, "readOnly": True, "mountPath": TOKEN_PATH}
        for key in ("initContainers", "containers"):
            if spec.get(key):
                spec[key] = [_with_mount(c, mount) for c in spec[key]]
                mounted += sum(1 for c in spec[key] if mount in c["volumeMounts"])
        if volume is None and mounted:
            spec["volumes"] = [*(spec.get("volumes") or ()), token_volume(name)]

    def _runtime(self, attempt: Attempt, spec: Json) -> None:
        name = spec.get("runtimeClassName")
        if not name:
            return
        found = self._get(RUNTIME_CLASS, "", name)
        if found is None:
            raise forbidden(POD, attempt.name, f'pod rejected: RuntimeClass "{name}" not found')
        overhead = (found.get("overhead") or {}).get("podFixed")
        if overhead:
            spec["overhead"] = dict(overhead)
        scheduling = found.get("scheduling") or {}
        if scheduling.get("nodeSelector"):
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **scheduling["nodeSelector"]}
        held = spec.get("tolerations") or []
        added = [t for t in scheduling.get("tolerations") or () if t not in held]
        if added:
            spec["tolerations"] = [*held, *added]

    def _limits(self, attempt: Attempt, spec: Json) -> None:
        for item in list(self._store.peek_all(LIMIT_RANGE)):
            if item.namespace == attempt.namespace:
                for limit in (item.object.get("spec") or {}).get("limits") or ():
                    if limit.get("type") == "Container":
                        _limit_containers(attempt, spec, limit)


def token_volume(name: str) -> Json:
    """Return the volume by which a container reaches the API: token, certificate authority, namespace."""
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources: list[Json] = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_LIFE_S, "path": "token"}},
        {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 0o644}}


def _with_mount(container: Json, mount: Json) -> Json:
    mounts = container.get("volumeMounts") or []
    if any(m.get("mountPath") == TOKEN_PATH for m in mounts):
        return {**container, "volumeMounts": mounts}
    return {**container, "volumeMounts": [*mounts, mount]}


def _tolerate_lost_nodes(spec: Json) -> None:
    held = spec.get("tolerations") or []
    added = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": GONE_NODE_S}
        for key in (NOT_READY, UNREACHABLE)
        if not any(t.get("effect") in (None, "", "NoExecute") and t.get("key") in (None, "", key) for t in held)
    ]
    if added:
        spec["tolerations"] = [*held, *added]


def _limit_containers(attempt: Attempt, spec: Json, limit: Json) -> None:
    """Give each container the range's defaults, then hold it to the range. Raises 403."""
    wrong: list[str] = []
    for key in ("initContainers", "containers"):
        if spec.get(key):
            spec[key] = [_with_defaults(c, limit) for c in spec[key]]
            for container in spec[key]:
                wrong += _out_of_range(container["resources"], limit)
    if wrong:
        raise _forbidden_range(attempt, wrong)


def _forbidden_range(attempt: Attempt, wrong: list[str]) -> ApiError:
    return forbidden(POD, attempt.name, wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]")


def _with_defaults(container: Json, limit: Json) -> Json:
    resources = dict(container.get("resources") or {})
    limits, requests = dict(resources.get("limits") or {}), dict(resources.get("requests") or {})
    fill_in(requests, **(limit.get("defaultRequest") or {}))
    fill_in(limits, **(limit.get("default") or {}))
    if limits:
        resources["limits"] = limits
    if requests:
        resources["requests"] = requests
    return {**container, "resources": resources}


def _out_of_range(resources: Json, limit: Json) -> list[str]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    out = []
    for name, bound in (limit.get("max") or {}).items():
        if name not in limits:
            out.append(f"maximum {name} usage per Container is {bound}.  No limit is specified")
        elif of(limits[name]) > of(bound):
            out.append(f"maximum {name} usage per Container is {bound}, but limit is {limits[name]}")
    for name, bound in (limit.get("min") or {}).items():
        if name not in requests:
            out.append(f"minimum {name} usage per Container is {bound}.  No request is specified")
        elif of(requests[name]) < of(bound):
            out.append(f"minimum {name} usage per Container is {bound}, but request is {requests[name]}")
    return out
