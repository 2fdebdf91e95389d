"""Documentation says what the code does: the reference is current, links lead somewhere, examples are valid YAML."""

import argparse
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cloudcore.cli import parser as cloud_parser
from cloudcore.settings import Settings as CloudSettings
from deploy import reference
from deploy.deb.build import PACKAGES
from edgecore.cli import parser as edge_parser
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


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy/systemd").glob("*.service")), ids=lambda p: p.name)
def test_a_unit_starts_its_daemon_on_the_directory_that_it_makes(unit: Path) -> None:
    (start,) = re.findall(r"^ExecStart=/usr/bin/env (.+)$", unit.read_text(), re.MULTILINE)
    (state,) = re.findall(r"^StateDirectory=(.+)$", unit.read_text(), re.MULTILINE)
    program, *words = start.split()
    parser = {"cloudcore": cloud_parser, "edgecore": edge_parser}[program]()

    args = parser.parse_args(words, argparse.Namespace(verb=program))

    assert args.module in {"run", "serve"}
    assert str(args.data_dir) == f"/var/lib/{state}"
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_a_gateway_without_a_network_does_not_wait_for_one_at_boot() -> None:
    unit = (ROOT / "deploy/systemd/edgecore.service").read_text()
    ordering = re.findall(r"^(?:After|Wants|Requires|BindsTo)=(.+)$", unit, re.MULTILINE)

    assert "network-online.target" not in " ".join(ordering).split()
    assert "network.target" in " ".join(ordering).split(), "at shutdown, the daemon ends before the network"


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy/systemd").glob("*.service")), ids=lambda p: p.name)
def test_a_unit_names_a_page_that_its_package_installs(unit: Path) -> None:
    (page,) = re.findall(r"^Documentation=file:///usr/share/doc/(.+)$", unit.read_text(), re.MULTILINE)
    package = next(p for p in PACKAGES if p.program == unit.stem)

    assert page == f"{package.name}/{unit.stem}.md"
    assert (ROOT / "docs" / f"{unit.stem}.md").exists()


@pytest.mark.parametrize(
    ("unit", "drop_in", "limit"),
    [("cloudcore", "", 2.5), ("edgecore", "", 2.5), ("edgecore", "process.conf", 5.0)],
)
def test_a_unit_is_hardened(unit: str, drop_in: str, limit: float, tmp_path: Path) -> None:
    whole = tmp_path / f"{unit}.service"
    text = (ROOT / f"deploy/systemd/{unit}.service").read_text()
    if drop_in:
        more = (ROOT / f"deploy/systemd/{unit}.service.d" / drop_in).read_text().partition("[Service]\n")[2]
        text = text.replace("\n[Install]", f"{more}\n[Install]")
    whole.write_text(text)

    judged = ["systemd-analyze", "security", "--offline=true", str(whole)]
    said = subprocess.run(judged, capture_output=True, text=True, check=False, timeout=60).stdout

    assert float(re.findall(r"exposure level for \S+: ([0-9.]+)", said)[0]) <= limit
