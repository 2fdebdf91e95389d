"""Which language a request speaks and which one it wants to hear."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import yaml

from kubeapi import bodies, protobuf
from kubeapi.errors import ApiError, bad_request, unsupported_media_type
from kubeapi.http import Request, Response
from kubeapi.stored import encode

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
READABLE = (JSON, YAML)
MAX_ACCEPT = 1024
TRANSFORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the Accept header asks for. ``transform`` "" is the object itself, ``version`` that of meta.k8s.io."""

    format: str = JSON
    transform: str = ""
    version: str = "v1"


def wanted(accept: str) -> Wanted:
    """Return the first alternative that we can answer. Raises 406."""
    if not accept:
        return Wanted()
    if len(accept) > MAX_ACCEPT:
        raise bad_request(f"the Accept header is longer than {MAX_ACCEPT} characters")
    return _first(accept)


@lru_cache(maxsize=256)
def _first(accept: str) -> Wanted:
    for part in accept.split(","):
        kind, _, rest = part.partition(";")
        parameters = dict(p.strip().partition("=")[::2] for p in rest.split(";") if p)
        kind = kind.strip().lower()
        transform = parameters.get("as", "")
        if kind in ("*/*", "application/*"):
            kind = JSON
        if kind not in READABLE or parameters.get("q") in ("0", "0.0"):
            continue
        if not transform:
            return Wanted(kind)
        known = parameters.get("g", "meta.k8s.io") == "meta.k8s.io" and parameters.get("v", "v1") in ("v1", "v1beta1")
        if transform in TRANSFORMS and known:
            return Wanted(kind, transform, parameters.get("v", "v1"))
    raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(READABLE)}")


def read_body(request: Request, *, optional: bool = False) -> Any:
    """Return the body as JSON values; a missing Content-Type is JSON. Raises 400, 413, 415."""
    if not request.body:
        if optional:
            return None
        raise bad_request("the request has no body")
    kind = content_type(request)
    if kind == JSON:
        return bodies.decode_json(request.body)
    if kind == YAML:
        return bodies.decode_yaml(request.body)
    if kind == PROTOBUF:
        return bodies.copy(protobuf.decode(request.body))
    raise unreadable(kind)


def content_type(request: Request) -> str:
    """Return the media type of the body, without parameters."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise unsupported_media_type(f"Content-Encoding: {request.headers['content-encoding']}", READABLE)
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower() or JSON


def unreadable(kind: str) -> ApiError:
    """415, with a sentence of its own for the binary languages of Kubernetes."""
    if kind == PROTOBUF or kind.startswith("application/cbor"):
        text = f"this server does not read bodies of type {kind}: send application/json or application/yaml"
        return ApiError(415, "UnsupportedMediaType", text)
    return unsupported_media_type(kind, READABLE)


def answer(
    request: Request, asked: Wanted, value: Any, status: int = 200, *, warnings: list[str] | None = None
) -> Response:
    """Return ``value`` in the language that was asked for."""
    if asked.format == YAML:
        response = Response(status, YAML, body=yaml.safe_dump(value, sort_keys=False).encode())
    else:
        response = Response(status, JSON, body=pretty(request, encode(value)))
    response.headers += [("Warning", f'299 - "{_quoted(text)}"') for text in warnings or ()]
    return response


def pretty(request: Request, raw: bytes) -> bytes:
    """Indent JSON for people who ask with ``?pretty``."""
    if "pretty=" in request.query_string and "pretty=false" not in request.query_string:
        return msgspec.json.format(raw, indent=2) + b"\n"
    return raw


def refusal(error: ApiError) -> Response:
    """Return the Status of ``error``; always JSON, which every client reads."""
    response = Response(error.status, JSON, body=encode(error.body()))
    if error.status == 401:
        response.headers.append(("WWW-Authenticate", 'Bearer realm="kubernetes"'))
    seconds = error.details.get("retryAfterSeconds")
    if seconds:
        response.headers.append(("Retry-After", str(seconds)))
    return response


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
