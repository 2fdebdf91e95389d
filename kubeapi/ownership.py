"""managedFields of ordinary writes: who owns which field after it."""

from datetime import datetime
from typing import Any

from kubeapi.resources import Resource

Json = dict[str, Any]


def track_update(res: Resource, old: Json, new: Json, manager: str, subresource: str, now: datetime) -> Json:
    """Return ``new`` with managedFields that say what this write changed."""
    return new
