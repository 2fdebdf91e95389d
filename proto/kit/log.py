"""Logs: one line per change of state, ``key=value``, to standard error. Never a payload, never a secret."""

import logging
import sys
from typing import Any

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def setup(level: str = "info") -> None:
    """Log to standard error at ``level`` (debug, info, warning, error)."""
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=FORMAT, force=True)


class Logger:
    """A named logger whose calls take fields: ``log.info("link up", epoch=4)``."""

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)

    def debug(self, message: str, **fields: Any) -> None:
        if self._log.isEnabledFor(logging.DEBUG):
            self._log.debug(_line(message, fields))

    def info(self, message: str, **fields: Any) -> None:
        self._log.info(_line(message, fields))

    def warning(self, message: str, **fields: Any) -> None:
        self._log.warning(_line(message, fields))

    def error(self, message: str, **fields: Any) -> None:
        self._log.error(_line(message, fields))

    def exception(self, message: str, **fields: Any) -> None:
        """As ``error``, with the traceback of the exception being handled."""
        self._log.exception(_line(message, fields))


def _line(message: str, fields: dict[str, Any]) -> str:
    return " ".join([message, *(f"{k}={_quote(str(v))}" for k, v in fields.items())])


def _quote(text: str) -> str:
    if not text.isprintable():  # what others sent must not look like a line of ours
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return f'"{text}"' if " " in text or not text else text
