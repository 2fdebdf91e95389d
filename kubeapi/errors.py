"""What the API says when it refuses: a Kubernetes ``Status`` with one clear sentence.

ApiError (Terminal)  <- every helper below; ``status`` is the HTTP code, ``reason`` what clients switch on
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proto.kit.errors import Terminal

if TYPE_CHECKING:
    from kubeapi.resources import Resource

REQUIRED, INVALID, NOT_SUPPORTED = "FieldValueRequired", "FieldValueInvalid", "FieldValueNotSupported"
DUPLICATE, TOO_LONG, FORBIDDEN = "FieldValueDuplicate", "FieldValueTooLong", "FieldValueForbidden"
TYPE_INVALID, MANAGER_CONFLICT = "FieldValueTypeInvalid", "FieldManagerConflict"


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with one field; ``field`` is a path such as ``spec.properties[0].name``."""

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class ApiError(Terminal):
    """A refusal as Kubernetes words it; ``body()`` is the Status object that clients read."""

    def __init__(self, status: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details: dict[str, Any] = details or {}

    def body(self) -> dict[str, Any]:
        """Return the ``Status`` object."""
        out: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            out["details"] = self.details
        out["code"] = self.status
        return out


def _qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def _details(res: "Resource", name: str, uid: str = "") -> dict[str, Any]:
    out = {"name": name, "group": res.group, "kind": res.plural, "uid": uid}
    return {k: v for k, v in out.items() if v}


def not_found(res: "Resource", name: str) -> ApiError:
    """404: no object of that name."""
    return ApiError(404, "NotFound", f'{_qualified(res.plural, res.group)} "{name}" not found', _details(res, name))


def unknown_resource() -> ApiError:
    """404: no such group, version or plural."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(res: "Resource", name: str) -> ApiError:
    """409: create of a name that is taken."""
    text = f'{_qualified(res.plural, res.group)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", text, _details(res, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(res: "Resource", name: str, why: str = MODIFIED, causes: Sequence[Cause] = ()) -> ApiError:
    """409: the object is not the one that the caller has seen."""
    details = _details(res, name)
    if causes:
        details["causes"] = causes_body(causes)
        return ApiError(409, "Conflict", why, details)
    text = f'Operation cannot be fulfilled on {_qualified(res.plural, res.group)} "{name}": {why}'
    return ApiError(409, "Conflict", text, details)


def causes_body(causes: Sequence[Cause]) -> list[dict[str, str]]:
    return [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]


def invalid(res: "Resource", name: str, causes: Sequence[Cause]) -> ApiError:
    """422: well-formed, but one or more fields are wrong; ``causes`` names each."""
    texts = [str(c) for c in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"name": name, "group": res.group, "kind": res.kind, "causes": causes_body(causes)}
    text = f'{_qualified(res.kind, res.group)} "{name}" is invalid: {listed}'
    return ApiError(422, "Invalid", text, {k: v for k, v in details.items() if v})


def bad_request(message: str) -> ApiError:
    """400: the request itself cannot be understood."""
    return ApiError(400, "BadRequest", message)


def forbidden(res: "Resource", name: str, why: str) -> ApiError:
    """403: understood, and not allowed."""
    shown = _qualified(res.plural, res.group) + (f' "{name}"' if name else "")
    return ApiError(403, "Forbidden", f"{shown} is forbidden: {why}", _details(res, name))


def gone(message: str) -> ApiError:
    """410: that resourceVersion is no longer (or not) known; list again."""
    return ApiError(410, "Expired", message)


def method_not_supported(res: "Resource", what: str = "") -> ApiError:
    """405: the resource exists, the verb does not."""
    text = what or f"the server does not allow this method on {_qualified(res.plural, res.group)}"
    return ApiError(405, "MethodNotAllowed", text)


def unsupported_media_type(given: str, allowed: Sequence[str]) -> ApiError:
    """415: a body in a language that the server does not read."""
    text = f"the body of the request was in an unknown format ({given}); accepted media types include: {', '.join(allowed)}"
    return ApiError(415, "UnsupportedMediaType", text)


def too_large(limit_bytes: int) -> ApiError:
    """413: the object does not fit."""
    return ApiError(413, "RequestEntityTooLarge", f"the object is too large: the limit is {limit_bytes} bytes")


def unavailable(message: str) -> ApiError:
    """503: later, perhaps."""
    return ApiError(503, "ServiceUnavailable", message, {"retryAfterSeconds": 1})


def internal(message: str) -> ApiError:
    """500: our fault."""
    return ApiError(500, "InternalError", message)
