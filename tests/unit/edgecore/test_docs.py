from pathlib import Path

from edgecore.cli import parser

DOCS = (Path(__file__).parents[3] / "docs" / "edgecore.md").read_text()


def test_every_command_is_documented() -> None:
    verbs = parser()._subparsers
    assert verbs is not None
    names = list(verbs._group_actions[0].choices or ())

    assert [name for name in names if f"edgecore {name}" not in DOCS] == []
