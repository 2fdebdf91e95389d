from pathlib import Path

from edgecore.cli import parser
from edgecore.settings import Settings
from proto.kit import settings as kit

DOCS = (Path(__file__).parents[3] / "docs" / "edgecore.md").read_text()


def test_every_setting_is_documented_with_its_default_and_meaning() -> None:
    missing = []
    for doc in kit.describe(Settings):
        default = doc.default if doc.default not in {"", "[]"} else "(empty)"
        line = f"| `{doc.key}` | {default} | {doc.text} |"
        if line not in DOCS:
            missing.append(line)

    assert missing == []


def test_every_command_is_documented() -> None:
    verbs = parser()._subparsers
    assert verbs is not None
    names = list(verbs._group_actions[0].choices or ())

    assert [name for name in names if f"edgecore {name}" not in DOCS] == []
