"""docs/cloudcore.md says what there is; settings and metrics are in the reference, written from the code."""

from pathlib import Path

from cloudcore.cli import parser

DOCS = (Path(__file__).parents[3] / "docs" / "cloudcore.md").read_text()


def test_every_command_is_documented() -> None:
    verbs = parser()._subparsers
    assert verbs is not None
    names = list(verbs._group_actions[0].choices or ())

    assert [name for name in names if f"cloudcore {name}" not in DOCS and f"**{name}**" not in DOCS] == []
