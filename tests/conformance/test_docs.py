"""Documentation says what the code does: the reference is current, links lead somewhere, examples are valid YAML."""

import re
from pathlib import Path

import pytest
import yaml

from cloudcore.settings import Settings as CloudSettings
from deploy import reference
from edgecore.settings import Settings as EdgeSettings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = sorted({field for s in (CloudSettings, EdgeSettings) for field in s.__struct_fields__})
SETTING = re.compile(rf"`((?:{'|'.join(SECTIONS)})\.(?!db\b|yaml\b|crt\b|key\b|kubeconfig\b)[a-z_.]+)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_the_reference_is_what_the_code_says() -> None:
    written, _, _ = reference.TARGET.read_text().partition(reference.METRICS)

    assert written == reference.render(), "run: python -m deploy.reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_setting_that_a_page_names_exists(page: Path) -> None:
    named = set(SETTING.findall(page.read_text()))
    known = reference.render()

    assert [name for name in sorted(named) if f"`{name}`" not in known] == []


@pytest.mark.parametrize("example", sorted((ROOT / "deploy/examples").glob("*.yaml")), ids=lambda p: p.name)
def test_an_example_is_a_list_of_kubernetes_objects(example: Path) -> None:
    documents = list(yaml.safe_load_all(example.read_text()))

    assert documents
    assert all({"apiVersion", "kind", "metadata"} <= set(document) for document in documents)
