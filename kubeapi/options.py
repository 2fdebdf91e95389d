"""What a caller may ask of a read or a write, and what a list answers."""

from dataclasses import dataclass, field
from typing import Any

from kubeapi import versions
from kubeapi.resources import Resource
from kubeapi.stored import Stored


@dataclass(slots=True)
class WriteOptions:
    """``field_validation`` is Strict, Warn or Ignore; ``warnings`` is filled by the write, for the caller to show."""

    field_manager: str = ""
    field_validation: str = "Warn"
    dry_run: bool = False
    force: bool = False  # apply: take fields owned by others
    user: Any = None
    duplicates: tuple[str, ...] = ()  # paths that the body named twice (kubeapi.bodies)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


@dataclass(slots=True)
class DeleteOptions:
    """``propagation`` "" is Background; ``grace_period_s`` matters for pods."""

    propagation: str = ""
    grace_period_s: int | None = None
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
    user: Any = None
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ListOptions:
    """``resource_version`` and ``match`` as in the query string; ``limit`` 0 is everything."""

    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    continue_: str = ""
    resource_version: str = ""
    match: str = ""  # "", Exact, NotOlderThan


@dataclass(slots=True)
class ListResult:
    """One page. ``stored`` gives each item's bytes without decoding it (already in the asked version)."""

    res: Resource
    at_rest: list[Stored]
    revision: int
    continue_: str = ""
    remaining: int | None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        return [versions.read(self.res, found.object) for found in self.at_rest]

    @property
    def stored(self) -> list[Stored]:
        return [versions.read_stored(self.res, found) for found in self.at_rest]
