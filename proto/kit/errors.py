"""Errors that cross a room's door. The class tells the caller what to do next."""

from typing import ClassVar


class SkerryError(Exception):
    """Base of every error raised on purpose; ``code`` is stable, greppable and safe to show."""

    code: ClassVar[str] = "Unknown"


class Retryable(SkerryError):
    """Passes without anyone changing anything; the caller tries again later."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Terminal(SkerryError):
    """Fails the same way until its input changes; becomes a condition or an answer, never a retry."""


class MalformedMessage(Terminal):
    """Bytes that are no message of ours; acknowledged, counted and dropped."""

    code = "MalformedMessage"


class UsageError(Terminal):
    """A person gave a command or a setting that cannot work: what, where, what to do. Exit code 2."""

    code = "UsageError"


class StorageFull(Retryable):
    """The disk or a declared quota has no room; nothing was acknowledged."""

    code = "StorageFull"
