"""May this write of a node be made? Its user's rights, and that it concerns the node: one stolen gateway is one gateway."""

from typing import Any

from cloudcore.hub.scope import Scope
from cloudcore.hub.scope_devices import device_node
from cloudcore.hub.scope_pods import needs
from cloudcore.hub.write_reach import KINDS, reached
from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import DEVICE, NAMESPACE, NODE, SECRET, SERVICE_ACCOUNT, Kind
from proto import labels, templates, writes
from proto.kit.errors import MalformedMessage
from proto.names import ObjectKey, parse_key
from proto.writes import Write

Json = dict[str, Any]
REVIEW = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
ACCOUNT, ACCOUNTS, KNOWN = "system:serviceaccount:", "system:serviceaccounts", "system:authenticated"
VERBS = {writes.CREATE: ("create",), writes.PATCH: ("patch", "update"), writes.DELETE: ("delete", "deletecollection")}
# Beside what a node's own API takes none of: questions that cloudcore would ask with its own rights.
CLOUD_ONLY = writes.CLOUD_ONLY | {"apiregistration.k8s.io", "authentication.k8s.io", "authorization.k8s.io"}
CLOUD_KINDS = ((NODE.group, NODE.plural), (NAMESPACE.group, NAMESPACE.plural))
# A cluster writes the credential of any account that such a Secret names into it, or believes what it says.
CREDENTIALS = ("kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token")


class Denied(Exception):
    """The write is refused; ``reason`` is one word for scripts, the text a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Rights:
    """Asks the API server about the user, and the scope about the object."""

    def __init__(self, client: KubeClient, scope: Scope) -> None:
        self._client, self._scope = client, scope

    def check_kind(self, write: Write, key: ObjectKey) -> None:
        """Raise Denied for kinds that only the cloud writes: cloudcore has more rights than the user whom it stands for."""
        if key.group in CLOUD_ONLY or (key.group, key.plural) in CLOUD_KINDS:
            raise Denied("CloudOnly", f"{key.plural} are written in the cloud only")
        known = self._scope.kind(write.key)
        expected = known.kind if known is not None else KINDS.get((key.group, key.plural), write.kind)
        if write.kind != expected:
            raise Denied("Malformed", f"{key.plural} are of kind {expected}, not {write.kind[:80]}")

    async def check_user(self, node: str, write: Write, kind: Kind, key: ObjectKey) -> None:
        """Raises Denied, ApiUnavailable, NotSynced while the scope is not known."""
        self._scope.admit(node, write.key)
        groups = self._groups(node, write.user)
        for verb in VERBS[write.verb]:
            resource = {
                "verb": verb,
                "group": kind.group,
                "version": kind.version,
                "resource": kind.plural,
                "subresource": write.subresource,
                "namespace": key.namespace,
                "name": key.name,
            }
            spec = {"user": write.user, "groups": groups, "resourceAttributes": resource}
            body = {"apiVersion": REVIEW.api_version, "kind": REVIEW.kind, "metadata": {}, "spec": spec}
            answer = await self._client.create(REVIEW, "", body)
            if (answer.get("status") or {}).get("allowed") is True:
                return
        where = f' in the namespace "{key.namespace}"' if key.namespace else ""
        what = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
        raise Denied("Forbidden", f'User "{write.user}" cannot {VERBS[write.verb][0]} {what} "{key.name}"{where}')

    def _groups(self, node: str, user: str) -> list[str]:
        """Return the groups of a user of this node: what a node says of groups is not asked. Raises Denied."""
        if user == writes.admin_of(node):
            return [writes.ADMIN_GROUP, KNOWN]
        namespace, _, name = user.removeprefix(ACCOUNT).partition(":")
        if user.startswith(ACCOUNT) and name and self._scope.holds(node, SERVICE_ACCOUNT.key(namespace, name)):
            return [ACCOUNTS, f"{ACCOUNTS}:{namespace}", KNOWN]
        raise Denied("UnknownUser", f'User "{user}" is neither the technician of node {node} nor a pod of it')

    def check_target(self, node: str, write: Write, theirs: Json | None) -> None:
        """Raise Denied for an object that is not the node's to change. ``theirs`` None: it is to be created."""
        if theirs is None:
            if not _is_labelled(write.mine, node):
                text = f"an object that is made at node {node} carries the label {labels.NODE}={node}"
                raise Denied("OutsideNode", text)
        elif not self.concerns(node, write.key, theirs):
            raise Denied("OutsideNode", f"{write.key} is not among the objects of node {node}")
        elif write.user == writes.admin_of(node) and self._is_shared(node, write.key, theirs):
            # Every technician has the same role: what others run or read, too, is not one gateway's to change.
            raise Denied("SharedWorkload", f"{write.key} is not of node {node} alone: change it in the cloud")

    def _is_shared(self, node: str, key: str, theirs: Json) -> bool:
        others = self._scope.holders(key) - {node}
        return not templates.is_bound(theirs, node) or (bool(others) and not _is_labelled(theirs, node))

    def concerns(self, node: str, key: str, theirs: Json) -> bool:
        """Whether ``node`` may see the object: what it may not see, it is not answered with either."""
        if self._scope.holds(node, key) or _is_labelled(theirs, node):
            return True
        return theirs.get("kind") == "Pod" and (theirs.get("spec") or {}).get("nodeName") == node

    async def check_content(self, node: str, key: ObjectKey, old: Json | None, new: Json) -> None:
        """Raise Denied unless what ``new`` describes stays at the node and brings along only what is there already.

        What is not of this node's making may describe pods for others; then its references and placing must stay.
        """
        _check_fields(node, key, old, new)
        found, ours = templates.pod_spec(new), _is_labelled(new, node)
        before = templates.pod_spec(old) if old is not None else None
        if ours and not templates.is_bound(new, node):
            raise Denied("OutsideNode", f"what is made at node {node} runs at node {node} alone")
        if found is not None and before is not None and not ours and _placing(before[1]) != _placing(found[1]):
            raise Denied("OutsideNode", "only the cloud says where these pods run")
        try:
            added = reached(key, new) - (reached(key, old) if old is not None else set())
        except MalformedMessage as error:
            raise Denied("Malformed", str(error)) from error
        for each in sorted(added):
            await self._check_reference(node, each)

    async def _check_reference(self, node: str, reference: str) -> None:
        kind, key = self._scope.kind(reference), parse_key(reference)
        if kind is None or self._scope.holds(node, reference):
            return
        try:
            item = await self._client.get(kind, key.namespace, key.name)
        except NotFound:
            item = {"metadata": {}}
        if _is_labelled(item, node):
            return
        if kind == SERVICE_ACCOUNT and key.name == "default":  # a pod has one; what it is pulled with is another matter
            for need in needs(key.namespace, {"imagePullSecrets": item.get("imagePullSecrets")}):
                if need != reference:
                    await self._check_reference(node, need)
            return
        what = f"{kind.kind} {key.namespace}/{key.name}"
        raise Denied("OutsideNode", f"{what} is not at node {node}: what is made there may not fetch it")


