"""May this write of a node be made? Its user's rights, and that it concerns the node: one stolen gateway is one gateway."""

from collections.abc import Iterator
from typing import Any

from cloudcore.hub.scope import Scope
from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import CONFIG_MAP, SECRET, SERVICE_ACCOUNT, Kind
from kubeapi.nodeauth import references
from proto import labels, templates, writes
from proto.names import ObjectKey
from proto.writes import Write

Json = dict[str, Any]
REVIEW = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
ACCOUNT, ACCOUNTS, KNOWN = "system:serviceaccount:", "system:serviceaccounts", "system:authenticated"
VERBS = {writes.CREATE: ("create",), writes.PATCH: ("patch", "update"), writes.DELETE: ("delete", "deletecollection")}
REFERRED = {"secrets": SECRET, "configmaps": CONFIG_MAP, "serviceaccounts": SERVICE_ACCOUNT}


class Denied(Exception):
    """The write is refused; ``reason`` is one word for scripts, the text a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Rights:
    """Asks the API server about the user, and the scope about the object."""

    def __init__(self, client: KubeClient, scope: Scope) -> None:
        self._client, self._scope = client, scope

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
        elif write.user == writes.admin_of(node) and not templates.is_bound(theirs, node):
            # Every technician has the same role: what runs at several nodes is not one gateway's to change.
            raise Denied("SharedWorkload", f"{write.key} does not run at node {node} alone: change it in the cloud")

    def concerns(self, node: str, key: str, theirs: Json) -> bool:
        """Whether ``node`` may see the object: what it may not see, it is not answered with either."""
        if self._scope.holds(node, key) or _is_labelled(theirs, node):
            return True
        return theirs.get("kind") == "Pod" and (theirs.get("spec") or {}).get("nodeName") == node

    async def check_pods(self, node: str, namespace: str, old: Json | None, new: Json) -> None:
        """Raise Denied unless the pods that ``new`` describes stay at the node and read only what is there already.

        What is not of this node's making may describe pods for others; then its references and placing must stay.
        """
        found = templates.pod_spec(new)
        if found is None:
            return
        before = templates.pod_spec(old) if old is not None else None
        ours = _is_labelled(new, node)
        if ours and not templates.is_bound(new, node):
            raise Denied("OutsideNode", f"what is made at node {node} runs at node {node} alone")
        if before is not None and not ours and _placing(before[1]) != _placing(found[1]):
            raise Denied("OutsideNode", "only the cloud says where these pods run")
        known = set(_referred(before[1])) if before is not None else set()
        for plural, name in sorted(set(_referred(found[1])) - known):
            await self._check_reference(node, REFERRED[plural], namespace, name)

    async def _check_reference(self, node: str, kind: Kind, namespace: str, name: str) -> None:
        if self._scope.holds(node, kind.key(namespace, name)):
            return
        try:
            item = await self._client.get(kind, namespace, name)
        except NotFound:
            item = {"metadata": {}}
        if not _is_labelled(item, node):
            what = f"{kind.kind} {namespace}/{name}"
            raise Denied("OutsideNode", f"{what} is not at node {node}: a pod that is made there may not fetch it")


def _is_labelled(obj: Json, node: str) -> bool:
    return ((obj.get("metadata") or {}).get("labels") or {}).get(labels.NODE) == node


def _referred(spec: Json) -> Iterator[tuple[str, str]]:
    yield from references({"spec": spec})
    account = spec.get("serviceAccountName") or "default"
    if account != "default":
        yield "serviceaccounts", str(account)


def _placing(spec: Json) -> tuple[Any, ...]:
    return tuple(spec.get(field) for field in ("nodeName", "nodeSelector", "affinity", "tolerations"))
