"""What the API serves, in both languages of discovery: one list per group version, and the aggregated list of all.

Documents are built once per registry revision and carry an ETag, so that a client with a warm cache gets 304.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

from kubeapi.resources import Registry, Resource
from kubeapi.stored import encode
from kubeapi.virtual_kinds import VIRTUAL, subresource_kind, subresource_verbs

AGGREGATED = re.compile(r"g=apidiscovery\.k8s\.io;v=(v2|v2beta1);as=APIGroupDiscoveryList")
_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")
_STABILITY = {"alpha": 0, "beta": 1, None: 2}

Document = tuple[bytes, str]  # body, ETag


class Discovery:
    """Answers ``/api``, ``/apis`` and what lies under them, down to the group version."""

    def __init__(self, registry: Registry, virtual: tuple[Resource, ...] = VIRTUAL) -> None:
        self._registry, self._virtual = registry, virtual
        self._revision = -1
        self._documents: dict[str, Document] = {}

    def aggregated(self, *, core: bool, version: str) -> Document:
        """Return the ``APIGroupDiscoveryList`` of the core group, or of all others."""
        return self._document(f"aggregated {core} {version}", lambda: self._aggregated(core=core, version=version))

    def core_versions(self, address: str) -> Document:
        """Return ``/api``: ``APIVersions``."""
        by_cidr = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
        found = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": by_cidr}
        return self._document(f"/api {address}", lambda: found)

    def groups(self) -> Document:
        """Return ``/apis``: ``APIGroupList``."""
        return self._document(
            "/apis",
            lambda: {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(name, versions) for name, versions in self._by_group().items() if name],
            },
        )

    def group(self, name: str) -> Document | None:
        """Return ``/apis/<name>``: ``APIGroup``; None when there is no such group."""
        versions = self._by_group().get(name)
        if not name or versions is None:
            return None
        return self._document(
            f"/apis/{name}", lambda: {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}
        )

    def resources(self, group: str, version: str) -> Document | None:
        """Return the ``APIResourceList`` of one group version; None when there is no such one."""
        found = self._by_group().get(group, {}).get(version)
        if found is None:
            return None
        group_version = f"{group}/{version}" if group else version
        return self._document(
            group_version,
            lambda: {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": group_version,
                "resources": [entry for res in found for entry in _legacy(res)],
            },
        )

    def _document(self, key: str, build: Callable[[], dict[str, Any]]) -> Document:
        if self._revision != self._registry.revision:
            self._revision = self._registry.revision
            self._documents.clear()
        found = self._documents.get(key)
        if found is None:
            body = encode(build())
            found = self._documents[key] = (body, f'"{hashlib.sha256(body).hexdigest().upper()}"')
        return found

    def _by_group(self) -> dict[str, dict[str, list[Resource]]]:
        """Return group -> version -> resources: built-in groups first, versions by preference, resources by name."""
        everything = sorted(
            [*self._registry.all(), *self._virtual],
            key=lambda r: (r.custom, r.group, version_order(r.version), r.plural),
        )
        out: dict[str, dict[str, list[Resource]]] = {}
        for res in everything:
            out.setdefault(res.group, {}).setdefault(res.version, []).append(res)
        return out

    def _aggregated(self, *, core: bool, version: str) -> dict[str, Any]:
        items = []
        for name, versions in self._by_group().items():
            if core == bool(name):
                continue
            metadata: dict[str, Any] = {"name": name, "creationTimestamp": None}
            if not name:
                del metadata["name"]
            listed = [
                {"version": v, "resources": [_modern(res) for res in found], "freshness": "Current"}
                for v, found in versions.items()
            ]
            items.append({"metadata": metadata, "versions": listed})
        api_version = f"apidiscovery.k8s.io/{version}"
        return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def version_order(version: str) -> tuple[int, int, int, str]:
    """Return a sort key: v2, v1, v1beta1, v1alpha1, then everything else by name (apimachinery's version priority)."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return (1, 0, 0, version)
    stability = _STABILITY[found[2]]
    return (0, -stability, -int(found[1]) * 1000 - int(found[3] or 0), "")


def _group(name: str, versions: dict[str, list[Resource]]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _legacy(res: Resource) -> list[dict[str, Any]]:
    entry: dict[str, Any] = {
        "name": res.plural,
        "singularName": res.singular,
        "namespaced": res.namespaced,
        "kind": res.kind,
        "verbs": list(res.verbs),
    }
    if res.short_names:
        entry["shortNames"] = list(res.short_names)
    if res.categories:
        entry["categories"] = list(res.categories)
    out = [entry]
    for sub in sorted(res.subresources):
        group, version, kind = subresource_kind(res, sub)
        other = {"group": group, "version": version} if (group, version) != (res.group, res.version) else {}
        out.append(
            {
                "name": f"{res.plural}/{sub}",
                "singularName": "",
                "namespaced": res.namespaced,
                **other,
                "kind": kind,
                "verbs": list(subresource_verbs(sub)),
            }
        )
    return out


def _modern(res: Resource) -> dict[str, Any]:
    out: dict[str, Any] = {
        "resource": res.plural,
        "responseKind": {"group": res.group, "version": res.version, "kind": res.kind},
        "scope": "Namespaced" if res.namespaced else "Cluster",
        "singularResource": res.singular,
        "verbs": list(res.verbs),
    }
    if res.short_names:
        out["shortNames"] = list(res.short_names)
    if res.categories:
        out["categories"] = list(res.categories)
    if res.subresources:
        out["subresources"] = [_modern_subresource(res, sub) for sub in sorted(res.subresources)]
    return out


def _modern_subresource(res: Resource, sub: str) -> dict[str, Any]:
    group, version, kind = subresource_kind(res, sub)
    return {
        "subresource": sub,
        "responseKind": {"group": group, "version": version, "kind": kind},
        "verbs": list(subresource_verbs(sub)),
    }
