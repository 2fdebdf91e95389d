"""Reading and completing parts of objects that nobody has checked yet."""

from typing import Any

Json = dict[str, Any]


def fill_in(part: Json, **values: Any) -> None:
    """Set what is absent or null."""
    for key, value in values.items():
        if part.get(key) is None:
            part[key] = value


def mapped(value: Any) -> Json:
    """Return an object, {} for anything else: a part of the wrong type is left for the schema."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Json]:
    """Return the objects of a list, none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