def _check_fields(node: str, key: ObjectKey, old: Json | None, new: Json) -> None:
    """Raise Denied for fields by which an object would go to another node, or become somebody's credential."""
    if old is not None:
        label, before = (((each.get("metadata") or {}).get("labels") or {}).get(labels.NODE) for each in (new, old))
        if label != before and not {label, before} <= {None, node}:
            raise Denied("OutsideNode", f"only the cloud gives an object to another node by the label {labels.NODE}")
    if (key.group, key.plural) == (DEVICE.group, DEVICE.plural) and device_node(new) not in ("", node):
        raise Denied("OutsideNode", f"a device that is written at node {node} stays at node {node}")
    if (key.group, key.plural) == (SECRET.group, SECRET.plural) and new.get("type") in CREDENTIALS:
        raise Denied("CloudOnly", f"Secrets of type {new['type']} are written in the cloud only")
    if (key.group, key.plural) == ("", "services") and _external(new) and _external(new) != _external(old or {}):
        # Every node of the cluster would send what goes to such an address to this Service.
        raise Denied("CloudOnly", "externalIPs of a Service are written in the cloud only")


def _external(service: Json) -> Any:
    spec = service.get("spec")
    return spec.get("externalIPs") if isinstance(spec, dict) else None


def _is_labelled(obj: Json, node: str) -> bool:
    return ((obj.get("metadata") or {}).get("labels") or {}).get(labels.NODE) == node


def _placing(spec: Json) -> tuple[Any, ...]:
    return tuple(spec.get(field) for field in ("nodeName", "nodeSelector", "affinity", "tolerations"))
