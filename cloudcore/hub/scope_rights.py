"""RBAC of the service accounts that run on a node and of its technicians, so that the same rights hold offline (pure)."""

from collections.abc import Iterator, Mapping
from typing import Any

from cloudcore.hub.scope_graph import EVERY, Edge, root
from cloudcore.hub.scope_pods import ACCOUNTS, space
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, SERVICE_ACCOUNT

ADMINS = "skerry:node-admins"  # group of the technicians at every node's own API
ADMIN_PREFIX = "skerry:node-admin:"  # and the name of the one at a node
ACCOUNT_PREFIX, ACCOUNTS_PREFIX = "system:serviceaccount:", "system:serviceaccounts:"
ANY_ACCOUNT = ("system:serviceaccounts", "system:authenticated")  # groups that each service account is in
Json = Mapping[str, Any]


def role_binding(name: Name, item: Json) -> Iterator[Edge]:
    """By its subjects, not by its namespace: who has nobody there that it concerns learns nothing of others' rights."""
    key = ROLE_BINDING.key(*name)
    yield from _role_of(key, item, name.namespace)
    yield from _subjects_of(key, item)


def cluster_role_binding(name: Name, item: Json) -> Iterator[Edge]:
    key = CLUSTER_ROLE_BINDING.key("", name.name)
    yield from _role_of(key, item, "")
    yield from _subjects_of(key, item)


def cluster_role(name: Name, item: Json) -> Iterator[Edge]:
    """A role that aggregates brings its parts along."""
    key = CLUSTER_ROLE.key("", name.name)
    selectors = (item.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
    wanted = {_label(*pair) for selector in selectors for pair in (selector.get("matchLabels") or {}).items()}
    for vertex in wanted:
        yield key, vertex
    for pair in (item["metadata"].get("labels") or {}).items():
        if _label(*pair) not in wanted:  # a role that selects itself would be a circle
            yield _label(*pair), key


def _role_of(key: str, item: Json, namespace: str) -> Iterator[Edge]:
    ref = item.get("roleRef") or {}
    if ref.get("kind") == CLUSTER_ROLE.kind and ref.get("name"):
        yield key, CLUSTER_ROLE.key("", ref["name"])
    elif namespace and ref.get("kind") == ROLE.kind and ref.get("name"):
        yield key, ROLE.key(namespace, ref["name"])


def _subjects_of(key: str, item: Json) -> Iterator[Edge]:
    for vertex in {found for subject in item.get("subjects") or () if (found := _subject(subject))}:
        yield vertex, key


def _subject(subject: Json) -> str:
    """Return the vertex whose holders the subject concerns, "" for nobody who is at a node."""
    kind, name = subject.get("kind"), str(subject.get("name") or "")
    if kind == SERVICE_ACCOUNT.kind:
        return SERVICE_ACCOUNT.key(str(subject.get("namespace") or "default"), name)
    if kind == "User":
        return _user(name)
    return _group(name) if kind == "Group" else ""


def _user(name: str) -> str:
    if name.startswith(ACCOUNT_PREFIX):
        namespace, _, account = name.removeprefix(ACCOUNT_PREFIX).partition(":")
        return SERVICE_ACCOUNT.key(namespace, account)
    return root(name.removeprefix(ADMIN_PREFIX)) if name.startswith(ADMIN_PREFIX) else ""


def _group(name: str) -> str:
    if name == ADMINS:
        return EVERY
    if name.startswith(ACCOUNTS_PREFIX):
        return space(name.removeprefix(ACCOUNTS_PREFIX))
    return ACCOUNTS if name in ANY_ACCOUNT else ""


def _label(key: str, value: str) -> str:
    return f"@label/{key}={value}"
