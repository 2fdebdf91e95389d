"""The commands of cloudcore, one module each with ``run(args) -> exit code``, and what they share."""

import argparse
import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from cloudcore import settings as room
from cloudcore.settings import Settings
from proto.kit.errors import UsageError

if TYPE_CHECKING:
    from cloudcore.sql import Sql

T = TypeVar("T")
SHORT = {"kubeconfig": "api.kubeconfig", "broker": "broker.url", "database": "history.database"}


def data_dir_of(args: argparse.Namespace) -> Path:
    return Path(args.data_dir).absolute() if args.data_dir is not None else room.default_data_dir()


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings in force. Raises UsageError."""
    short = [f"{key}={getattr(args, name)}" for name, key in SHORT.items() if getattr(args, name) is not None]
    return room.load(data_dir_of(args), config=args.config, sets=[*args.set, *short])


def open_sql(args: argparse.Namespace) -> "Sql":
    """Open the cloud's database, in the daemon's absence or beside it. Call it inside a running loop. Raises UsageError."""
    import cloudcore.revocation  # noqa: PLC0415  tables register themselves on import
    import cloudcore.tables  # noqa: PLC0415
    import cloudcore.tokens  # noqa: F401, PLC0415
    from cloudcore.sql import Sql  # noqa: PLC0415  SQLAlchemy costs a third of a second

    data_dir, settings = data_dir_of(args), settings_of(args)
    if not settings.history.database and not data_dir.is_dir():
        raise UsageError(
            f"data directory {data_dir} does not exist: name another with --data-dir,"
            f" or begin with `cloudcore serve --data-dir {data_dir}`"
        )
    return Sql.open(settings.database_url(data_dir))


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    return asyncio.run(work)


def as_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns, as kubectl prints them."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join("   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows])
