"""Each rule of proto/README.md is cited by a test, and the diagram is the one of the tables."""

import re
from pathlib import Path

from proto import session

ROOT = Path(__file__).parents[3]
README = (ROOT / "proto" / "README.md").read_text()


def test_every_rule_is_cited_by_a_test() -> None:
    rules = set(re.findall(r"\*\*((?:LINK|WIRE)-\d+)\*\*", README))
    cited: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        cited |= set(re.findall(r"\b((?:LINK|WIRE)-\d+)\b", path.read_text()))
    assert len(rules) > 40
    assert rules - cited == set()


def test_code_and_tests_cite_only_rules_that_exist() -> None:
    rules = set(re.findall(r"\*\*((?:LINK|WIRE)-\d+)\*\*", README))
    for path in [*(ROOT / "proto").rglob("*.py"), *(ROOT / "tests" / "unit" / "proto").rglob("*.py")]:
        assert set(re.findall(r"\b((?:LINK|WIRE)-\d+)\b", path.read_text())) <= rules, path


def test_the_diagram_in_the_readme_is_made_from_the_tables() -> None:
    assert session.diagram() in README
