"""Every rule of the README is cited where it is kept or tested."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
RULES = re.findall(r"^- \*\*(MQTT-\d+) ", (ROOT / "proto/mqtt/README.md").read_text(), re.MULTILINE)

# MQTT-3, MQTT-9 and MQTT-10 are shown by the conformance table and by test_sigkill
CITING = [*(ROOT / "tests").glob("*/mqtt/*.py"), *(ROOT / "proto/mqtt").glob("*.py")]


def test_rules_are_numbered_without_gaps() -> None:
    assert [f"MQTT-{n}" for n in range(1, len(RULES) + 1)] == RULES


def test_every_rule_is_cited() -> None:
    text = "\n".join(path.read_text() for path in CITING)
    assert [rule for rule in RULES if not re.search(rf"{rule}\b(?!\.)", text)] == []
