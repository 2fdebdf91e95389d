"""State on disk: whole or not at all, also after a power cut."""

import json
import os
from typing import Any

Json = dict[str, Any]


def read_json(path: str) -> Json:
    """Raises OSError, ValueError."""
    with open(path, "rb") as file:
        found: Json = json.load(file)
    return found


def write_json(path: str, content: Json) -> None:
    """Raises OSError."""
    partial = f"{path}.part"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
