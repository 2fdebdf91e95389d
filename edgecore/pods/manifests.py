"""Reading one file of a static pod, in a short-lived child: what people wrote may be anything, and schemas are large.

``python -m edgecore.pods.manifests`` reads the file from standard input and prints JSON: {pod, digest}, or {message, line}.
"""

import asyncio
import os
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from proto.kit import canonical
from proto.kit.errors import Retryable

Json = dict[str, Any]
MAX_BYTES = 1 << 20
MEMORY_BYTES = 1 << 30  # address space of the child: YAML can ask for any amount in a few lines
CHILD_TIMEOUT_S = 60.0
_ROOT = str(Path(__file__).parents[2])  # where this very code is, whatever the child's own path would find
REFERENCES = frozenset(
    [
        "configMapRef",
        "secretRef",
        "configMapKeyRef",
        "secretKeyRef",
        "configMap",
        "secret",
        "persistentVolumeClaim",
        "ephemeral",
        "serviceAccountToken",
        "clusterTrustBundle",
        "imagePullSecrets",
    ]
)


class BadManifest(ValueError):
    """A file that is no static pod; ``line`` 0 is unknown."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message, self.line = message, line


class ChildFailed(Retryable):
    """The child ended without an answer."""

    code = "ChildFailed"


class Answer(msgspec.Struct, frozen=True):
    """What the child prints."""

    pod: Json = {}
    digest: str = ""
    message: str = ""
    line: int = 0


async def parse(content: bytes) -> Answer:
    """Read one file in a child. Raises BadManifest, ChildFailed."""
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edgecore.pods.manifests",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
    except OSError as error:
        raise ChildFailed(f"no child process: {error.strerror}") from error
    try:
        async with asyncio.timeout(CHILD_TIMEOUT_S):
            out, _ = await child.communicate(content)
    except BaseException as error:
        if child.returncode is None:
            child.kill()
            await child.wait()
        if isinstance(error, TimeoutError):
            raise BadManifest(f"it was not read within {CHILD_TIMEOUT_S:g} s") from error
        raise
    if child.returncode:
        raise BadManifest("it could not be read: it asks for too much memory")
    try:
        answer = msgspec.json.decode(out, type=Answer)
    except msgspec.DecodeError as error:
        raise ChildFailed("the child said nothing that can be read") from error
    if answer.message:
        raise BadManifest(answer.message, answer.line)
    return answer


def read(content: bytes) -> Answer:
    """Return the pod in a file with the API's defaults, and the digest of what the person wrote. Raises BadManifest."""
    if len(content) > MAX_BYTES:
        raise BadManifest(f"it is larger than {MAX_BYTES} bytes")
    written, lines = _load(content)
    if not isinstance(written, dict):
        raise BadManifest("it holds no object" if written is not None else "it is empty")
    if (written.get("apiVersion"), written.get("kind")) != ("v1", "Pod"):
        raise BadManifest(
            f"it holds {written.get('apiVersion')} {written.get('kind')}, not a v1 Pod: static pods are Pods", 1
        )
    pod = _checked(written, lines)
    for path, name in _references(pod.get("spec"), "spec"):
        text = f"{path}.{name}: a static pod runs without the API and refers to none of its objects"
        raise BadManifest(text, lines.get(f"{path}.{name}", 0))
    pod.pop("status", None)
    return Answer(pod=pod, digest=sha256(canonical.encode(written)).hexdigest()[:32])


