"""Kinds that are asked and never stored: reviews of tokens and of rights. Served, discovered, documented; not in the store."""

from kubeapi.resources import Column, Resource

AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
METRICS = "metrics.k8s.io"


def _review(group: str, plural: str, kind: str, *, namespaced: bool = False) -> Resource:
    definition = f"io.k8s.api.{group.partition('.')[0]}.v1.{kind}"
    return Resource(group, "v1", plural, kind, namespaced=namespaced, definition=definition, verbs=("create",))


VIRTUAL = (
    _review(AUTHENTICATION, "tokenreviews", "TokenReview"),
    _review(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
    _review(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    _review(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    _review(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
    _review(AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", namespaced=True),
)
_USAGE = (Column("CPU", ".usage.cpu"), Column("Memory", ".usage.memory"), Column("Window", ".window"))
USAGE = (  # what kubelets say; served where they can be asked
    Resource(
        METRICS,
        "v1beta1",
        "nodes",
        "NodeMetrics",
        namespaced=False,
        verbs=("get", "list"),
        columns=_USAGE,
        singular="node",
    ),
    Resource(
        METRICS,
        "v1beta1",
        "pods",
        "PodMetrics",
        verbs=("get", "list"),
        columns=(Column("Window", ".window"),),
        singular="pod",
    ),
)
VIRTUAL_BY_PATH = {(res.group, res.version, res.plural): res for res in (*VIRTUAL, *USAGE)}

# Subresources whose body is another kind than their parent's: (group, version, kind)
SUBRESOURCE_KINDS = {
    "scale": ("autoscaling", "v1", "Scale"),
    "token": (AUTHENTICATION, "v1", "TokenRequest"),
    "eviction": ("policy", "v1", "Eviction"),
    "binding": ("", "v1", "Binding"),
    "attach": ("", "v1", "PodAttachOptions"),
    "exec": ("", "v1", "PodExecOptions"),
    "portforward": ("", "v1", "PodPortForwardOptions"),
}
CONNECTIONS = frozenset({"attach", "exec", "log", "portforward", "proxy"})  # not a part of the object: its node answers
SUBRESOURCE_VERBS = {
    "token": ("create",),
    "eviction": ("create",),
    "binding": ("create",),
    "finalize": ("update",),
    "log": ("get",),
    "attach": ("create", "get"),
    "exec": ("create", "get"),
    "portforward": ("create", "get"),
    "proxy": ("create", "delete", "get", "patch", "update"),
}
DEFAULT_SUBRESOURCE_VERBS = ("get", "patch", "update")


def subresource_kind(res: Resource, subresource: str) -> tuple[str, str, str]:
    """Return (group, version, kind) of what a subresource takes and answers."""
    if subresource == "proxy":
        return ("", "v1", f"{res.kind}ProxyOptions")
    return SUBRESOURCE_KINDS.get(subresource, (res.group, res.version, res.kind))


def subresource_verbs(subresource: str) -> tuple[str, ...]:
    return SUBRESOURCE_VERBS.get(subresource, DEFAULT_SUBRESOURCE_VERBS)
