"""Pods and the objects that they name, without a store; and a runtime's image store without a runtime."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecore.data_dir import DataDir
from edgecore.pods.build import Builder
from edgecore.pods.facts import NodeFacts
from edgecore.pods.images import Say
from edgecore.pods.runtime import Auth, Container, Filesystem, Image, RuntimeRefused
from edgecore.pods.settings import PodsSettings
from edgecore.pods.tokens import KEY_FILE, Tokens
from kubeapi.tokens import TokenSigner, open_key
from proto.kit.clock import Clock

Json = dict[str, Any]
UID = "0b8f7a4e-1111-4222-8333-944455556666"
FACTS = NodeFacts(
    "gw-1",
    ("192.0.2.10",),
    {"zone": "north"},
    {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi"},
    4 << 30,
)


class HeldObjects:
    """Objects by (plural, namespace, name)."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str, str], Json] = {}

    def put(self, plural: str, name: str, namespace: str = "default", **fields: Any) -> Json:
        metadata = {"name": name, "uid": f"uid-of-{name}", **fields.pop("metadata", {})}
        if namespace:
            metadata["namespace"] = namespace
        self.held[plural, namespace, name] = {"metadata": metadata, **fields}
        return self.held[plural, namespace, name]

    def get(self, plural: str, namespace: str, name: str) -> Json | None:
        return self.held.get((plural, namespace, name))

    def list(self, plural: str, namespace: str | None) -> list[Json]:
        keys = sorted(key for key in self.held if key[0] == plural and namespace in {None, key[1]})
        return [self.held[key] for key in keys]


@dataclass
class ImageStore:
    """The image half of a runtime: what is here, what a registry has, and how often it was asked."""

    here: dict[str, Image] = field(default_factory=dict)
    registry: dict[str, Image] = field(default_factory=dict)
    refusal: Exception = field(default_factory=lambda: RuntimeRefused("not found", "ErrImagePull"))
    pulls: list[tuple[str, Auth | None]] = field(default_factory=list)
    accepts: Auth | None = None  # the only credentials that the registry takes
    disk: Filesystem = field(default_factory=lambda: Filesystem("/", 0))
    removed: list[str] = field(default_factory=list)
    running: list[Container] = field(default_factory=list)

    async def image(self, reference: str) -> Image | None:
        return self.here.get(reference)

    async def containers(self) -> list[Container]:
        return self.running

    async def images(self) -> list[Image]:
        return list({image.id: image for image in self.here.values()}.values())

    async def pull(self, reference: str, auth: Auth | None = None) -> str:
        self.pulls.append((reference, auth))
        found = self.registry.get(reference)
        if found is None or (self.accepts is not None and auth != self.accepts):
            raise self.refusal
        self.here[reference] = found
        return found.id

    async def remove_image(self, image_id: str) -> None:
        self.removed.append(image_id)
        self.here = {name: image for name, image in self.here.items() if image.id != image_id}

    async def image_filesystem(self) -> Filesystem:
        return self.disk


def pod(*containers: Json, name: str = "web", uid: str = UID, metadata: Json | None = None, **spec: Any) -> Json:
    """A pod of ``containers`` (one plain one by default)."""
    listed = list(containers) or [container()]
    meta = {"name": name, "namespace": "default", "uid": uid, **(metadata or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": listed, **spec}}


def container(name: str = "app", image: str = "edge/app:1", **fields: Any) -> Json:
    return {"name": name, "image": image, **fields}


def dockerconfig(logins: dict[str, tuple[str, str]]) -> Json:
    """Fields of a Secret with a login per registry."""
    auths = {key: {"username": name, "password": word} for key, (name, word) in logins.items()}
    content = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    return {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": content}}


def tokens(directory: Path, objects: HeldObjects, clock: Clock) -> Tokens:
    return Tokens(TokenSigner(open_key(directory / KEY_FILE), clock), objects)


class Said:
    """Remembers events as (type, reason, message)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def __call__(self, pod: Json, kind: str, reason: str, message: str, *, container: str = "") -> None:
        self.events.append((kind, reason, message))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.events]


def builder(directory: Path, objects: HeldObjects, clock: Clock, *, say: Say, mounting: bool) -> Builder:
    """A Builder on an empty data directory, with an image store for a runtime."""
    pki = DataDir(directory).pki
    pki.mkdir(parents=True, exist_ok=True)
    return Builder(
        DataDir(directory),
        objects,
        tokens(pki, objects, clock),
        PodsSettings(),
        lambda: FACTS,
        ImageStore(),
        clock=clock,
        api=("169.254.20.1", 10550),
        mounting=mounting,
        say=say,
    )