def _checked(written: Json, lines: dict[str, int]) -> Json:
    from kubeapi.builtin import defaults, validate  # noqa: PLC0415  the daemon reads Answer without them
    from kubeapi.errors import ApiError  # noqa: PLC0415
    from kubeapi.kinds import POD  # noqa: PLC0415
    from kubeapi.metadata import causes, shape_causes  # noqa: PLC0415
    from kubeapi.options import WriteOptions  # noqa: PLC0415
    from kubeapi.typing_rules import check_fields  # noqa: PLC0415

    wrong = shape_causes(written.get("metadata") or {})
    if not wrong:
        metadata = {**(written.get("metadata") or {})}
        metadata.setdefault("namespace", "default")
        try:
            pod = defaults(POD, {**written, "metadata": metadata}, None)
            pod = check_fields(POD, pod, None, "", WriteOptions(field_validation="Strict"))
        except ApiError as error:
            raise BadManifest(error.message, _line_in(error.message, lines)) from error
        wrong = [*causes(POD, metadata), *validate(POD, pod)]
    if wrong:
        text = "; ".join(str(cause) for cause in wrong[:3])
        raise BadManifest(text, next((line for cause in wrong if (line := _line_of(cause.field, lines))), 0))
    return pod


def _load(content: bytes) -> tuple[Any, dict[str, int]]:
    """Return the document and the line of each field. Raises BadManifest."""
    import json  # noqa: PLC0415  its errors have lines; only the child reads files

    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BadManifest("it is not UTF-8", content[: error.start].count(b"\n") + 1) from error
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text), {}
        except json.JSONDecodeError as error:
            raise BadManifest(f"it is no JSON: {error.msg}", error.lineno) from error
        except RecursionError as error:
            raise BadManifest("it is nested too deeply") from error
    return _load_yaml(text)


def _load_yaml(text: str) -> tuple[Any, dict[str, int]]:
    import yaml  # noqa: PLC0415  only the child reads YAML

    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        if len(nodes) > 1:
            line = nodes[1].start_mark.line + 1
            raise BadManifest(f"it holds {len(nodes)} documents: one static pod is one file", line)
        lines: dict[str, int] = {}
        if nodes and nodes[0] is not None:
            _note(nodes[0], "", lines, set())
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise BadManifest(f"it is no YAML: {error.problem}", 0 if mark is None else mark.line + 1) from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, BadManifest):
            raise
        raise BadManifest(f"it is no YAML: {(str(error).splitlines() or ['unreadable'])[0]}") from error
    except RecursionError as error:
        raise BadManifest("it is nested too deeply") from error


def _note(node: Any, path: str, lines: dict[str, int], above: set[int]) -> None:
    """Fill ``lines`` with the line of each field, ``spec.containers[0].image``; aliases count where they are used."""
    if id(node) in above or len(lines) > MAX_BYTES // 8:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    inside = above | {id(node)}
    if node.id == "mapping":
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            lines[name] = key.start_mark.line + 1
            _note(value, name, lines, inside)
    elif node.id == "sequence":
        for at, item in enumerate(node.value):
            _note(item, f"{path}[{at}]", lines, inside)


def _line_of(field: str, lines: dict[str, int]) -> int:
    """Return the line of a field, or of what it is missing in."""
    while field and field not in lines:
        field = field.rpartition("." if "." in field else "[")[0]
    return lines.get(field, 0) if field else 0


def _line_in(message: str, lines: dict[str, int]) -> int:
    """Return the line of the first field that a message names."""
    for word in re.findall(r"[A-Za-z][\w.\[\]/-]*", message):
        if "." in word and word.rstrip(".:") in lines:
            return lines[word.rstrip(".:")]
    return 0


def _references(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, list):
        return [found for at, item in enumerate(value) for found in _references(item, f"{path}[{at}]")]
    if not isinstance(value, dict):
        return []
    own = [(path, key) for key in value if key in REFERENCES and value[key]]
    if path == "spec" and value.get("serviceAccountName") not in {None, "", "default"}:
        own.append((path, "serviceAccountName"))
    return own + [found for key, item in value.items() for found in _references(item, f"{path}.{key}")]


def main() -> int:
    """Answer one file."""
    import resource  # noqa: PLC0415  only the child limits itself

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        answer = read(sys.stdin.buffer.read(MAX_BYTES + 1))
    except BadManifest as error:
        answer = Answer(message=error.message[:1000], line=error.line)
    except MemoryError:
        answer = Answer(message="it asks for too much memory")
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
