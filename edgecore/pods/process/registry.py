"""Images from a registry: the part of the OCI distribution protocol that a pull needs. HTTPS; plain HTTP to this very machine only.

Everything is bounded and checked by digest before it is used. Tokens and passwords go to the registry that asked for them alone.
"""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec

from edgecore.pods.process.shim.unpack import MACHINES
from edgecore.pods.references import DOCKER_HUB, Reference, parse
from edgecore.pods.runtime import Auth, NoSuch, RuntimeRefused
from proto.kit.errors import SkerryError
from proto.kit.httpclient import HttpClient, Stream

Json = dict[str, Any]
HUB_HOST = "registry-1.docker.io"
ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
MAX_JSON_BYTES, MAX_BLOB_BYTES, MAX_LAYERS = 4 << 20, 16 << 30, 128
MAX_HOPS = 5
IDLE_S = 60.0
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
REASON = "ErrImagePull"


@dataclass(slots=True)
class Download:
    """One pull. ``machine`` picks from images of several; ``have`` tells whether layers with these digests are unpacked here."""

    reference: Reference
    auth: Auth | None
    folder: Path  # becomes an OCI layout
    machine: str
    _token: str = field(default="", repr=False)

    @property
    def _host(self) -> str:
        return HUB_HOST if self.reference.registry == DOCKER_HUB else self.reference.registry

    @property
    def _origin(self) -> str:
        name = urlsplit(f"//{self._host}").hostname or ""
        return f"{'http' if name in {'localhost', '127.0.0.1', '::1'} else 'https'}://{self._host}"

    async def manifest(self) -> tuple[str, Json, Json]:
        """Fetch what describes the image; return its digest, its manifest and its configuration. Raises NoSuch, RuntimeRefused."""
        (self.folder / "blobs" / "sha256").mkdir(parents=True)
        wanted = self.reference.digest or self.reference.tag
        digest, manifest = await self._description(wanted, self.reference.digest)
        if "manifests" in manifest:
            _, inner = await self._description(picked := self._pick(manifest), picked)
        else:
            inner = manifest
        config = await self._json(f"blobs/{inner['config']['digest']}", str(inner["config"]["digest"]))
        index = {"schemaVersion": 2, "manifests": [{"digest": digest}]}
        (self.folder / "index.json").write_bytes(msgspec.json.encode(index))
        return digest, inner, config

    async def layers(self, manifest: Json) -> None:
        """Fetch the layers. Raises RuntimeRefused."""
        listed = manifest["layers"]
        if len(listed) > MAX_LAYERS:
            raise RuntimeRefused(f"the image has {len(listed)} layers; {MAX_LAYERS} are taken", REASON)
        for layer in listed:
            await self._blob(str(layer["digest"]), int(layer["size"]))

    def _pick(self, index: Json) -> str:
        for entry in index["manifests"]:
            platform = entry.get("platform") or {}
            if (platform.get("architecture"), platform.get("os", "linux")) == (self.machine, "linux"):
                return str(entry["digest"])
        raise RuntimeRefused(f"there is no image for this machine ({self.machine}) under that name", REASON)

    async def _description(self, what: str, digest: str) -> tuple[str, Json]:
        found = await self._json(f"manifests/{what}", digest)
        return self._last_digest, found

    _last_digest: str = ""

    async def _json(self, what: str, digest: str) -> Json:
        async with self._get(what) as stream:
            body = await stream.read(MAX_JSON_BYTES)
        self._last_digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if digest and self._last_digest != digest:
            raise RuntimeRefused(f"the registry sent something else than {digest}", REASON)
        self._path(self._last_digest).write_bytes(body)
        found = json.loads(body)
        if not isinstance(found, dict):
            raise RuntimeRefused("the registry's answer is no manifest", REASON)
        return found

    async def _blob(self, digest: str, size: int) -> None:
        if not 0 <= size <= MAX_BLOB_BYTES:
            raise RuntimeRefused(f"a layer of {size} bytes is not taken", REASON)
        path, heard, seen = self._path(digest), 0, hashlib.sha256()
        async with self._get(f"blobs/{digest}") as stream:
            with path.open("wb") as file:
                async for chunk in stream.chunks():
                    heard += len(chunk)
                    if heard > size:
                        break
                    seen.update(chunk)
                    file.write(chunk)
        if heard != size or f"sha256:{seen.hexdigest()}" != digest:
            raise RuntimeRefused(f"layer {digest} arrived damaged", REASON)

    def _path(self, digest: str) -> Path:
        kind, _, word = digest.partition(":")
        if kind != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", word):
            raise RuntimeRefused(f"{digest!r} is no digest that this node can check", REASON)
        return self.folder / "blobs" / "sha256" / word

    # HTTP

    @asynccontextmanager
    async def _get(self, what: str) -> AsyncIterator[Stream]:
        """GET below the repository: with what the registry asks for, through redirects. Raises NoSuch, RuntimeRefused."""
        url = f"{self._origin}/v2/{self.reference.repository}/{quote(what, safe='/:')}"
        asked = False
        for _ in range(MAX_HOPS):
            own = url.startswith(f"{self._origin}/")
            headers = {"accept": ACCEPT, **({"authorization": self._token} if own and self._token else {})}
            async with _opened(url, headers) as stream:
                if stream.status == 401 and own and not asked:
                    asked, challenge = True, stream.headers.get("www-authenticate", "")
                elif stream.status in {301, 302, 303, 307, 308}:
                    url, challenge = _next(url, stream.headers.get("location", "")), ""
                else:
                    self._check(stream.status)
                    yield stream
                    return
            if challenge:
                self._token = await self._answer(challenge)
        raise RuntimeRefused(f"registry {self._host} sends us around in circles, or does not say what it wants", REASON)

    def _check(self, status: int) -> None:
        name = str(self.reference)
        if status == 404:
            raise NoSuch(f"{name}: not found in registry {self._host}", REASON)
        if status in {401, 403}:
            word = "unauthorized" if status == 401 else "forbidden"
            raise RuntimeRefused(f"{name}: {word}: registry {self._host} does not let us pull it", REASON)
        if status != 200:
            raise RuntimeRefused(f"{name}: registry {self._host} answers with HTTP status {status}", REASON)

    async def _answer(self, challenge: str) -> str:
        """Return the Authorization header that a challenge asks for. Raises RuntimeRefused."""
        auth = self.auth or Auth()
        if auth.registry_token:
            return f"Bearer {auth.registry_token}"
        basic = "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            return basic if auth.username else ""
        fields = dict(CHALLENGE.findall(rest))
        realm = urlsplit(fields.get("realm", ""))
        if kind.lower() != "bearer" or (realm.scheme != "https" and realm.scheme != urlsplit(self._origin).scheme):
            raise RuntimeRefused(f"registry {self._host} asks for a login that this node does not know", REASON)
        scope = fields.get("scope") or f"repository:{self.reference.repository}:pull"
        query = urlencode({"service": fields.get("service", ""), "scope": scope})
        url = f"{fields['realm']}{'&' if realm.query else '?'}{query}"
        async with _opened(url, {"authorization": basic} if auth.username else {}) as stream:
            self._check(stream.status)
            found = json.loads(await stream.read(MAX_JSON_BYTES))
        return f"Bearer {found.get('token') or found.get('access_token') or ''}"


