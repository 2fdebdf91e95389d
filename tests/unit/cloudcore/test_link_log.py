"""The link's memory on PostgreSQL: the same suite as every other MessageLog."""

from collections.abc import AsyncIterator

import pytest

from cloudcore.link_log import SqlLog
from cloudcore.sql import Sql
from proto.link.log import CloudLog
from tests.conformance.test_message_log import MessageLogConformance
from tests.kit.postgres import Postgres


class TestSqlLogOnPostgres(MessageLogConformance):
    @pytest.fixture
    async def log(self, server: Postgres) -> AsyncIterator[CloudLog]:
        sql = Sql.open(server.url())
        yield SqlLog(sql)
        await sql.close()
