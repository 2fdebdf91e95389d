"""The built-in kinds' OpenAPI v3 schemas, read from ``schemas.json.xz`` when somebody first asks.

Kubernetes' own definitions, v1.33, Apache-2.0; made by ``python -m kubeapi.schema_source``. The edge's store never asks.
"""

import lzma
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from kubeapi.resources import Resource

REFERENCE = "#/components/schemas/"


@cache
def definitions() -> dict[str, dict[str, Any]]:
    """Return every definition by its name, such as ``io.k8s.api.core.v1.Pod``. Must not be changed."""
    raw = lzma.decompress(files("kubeapi").joinpath("schemas.json.xz").read_bytes())
    out: dict[str, dict[str, Any]] = msgspec.json.decode(raw)
    return out


def schema_of(res: Resource) -> dict[str, Any]:
    """Return the kind's schema; references point to ``definitions``. Empty when it has none."""
    if res.custom:
        return res.schema or {}
    return definitions().get(res.definition, {})
