"""One shell may hold the settings of both daemons."""

from pathlib import Path

import pytest

from cloudcore import settings as cloud
from edgecore import settings as edge
from proto.kit import settings as kit
from proto.kit.errors import UsageError

BOTH = {
    "SKERRY_BROKER__PORT": "18883",
    "SKERRY_DEVICE_BROKER__PORT": "11883",
    "SKERRY_NODE": "gw-1",
    "SKERRY_API__KUBECONFIG": "in-cluster",
    "SKERRY_LOG_LEVEL": "debug",
    "SKERRY_API__PORT": "1111",
    "SKERRY_EDGECORE__API__PORT": "2222",
    "SKERRY_CLOUDCORE__LOG_LEVEL": "error",
}


def test_each_daemon_takes_what_it_knows_and_what_is_addressed_to_it(tmp_path: Path) -> None:
    here, there = edge.load(tmp_path, env=BOTH), cloud.load(tmp_path, env=BOTH)

    assert (here.node, here.device_broker.port, here.api.port, here.log_level) == ("gw-1", 11883, 2222, "debug")
    assert (there.broker.port, there.api.kubeconfig, there.api.port) == (18883, "in-cluster", 1111)
    assert there.log_level == "error"


@pytest.mark.parametrize("name", ["SKERRY_PORTS", "SKERRY_API__PROT", "SKERRY_EDGECORE__PODZ__X"])
def test_what_no_daemon_knows_is_still_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=name):
        edge.load(tmp_path, env={name: "1"})


def test_a_key_of_the_other_daemon_in_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("device_broker: {port: 1}\n")
    with pytest.raises(UsageError, match=r"device_broker\.port"):
        cloud.load(tmp_path, config=tmp_path / "own.yaml", env={})


@pytest.mark.parametrize(("own", "other"), [(cloud, edge), (edge, cloud)])
def test_each_daemon_names_exactly_what_the_other_has_for_itself(own: object, other: object) -> None:
    ours, theirs = (set(kit.known_keys(each.Settings)) for each in (own, other))  # type: ignore[attr-defined]

    def passed(key: str) -> bool:
        return any(key == each or (each.endswith(".") and key.startswith(each)) for each in own.FOREIGN)  # type: ignore[attr-defined]

    assert {key for key in theirs if passed(key)} == theirs - ours
    assert not [key for key in ours if passed(key)]
