import re
from pathlib import Path

import pytest

from tests.conformance.mqtt.runner import Play
from tests.conformance.mqtt.table import ROWS, Row

NAMES = [f"{row.statement}-v{row.version}-{row.text.replace(' ', '_')}" for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
async def test_statement_holds_in_memory(row: Row) -> None:
    async with Play(None) as play:
        await play.run(list(row.steps))


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
async def test_statement_holds_with_a_database(row: Row, tmp_path: Path) -> None:
    async with Play(tmp_path) as play:
        await play.run(list(row.steps))


def test_table_covers_both_versions_with_numbered_statements() -> None:
    assert all(re.fullmatch(r"MQTT-\d+\.\d+\.\d+-\d+", row.statement) for row in ROWS)
    assert sum(row.version == 4 for row in ROWS) >= 60
    assert sum(row.version == 5 for row in ROWS) >= 100
