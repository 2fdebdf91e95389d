"""Lists as tables: what ``kubectl get`` asks for instead of objects, and metadata without the rest."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from kubeapi.durations import UNKNOWN, age
from kubeapi.jsonpath import BadPath, find
from kubeapi.printers import PRINTERS
from kubeapi.printing import Cells
from kubeapi.resources import Column, Resource

NAME = Column("Name", ".metadata.name", "string", "name", "Name must be unique within a namespace.")
AGE = Column("Age", ".metadata.creationTimestamp", "date", "", "Time since this object was created.")
METADATA_VERSION = "meta.k8s.io/v1"


def definitions(res: Resource) -> list[dict[str, Any]]:
    """Return the ``columnDefinitions`` of ``res``."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in _columns(res)
    ]


def cells(res: Resource, obj: dict[str, Any], now: datetime) -> list[Any]:
    """Return one row's cells; an absent value is null, which kubectl shows as ``<none>``."""
    printer = _printer(res)
    if printer is not None:
        try:
            return printer[1](obj, now)
        except (AttributeError, TypeError, ValueError):
            # One object that was stored before its field was checked must not hide all the others.
            return [str((obj.get("metadata") or {}).get("name")), *[None] * (len(printer[0]) - 1)]
    return [_cell(column, obj, now) for column in _columns(res)]


def table(
    res: Resource,
    objects: Iterable[dict[str, Any]],
    *,
    now: datetime,
    version: str = "v1",
    include: str = "Metadata",
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a ``Table``. ``include``: what each row carries of its object (None, Metadata, Object)."""
    rows = []
    for obj in objects:
        row: dict[str, Any] = {"cells": cells(res, obj, now)}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = partial(obj)
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata or {},
        "columnDefinitions": definitions(res),
        "rows": rows,
    }


def partial(obj: dict[str, Any], version: str = "v1") -> dict[str, Any]:
    """Return the object's metadata alone."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj.get("metadata", {}),
    }


def partial_list(objects: Iterable[dict[str, Any]], metadata: dict[str, Any], version: str = "v1") -> dict[str, Any]:
    """Return a ``PartialObjectMetadataList``."""
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "items": [partial(obj, version) for obj in objects],
    }


def _printer(res: Resource) -> tuple[tuple[Column, ...], Cells] | None:
    return None if res.custom else PRINTERS.get((res.group, res.plural))


def _columns(res: Resource) -> tuple[Column, ...]:
    printer = _printer(res)
    if printer is not None:
        return printer[0]
    if not res.columns:
        return (NAME, AGE)
    return (NAME, *res.columns)


def _cell(column: Column, obj: dict[str, Any], now: datetime) -> Any:
    try:
        found = find(obj, column.json_path)
    except BadPath:
        return None  # the CRD was accepted with it: its other columns still work
    if not found:
        return UNKNOWN if column.type == "date" else None
    if column.type == "date":
        return age(found[0], now)
    value = found[0] if len(found) == 1 else found
    return _shown(column.type, value)


def _shown(kind: str, value: Any) -> Any:
    if kind == "string":
        return _text(value)
    if kind == "integer" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value)
    if kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if kind == "boolean" and isinstance(value, bool):
        return value
    return None


def _text(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, dict)):
        return ",".join(str(_text(v)) for v in value) if isinstance(value, list) else str(value)
    return str(value)
