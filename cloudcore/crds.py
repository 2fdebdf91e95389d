"""Our custom resource definitions: installed where they are missing, never over somebody else's."""

import hashlib
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import yaml

from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import ApiUnavailable, Conflict, NotFound
from cloudcore.kube.resources import CRD
from proto.kit import canonical
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock

PACKAGE, FOLDER = "devicetwin", "crds"
MANAGED_BY, OURS = "app.kubernetes.io/managed-by", "skerry"
DIGEST = "skerry.io/definition"  # annotation: which text of ours this is
ESTABLISH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done about one definition."""

    name: str
    action: str  # "created" | "updated" | "unchanged" | "kept"
    note: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def texts() -> dict[str, str]:
    """Return file name -> YAML of every definition in the package."""
    folder = resources.files(PACKAGE) / FOLDER
    return {f.name: f.read_text() for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".yaml")}


def definitions() -> list[dict[str, Any]]:
    """Return our CRDs, labelled as ours."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: list[dict[str, Any]] = []
    for text in texts().values():
        for document in yaml.load_all(text, Loader=loader):
            if isinstance(document, dict) and document.get("kind") == CRD.kind:
                metadata = document["metadata"]
                metadata.setdefault("labels", {})[MANAGED_BY] = OURS
                digest = hashlib.sha256(canonical.encode(document["spec"])).hexdigest()[:16]
                metadata.setdefault("annotations", {})[DIGEST] = digest
                found.append(document)
    return found


async def apply(client: KubeClient, *, clock: Clock, rng: Rng) -> list[Applied]:
    """Install or update our definitions and wait until they are served. Safe to repeat. Raises ApiUnavailable, ApiRefused."""
    done = [await _one(client, wanted) for wanted in definitions()]
    deadline_s = clock.now_s() + ESTABLISH_TIMEOUT_S
    backoff = Backoff(base_s=0.02, cap_s=1.0, rng=rng)
    for item in done:
        while not _established(await client.get(CRD, "", item.name)):
            if clock.now_s() > deadline_s:
                raise ApiUnavailable(f"{item.name} is not served after {ESTABLISH_TIMEOUT_S:g} s")
            await clock.sleep(backoff.next_s())
    return done


async def _one(client: KubeClient, wanted: dict[str, Any]) -> Applied:
    name = wanted["metadata"]["name"]
    try:
        found = await client.get(CRD, "", name)
    except NotFound:
        try:
            await client.create(CRD, "", wanted)
        except Conflict:  # another cloudcore was faster
            return Applied(name, "unchanged")
        return Applied(name, "created")
    metadata = found["metadata"]
    if (metadata.get("labels") or {}).get(MANAGED_BY) != OURS:
        return Applied(name, "kept", _note(found))
    if (metadata.get("annotations") or {}).get(DIGEST) == wanted["metadata"]["annotations"][DIGEST]:
        return Applied(name, "unchanged")
    await client.update(CRD, "", name, _over(found, wanted))
    return Applied(name, "updated")


def _over(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return ``found`` with our spec, label and annotation; what others added to the metadata stays."""
    metadata = dict(found["metadata"])
    metadata.pop("managedFields", None)
    for field in ("labels", "annotations"):
        metadata[field] = {**(metadata.get(field) or {}), **wanted["metadata"][field]}
    return {**found, "metadata": metadata, "spec": wanted["spec"]}


def _note(found: dict[str, Any]) -> str:
    versions = found["spec"].get("versions") or []
    lacking = [v["name"] for v in versions if v.get("served") and "status" not in (v.get("subresources") or {})]
    text = "installed by somebody else, left as it is"
    return f"{text}; without a status subresource in {', '.join(lacking)}, which works too" if lacking else text


def _established(crd: dict[str, Any]) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)
