from pathlib import Path

import pytest

from edgecore import settings
from proto.kit import settings as kit
from proto.kit.errors import UsageError


def test_every_setting_has_a_text_for_people() -> None:
    undocumented = [doc.key for doc in kit.describe(settings.Settings) if not doc.text]

    assert undocumented == []


def test_the_file_of_join_is_read_and_a_config_file_comes_over_it(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("node: gw-1\napi: {port: 1}\n")
    config = tmp_path / "mine.yaml"
    config.write_text("api: {port: 2}\n")

    found = settings.load(tmp_path, config=config, env={})

    assert (found.node, found.api.port) == ("gw-1", 2)


def test_the_command_line_comes_over_the_environment(tmp_path: Path) -> None:
    found = settings.load(tmp_path, sets=["api.port=3"], env={"SKERRY_API__PORT": "2", "SKERRY_NODE": "gw-2"})

    assert (found.node, found.api.port) == ("gw-2", 3)


def test_printed_settings_can_be_read_back(tmp_path: Path) -> None:
    first = settings.load(tmp_path, sets=["node=gw-1", "node_options.labels=[site=oslo]"], env={})
    (tmp_path / "edge.yaml").write_text(kit.to_yaml(first))

    assert settings.load(tmp_path, env={}) == first


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("api.prot=1", "unknown setting 'api.prot' in --set api.prot=1; the nearest known one is 'api.port'"),
        ("node=Gate_Way", "no DNS-1123 label"),
        ("cloud.broker=tcp://x", "write mqtts://HOST:PORT"),
        ("cloud.broker=mqtts://x:99999", "write mqtts://HOST:PORT"),
        ("device_broker.host=0.0.0.0", "anonymous access is for 127.0.0.1 only"),
        ("device_broker.tls_cert=a.crt", "go together"),
        ("node_options.labels=[site]", "'site' is not key=value"),
        ("api.port=70000", "<= 65535"),
        ("log_level=loud", "matching regex"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_reason(tmp_path: Path, pair: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.load(tmp_path, sets=[pair], env={})

    assert sentence in str(caught.value)


def test_a_guarded_device_broker_may_leave_loopback(tmp_path: Path) -> None:
    found = settings.load(
        tmp_path, sets=["device_broker.host=0.0.0.0", "device_broker.password_file=/etc/skerry/passwd"], env={}
    )

    assert found.device_broker.host == "0.0.0.0"
