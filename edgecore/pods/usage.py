"""How much room directories take, without following links or leaving their file system."""

import os
from collections.abc import Mapping
from pathlib import Path

BLOCK = 512


def of_each(places: Mapping[str, Path]) -> dict[str, int]:
    """Return the bytes on disk below each place; 0 for one that is not there."""
    return {name: of(place) for name, place in places.items()}


def of(place: Path) -> int:
    """Return the bytes on disk below ``place``; files with several names count once."""
    try:
        top = place.stat()
    except OSError:
        return 0
    seen: set[int] = set()
    total, todo = 0, [str(place)]
    while todo:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:  # gone meanwhile
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_dev != top.st_dev or (status.st_nlink > 1 and status.st_ino in seen):
                continue
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            elif status.st_nlink > 1:
                seen.add(status.st_ino)
            total += status.st_blocks * BLOCK
    return total
