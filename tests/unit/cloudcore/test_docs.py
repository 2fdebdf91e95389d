"""docs/cloudcore.md says what there is: every setting, command and metric of ours."""

import re
from pathlib import Path

from cloudcore.cli import parser
from cloudcore.settings import Settings
from proto.kit import settings as kit

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "cloudcore.md").read_text()
METRIC = re.compile(r'"(skerry_cloud_[a-z_]+)"')


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

    assert [name for name in names if f"cloudcore {name}" not in DOCS and f"**{name}**" not in DOCS] == []


def test_every_metric_of_the_cloud_is_documented() -> None:
    names = {name for file in (ROOT / "cloudcore").rglob("*.py") for name in METRIC.findall(file.read_text())}

    assert [name for name in sorted(names) if f"| `{name}` |" not in DOCS] == []