def download(reference: str, auth: Auth | None, folder: Path, machine: str) -> Download:
    """Raises RuntimeRefused for what is no reference."""
    try:
        return Download(parse(reference), auth, folder, MACHINES.get(machine, machine))
    except ValueError as error:
        raise RuntimeRefused(f"{reference}: {error}", "InvalidImageName") from error


@asynccontextmanager
async def _opened(url: str, headers: dict[str, str]) -> AsyncIterator[Stream]:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    client = HttpClient(f"{parts.scheme}://{parts.netloc}")
    try:
        async with client.stream("GET", target, headers=headers, idle_timeout_s=IDLE_S) as stream:
            yield stream
    except (NoSuch, RuntimeRefused):
        raise
    except SkerryError as error:
        said = str(error).replace("Connect call failed", "connection refused: connect call failed")
        raise RuntimeRefused(f"registry {parts.netloc} does not answer: {said}", REASON) from error
    finally:
        await client.close()


def _next(url: str, location: str) -> str:
    """Return where a redirect leads; never from HTTPS to HTTP. Raises RuntimeRefused."""
    found = urljoin(url, location)
    if not location or (urlsplit(url).scheme, urlsplit(found).scheme) not in {
        ("https", "https"),
        ("http", "http"),
        ("http", "https"),
    }:
        raise RuntimeRefused("the registry sends us to an address that is not safe", REASON)
    return found
