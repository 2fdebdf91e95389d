"""The house keeps its own rules: ids cited, fixed names free, locks clean, decisions in form, the edge small."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULE = re.compile(r"\*\*([A-Z]+-\d+)\b")
PACKAGES = ("proto", "devicetwin", "kubeapi", "cloudcore", "edgecore")
EDGE_NEVER_LOADS = (
    "kubernetes",
    "sqlalchemy",
    "sqlmodel",
    "pydantic",
    "aiohttp",
    "httpx",
    "amqtt",
    "cryptography",
    "grpc",
)
UNVERIFIED = {  # the only places that speak TLS to a server without checking it, once each
    "proto/kit/tls.py",  # fetches a CA, which the join token's hash then proves
    "cloudcore/kube/config.py",  # a person's kubeconfig says insecure-skip-tls-verify
    "edgecore/certificate.py",  # a handshake with itself in memory, to see whether key, certificate and CA fit
}
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")


def rules() -> list[str]:
    readmes = [p for package in PACKAGES for p in (ROOT / package).rglob("README.md")]
    return sorted({rule for readme in readmes for rule in RULE.findall(readme.read_text())})


def test_each_rule_id_is_cited_by_a_test() -> None:
    cited = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))

    assert rules()
    assert [rule for rule in rules() if not re.search(rf"\b{rule}\b", cited)] == []


def test_proto_plus_is_not_locked_because_it_installs_a_package_named_proto() -> None:
    locked = "".join(p.read_text() for p in (ROOT / "requirements").glob("*.txt"))

    assert "proto-plus==" not in locked


def test_lock_files_hold_hashes_and_no_urls() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text


def test_tests_are_not_part_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(include) == sorted(f"{p}*" for p in PACKAGES)


@pytest.mark.parametrize("decision", sorted((ROOT / "deploy/decisions").glob("*.md")), ids=lambda p: p.name)
def test_a_decision_says_its_status_context_decision_and_consequences(decision: Path) -> None:
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", decision.name)
    headings = re.findall(r"^## (.+)$", decision.read_text(), re.MULTILINE)
    assert headings == ["Status", "Context", "Decision", "Consequences"]


def test_the_edge_daemon_loads_none_of_the_cloud_s_libraries() -> None:
    code = f"import sys, edgecore.app, edgecore.settings\nprint(*[m for m in {EDGE_NEVER_LOADS!r} if m in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert loaded.split() == []


def test_nothing_skips_or_expects_to_fail() -> None:
    for name in TRACKED:
        if name.startswith("tests/") and name.endswith(".py") and name != "tests/conformance/test_house.py":
            text = (ROOT / name).read_text()
            assert not re.search(r"pytest\.(skip|xfail|importorskip)|mark\.(skip|xfail)", text), name


def test_no_shell_no_unverified_tls_no_unsafe_loading() -> None:
    unsafe = re.compile(
        r"shell=True|os\.system\(|verify=False|CERT_NONE|check_hostname = False|yaml\.load\(|pickle\.|\beval\("
    )
    for name in TRACKED:
        if name.startswith(PACKAGES) and name.endswith(".py") and "/gen/" not in name:
            found = sorted(unsafe.findall((ROOT / name).read_text()))
            assert found == (["CERT_NONE", "check_hostname = False"] if name in UNVERIFIED else []), name
