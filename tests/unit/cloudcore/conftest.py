"""The cloud's database, on SQLite and on PostgreSQL: the same tests run on both."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import cloudcore.tables  # noqa: F401  tables register themselves on import
from cloudcore.sql import Sql
from tests.kit.postgres import Postgres, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
async def sql(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sql]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'cloud.db'}"
    else:
        running: Postgres = request.getfixturevalue("server")
        url = running.url()
    opened = Sql.open(url)
    yield opened
    await opened.close()
