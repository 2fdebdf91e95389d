"""Image references as people write them, and the full form that they stand for (pure)."""

import re
from dataclasses import dataclass

DOCKER_HUB = "docker.io"
MAX_NAME = 255
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_PART = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_HEX_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """``registry/repository:tag@digest``; one of tag and digest may be ""."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Return what ``text`` stands for: Docker Hub and ``latest`` where nothing is said. Raises ValueError."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError("invalid reference format: the digest is not sha256: and 64 hexadecimal digits")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError("invalid reference format: a tag has letters, digits, '_', '.' and '-', at most 128")
    path = head + slash + last
    registry, _, repository = path.partition("/")
    if not repository or not _is_host(registry):
        registry, repository = DOCKER_HUB, path
    if registry == f"index.{DOCKER_HUB}":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    _check(registry, repository, path)
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def _is_host(word: str) -> bool:
    return "." in word or ":" in word or word == "localhost" or word != word.lower()


def _check(registry: str, repository: str, path: str) -> None:
    if not _HOST.fullmatch(registry):
        raise ValueError(f"invalid reference format: {registry!r} is no registry")
    if repository.lower() != repository:
        raise ValueError("invalid reference format: repository name must be lowercase")
    if not all(_PART.fullmatch(part) for part in repository.split("/")):
        raise ValueError("invalid reference format")
    if len(registry) + len(repository) + 1 > MAX_NAME:
        raise ValueError(f"repository name must not be more than {MAX_NAME} characters")
    if _HEX_ID.fullmatch(path):
        raise ValueError("invalid repository name, cannot specify 64-byte hexadecimal strings")
