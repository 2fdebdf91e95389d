"""Where a path of a container really is: links of an image must not lead out of it, nor a link in a volume anywhere (PROC-8)."""

import os

MAX_LINKS = 40


class Unsafe(Exception):
    """The path cannot be mounted on; the text says why."""


def resolve(root: str, path: str) -> str:
    """Return ``path`` without links, as seen from ``root``; what does not exist stays as it is written. Raises Unsafe."""
    todo = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        try:
            target = os.readlink("/".join([root, *done, part]))
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise Unsafe(f"{path}: too many links")
        if target.startswith("/"):
            done = []
        todo = [piece for piece in target.split("/") if piece] + todo
    return "/" + "/".join(done)


def targets(root: str, mounts: list[list[str]]) -> list[str]:
    """Return the real place of each mount (pairs of path in the container and source), outer ones first. Raises Unsafe."""
    found: dict[str, str] = {}  # real place -> source
    out = []
    for path, source in mounts:
        place = resolve(root, path)
        above = max((p for p in found if place.startswith(p.rstrip("/") + "/")), key=len, default="")
        if above:
            inner = place[len(above) :]
            if resolve(found[above], inner) != "/" + inner.strip("/"):
                raise Unsafe(f"{path}: a link in the volume at {above} is on the way")
        found[place] = source
        out.append(place)
    return out
