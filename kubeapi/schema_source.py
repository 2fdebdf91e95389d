"""Make ``schemas.json.xz``: the built-in kinds' OpenAPI definitions, from the ``kubernetes-validate`` wheel.

    pip download --no-deps kubernetes-validate==1.37.0
    python -m kubeapi.schema_source kubernetes_validate-1.37.0-py3-none-any.whl

Licence: the definitions are Kubernetes' own (The Kubernetes Authors, Apache-2.0), packaged by ``kubernetes-validate``
(Apache-2.0); they are cut to what our kinds reach and otherwise unchanged.
"""

import argparse
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

from kubeapi.kinds import BUILT_IN

MEMBER = "kubernetes_validate/kubernetes-json-schema/v{version}.0-local/_definitions.json"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
# request and answer bodies that OpenAPI names beside the kinds
EXTRA = (META + "Status", META + "DeleteOptions", META + "ListMeta", META + "Patch", META + "APIResourceList")
REVIEWS = (
    "io.k8s.api.authentication.v1.SelfSubjectReview",
    "io.k8s.api.authentication.v1.TokenRequest",
    "io.k8s.api.authentication.v1.TokenReview",
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    "io.k8s.api.authorization.v1.SubjectAccessReview",
    "io.k8s.api.core.v1.Binding",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.api.autoscaling.v1.Scale",
)


def references(node: Any) -> set[str]:
    """Return the names of every definition that ``node`` refers to."""
    if isinstance(node, dict):
        own = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(v) for v in node.values()))
    if isinstance(node, list):
        return set().union(*(references(v) for v in node)) if node else set()
    return set()


def reachable(definitions: dict[str, Any], roots: set[str]) -> dict[str, Any]:
    """Return the definitions that ``roots`` need, themselves included."""
    out: dict[str, Any] = {}
    todo = sorted(name for name in roots if name in definitions)
    while todo:
        name = todo.pop()
        if name not in out:
            out[name] = definitions[name]
            todo += references(definitions[name]) - out.keys()
    return dict(sorted(out.items()))


def plain(node: Any) -> Any:
    """Return ``node`` as OpenAPI v3 writes it: one type, references into components, no null among the enums."""
    if isinstance(node, list):
        return [plain(v) for v in node]
    if not isinstance(node, dict):
        return node
    out = {k: plain(v) for k, v in node.items() if k not in ("$schema", "$id")}
    if isinstance(out.get("type"), list):
        out["type"] = next(t for t in out["type"] if t != "null")
    if isinstance(out.get("enum"), list):
        out["enum"] = [v for v in out["enum"] if v is not None]
    if isinstance(out.get("$ref"), str):
        out["$ref"] = "#/components/schemas/" + out["$ref"].rpartition("/")[2]
    return out


def extract(wheel: Path, version: str) -> dict[str, Any]:
    """Return the definitions that our kinds reach."""
    with zipfile.ZipFile(wheel) as archive:
        loaded = json.loads(archive.read(MEMBER.format(version=version)))
    definitions = loaded["$defs"]
    roots = {res.definition for res in BUILT_IN} | {res.definition + "List" for res in BUILT_IN} | {*EXTRA, *REVIEWS}
    missing = {res.definition for res in BUILT_IN} - definitions.keys()
    if missing:
        raise SystemExit(f"not among the definitions of {version}: {', '.join(sorted(missing))}")
    out: dict[str, Any] = plain(reachable(definitions, roots))
    out["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Make kubeapi/schemas.json.xz from a kubernetes-validate wheel.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--version", default="1.33")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("schemas.json.xz"))
    args = parser.parse_args()
    text = json.dumps(extract(args.wheel, args.version), sort_keys=True, separators=(",", ":"))
    args.out.write_bytes(lzma.compress(text.encode(), preset=9))


if __name__ == "__main__":
    main()
