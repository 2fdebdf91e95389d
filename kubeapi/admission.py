"""Hooks that see every write before it is stored, inside its transaction. They may refuse it or change it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubeapi.resources import Resource


def _silent(_text: str) -> None:
    """Say nothing: for writes that nobody reads the warnings of."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One write. ``obj`` is what would be stored (None for DELETE), ``old`` what is (None for CREATE)."""

    verb: str  # CREATE, UPDATE, DELETE
    res: Resource
    namespace: str
    name: str
    subresource: str
    obj: dict[str, Any] | None
    old: dict[str, Any] | None
    user: Any
    dry_run: bool = False
    warn: Callable[[str], None] = _silent


# Returns the object to store instead, or None for "as it is"; raises ApiError to refuse.
Hook = Callable[[Attempt], dict[str, Any] | None]


def admit(hooks: Sequence[Hook], attempt: Attempt) -> dict[str, Any] | None:
    """Ask every hook in order; returns the object as the last one left it."""

    for hook in hooks:
        changed = hook(attempt)
        if changed is not None:
            attempt = replace(attempt, obj=changed)
    return attempt.obj
