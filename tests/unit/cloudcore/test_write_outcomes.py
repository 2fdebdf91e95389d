"""Answers to writes outlive whatever may ask for them again, and not more."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from cloudcore import revocation
from cloudcore.hub.write_outcomes import Outcomes
from cloudcore.sql import Sql
from proto import writes
from proto.writes import Write, WriteResult

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WRITE = Write(
    seq=1,
    journal="disk",
    key="/configmaps/default/c",
    api_version="v1",
    kind="ConfigMap",
    user="u",
    verb=writes.DELETE,
    at="",
)


async def answered(sql: Sql, *nodes: str) -> Outcomes:
    """Return outcomes with an answer to each of ``nodes``, whose certificates end tomorrow."""
    outcomes = Outcomes(sql)

    def certify(conn: Connection) -> None:
        for node in nodes:
            revocation.record(conn, node, serial=node, key_hash=node, not_after=NOW + DAY, now=NOW - DAY)

    await sql.tx(certify)
    for node in nodes:
        await outcomes.keep(node, WRITE, WriteResult(WRITE.seq, WRITE.key, writes.APPLIED))
    return outcomes


async def test_answers_to_a_revoked_node_go_when_it_can_no_longer_ask(sql: Sql) -> None:
    outcomes = await answered(sql, "gone", "here")
    await sql.tx(lambda conn: revocation.revoke(conn, "gone", NOW))

    assert await outcomes.forget(NOW) == []  # it was out for no time at all
    assert await outcomes.find("gone", WRITE) is not None
    assert await outcomes.forget(NOW + DAY / 2) == ["gone"]

    assert await outcomes.find("gone", WRITE) is None
    assert await outcomes.find("here", WRITE) is not None


async def test_answers_to_a_node_whose_last_certificate_ended_long_ago_go(sql: Sql) -> None:
    outcomes = await answered(sql, "expired", "renewed")
    await sql.tx(
        lambda conn: revocation.record(
            conn, "renewed", serial="2", key_hash="renewed", not_after=NOW + 9 * DAY, now=NOW
        )
    )
    assert await outcomes.forget(NOW + 2 * DAY) == ["expired"]
    assert await outcomes.find("renewed", WRITE) is not None


async def test_a_revoked_node_that_joined_again_keeps_its_answers(sql: Sql) -> None:
    outcomes = await answered(sql, "back")

    def rejoin(conn: Connection) -> None:
        revocation.revoke(conn, "back", NOW - DAY)
        revocation.admit(conn, "back", "new", NOW)
        revocation.record(conn, "back", serial="new", key_hash="new", not_after=NOW + 9 * DAY, now=NOW)

    await sql.tx(rejoin)
    assert await outcomes.forget(NOW + 2 * DAY) == []
    assert await outcomes.find("back", WRITE) is not None


async def test_a_node_without_any_certificate_of_ours_keeps_its_answers(sql: Sql) -> None:
    outcomes = Outcomes(sql)
    await outcomes.keep("foreign", WRITE, WriteResult(WRITE.seq, WRITE.key, writes.APPLIED))
    assert await outcomes.forget(NOW + 999 * DAY) == []
    assert await outcomes.find("foreign", WRITE) is not None
