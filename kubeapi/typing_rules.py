"""Unknown fields, types, defaults and validity of an object against its kind's schema."""

from typing import Any

from kubeapi.options import WriteOptions
from kubeapi.resources import Resource

Json = dict[str, Any]


def check_fields(res: Resource, obj: Json, old: Json | None, subresource: str, opts: WriteOptions) -> Json:
    """Return ``obj`` pruned and defaulted. Raises 400 (types, Strict) or 422."""
    return obj
