"""What an API server may answer instead of an object."""

from typing import Any

from proto.kit.errors import Retryable, Terminal


class ApiUnavailable(Retryable):
    """No API server, or one that is overloaded or starting: ask again."""

    code = "ApiUnavailable"


class ApiRefused(Terminal):
    """The API server said no, and will say no again. ``status`` is its HTTP code, ``reason`` Kubernetes' word for it."""

    code = "ApiRefused"

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(ApiRefused):
    code = "NotFound"


class Conflict(ApiRefused):
    """Another writer was faster, a precondition (uid, resourceVersion) failed, or the name is taken."""

    code = "Conflict"


class Forbidden(ApiRefused):
    """We lack the right, or admission refused this object: it may pass once a person has changed something."""

    code = "Forbidden"


class Gone(ApiRefused):
    """The revision asked for is compacted away: list again."""

    code = "Gone"


# 401: a token or certificate has just expired and is being renewed, or a person must act; nothing is lost by asking again.
RETRIED = frozenset({401, 408, 429, 500, 502, 503, 504})


def from_status(status: int, body: Any, what: str) -> ApiUnavailable | ApiRefused:
    """Return the error for an HTTP ``status`` and its (hopefully) ``Status`` body."""
    body = body if isinstance(body, dict) else {}
    reason = str(body.get("reason") or status)
    message = f"{what}: {str(body.get('message') or 'no message')[:500]} ({status} {reason})"
    if status in RETRIED:
        details = body.get("details")
        after = details.get("retryAfterSeconds") if isinstance(details, dict) else None
        return ApiUnavailable(message, retry_after_s=float(after) if isinstance(after, int | float) else None)
    kind = {403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone}.get(status, ApiRefused)
    return kind(status, reason, message)
