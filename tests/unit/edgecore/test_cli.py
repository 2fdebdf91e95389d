import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgecore import settings
from edgecore.cli import main
from edgecore.data_dir import DataDir
from proto.kit.version import VERSION

ROOT = Path(__file__).parents[3]
FORBIDDEN = {"kubernetes", "sqlalchemy", "sqlmodel", "pydantic", "aiohttp", "httpx", "amqtt", "cryptography", "grpc"}


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == VERSION


def test_printed_settings_name_every_section(joined: DataDir, capsys: Any) -> None:
    assert main(["run", "--data-dir", str(joined.path), "--print-settings", "--set", "api.port=7"]) == 0

    printed = capsys.readouterr().out
    assert "node: gw-1" in printed
    assert "port: 7" in printed


def test_an_unknown_setting_is_a_usage_error_of_one_line(joined: DataDir, capsys: Any) -> None:
    code = main(["run", "--data-dir", str(joined.path), "--set", "api.prot=7"])

    message = capsys.readouterr().err
    assert code == 2
    assert message.count("\n") == 1
    assert "'api.port'" in message


def test_a_node_that_never_joined_is_told_how(directory: DataDir, capsys: Any) -> None:
    assert main(["run", "--data-dir", str(directory.path)]) == 2

    assert "edgecore join --cloud" in capsys.readouterr().err


def test_status_works_on_an_empty_directory(directory: DataDir, capsys: Any) -> None:
    assert main(["status", "--data-dir", str(directory.path)]) == 0

    assert "has not joined" in capsys.readouterr().out


def test_status_of_a_stopped_node_is_a_versioned_document(joined: DataDir, capsys: Any) -> None:
    assert main(["status", "--data-dir", str(joined.path), "-o", "json"]) == 0

    document = msgspec.json.decode(capsys.readouterr().out)
    assert document["version"] == 1
    assert document["daemon"]["running"] is False
    assert document["certificate"]["subject"] == "system:node:gw-1"
    assert document["link"]["broker"] == "mqtts://127.0.0.1:1"


def test_reset_without_anybody_to_ask_changes_nothing(joined: DataDir, capsys: Any) -> None:
    assert main(["reset", "--data-dir", str(joined.path)]) == 2

    assert "add --yes" in capsys.readouterr().err
    assert joined.joined()


def test_reset_says_what_to_do_next(joined: DataDir, capsys: Any) -> None:
    assert main(["reset", "--yes", "--data-dir", str(joined.path)]) == 0

    assert "next: edgecore join" in capsys.readouterr().out
    assert not joined.joined()


def test_root_and_people_have_their_own_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert settings.default_data_dir() == Path("/var/lib/skerry/edge")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert settings.default_data_dir() == Path.home() / ".local/share/skerry/edge"


def test_the_commands_never_load_what_the_edge_does_not_have() -> None:
    modules = "edgecore.commands.status, edgecore.commands.doctor, edgecore.commands.reset"
    code = f"import sys, {modules}; print(' '.join(sys.modules))"

    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )

    assert loaded & FORBIDDEN == set()
    assert not any(name.startswith("paho") for name in loaded)
