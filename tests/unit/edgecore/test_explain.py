from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from devicetwin.mappers.host.mapper import label_of
from edgecore import kinds, sync
from edgecore.cli import main
from edgecore.commands.device import render_table, short_duration
from edgecore.data_dir import DataDir
from edgecore.explain import explain, table
from edgecore.status import device_summary
from kubeapi.store import Store
from proto.kit.database import Database
from proto.link import edge as link
from tests.kit.clock import ManualClock

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
CONNECTED = {"connected": True, "pending_states": 0, "pending_messages": 0}


def device(name: str = "kiln", namespace: str = "default", generation: int = 2) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "generation": generation},
        "spec": {
            "deviceModelRef": {"name": "oven"},
            "protocol": {"protocolName": "mqtt"},
            "properties": [{"name": "target", "desired": {"value": "900"}}, {"name": "label"}],
        },
    }


def status(name: str = "kiln", seen: int = 2, **conditions: str) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceStatus",
        "metadata": {"name": name, "namespace": "default"},
        "status": {
            "state": "online",
            "extensions": {"version": 9, "observedGeneration": seen},
            "twins": [
                {
                    "propertyName": "target",
                    "reported": {"value": "880", "metadata": {"timestamp": "1767225900000", "version": "7"}},
                    "observedDesired": {"value": "900", "metadata": {"source": "cloud", "version": "2"}},
                }
            ],
            "conditions": [
                {"type": kind, "status": "True", "reason": "R", "message": text, "lastTransitionTime": "T"}
                for kind, text in conditions.items()
            ],
        },
    }


def test_a_pending_twin_is_explained_by_its_condition() -> None:
    found = explain(device(), status(Pending="the device still has to report target=900"), CONNECTED, NOW)

    assert found["why"] == ["Pending since T: the device still has to report target=900"]
    assert found["sync"] == "Pending"


def test_an_offline_cloud_is_part_of_the_explanation() -> None:
    link = {"connected": False, "since": "2026-01-01T00:00:00Z", "pending_states": 1, "pending_messages": 3}

    why = explain(device(), status(Synced="fine"), link, NOW)["why"]

    assert why[0] == "Synced: fine"
    assert "since 2026-01-01T00:00:00Z" in why[1]
    assert "1 statuses and 3 messages wait" in why[1]


def test_an_older_generation_is_said() -> None:
    why = explain(device(generation=5), status(seen=2, Synced="fine"), CONNECTED, NOW)["why"]

    assert why[0] == "generation 5 of the Device is here, the twin still works on 2"


def test_a_fenced_node_is_said() -> None:
    assert "fenced" in explain(device(), status(Synced="fine"), {"fenced": True}, NOW)["why"][-1]


def test_a_device_that_nobody_looked_at_yet_is_pending() -> None:
    found = explain(device(), None, CONNECTED, NOW)

    assert found["sync"] == "Pending"
    assert "is the daemon running" in found["why"][0]


def test_every_property_of_the_device_is_listed() -> None:
    rows = explain(device(), status(), CONNECTED, NOW)["properties"]

    assert [(row["name"], row["desired"], row["reported"]) for row in rows] == [
        ("label", None, None),
        ("target", "900", "880"),
    ]


def test_the_table_shows_the_age_of_the_newest_report() -> None:
    text = render_table(table([device()], [status(Synced="fine")], NOW))

    assert text.splitlines()[0].split() == ["NAMESPACE", "NAME", "MODEL", "PROTOCOL", "STATE", "SYNC", "AGE"]
    assert text.splitlines()[1].split() == ["default", "kiln", "oven", "mqtt", "online", "Synced", "5m"]


def test_no_devices_is_a_sentence() -> None:
    assert render_table([]).startswith("no devices")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (119, "119s"), (600, "10m"), (7200, "2h"), (900000, "10d")])
def test_an_age_is_short(seconds: int, text: str) -> None:
    assert short_duration(seconds) == text


def test_stale_beats_pending_beats_synced_in_the_summary() -> None:
    devices = [device(name) for name in ("a", "b", "c", "d")]
    statuses = [status("a", Synced="x"), status("b", Pending="x"), status("c", Synced="x", Stale="x")]

    assert device_summary(devices, statuses) == {"total": 4, "synced": 1, "pending": 2, "stale": 1}


def test_the_label_of_the_gateway_is_that_of_its_host_device() -> None:
    gateway = device("gateway")
    gateway["spec"]["protocol"] = {"protocolName": "host"}
    labelled = status("gateway")
    labelled["status"]["twins"] = [{"propertyName": "label", "reported": {"value": "boiler-room"}}]

    assert label_of([gateway, device()], [labelled, status()]) == "boiler-room"
    assert not label_of([device()], [status()])


@pytest.fixture
async def stopped(joined: DataDir) -> DataDir:
    """A data directory as a daemon leaves it, with two devices of one name."""
    db = Database.open(joined.database, [link.SCHEMA, sync.SCHEMA])
    store = await Store.open(db, kinds.registry(), ManualClock())
    await db.tx(lambda tx: store.put(tx, kinds.DEVICE, device()))
    await db.tx(lambda tx: store.put(tx, kinds.DEVICE, device("oven")))
    await db.tx(lambda tx: store.put(tx, kinds.DEVICE, device("oven", "other")))
    await db.tx(lambda tx: store.put(tx, kinds.DEVICE, device("gone")))
    await db.tx(lambda tx: store.remove(tx, kinds.DEVICE, "default", "gone"))
    await db.tx(lambda tx: store.put(tx, kinds.DEVICE_STATUS, status(Synced="fine")))
    await db.close()
    return joined


def test_devices_are_listed_without_the_daemon(stopped: DataDir, capsys: Any) -> None:
    assert main(["device", "list", "--data-dir", str(stopped.path), "-o", "json"]) == 0

    items = msgspec.json.decode(capsys.readouterr().out)["items"]
    assert [(item["namespace"], item["name"]) for item in items] == [
        ("default", "kiln"),
        ("default", "oven"),
        ("other", "oven"),
    ]


def test_explain_works_without_the_daemon(stopped: DataDir, capsys: Any) -> None:
    assert main(["device", "explain", "kiln", "--data-dir", str(stopped.path)]) == 0

    text = capsys.readouterr().out
    assert text.startswith("default/kiln: Synced, online\n  Synced: fine\n")
    assert "the cloud is not connected" in text


def test_a_name_in_two_namespaces_asks_which(stopped: DataDir, capsys: Any) -> None:
    assert main(["device", "explain", "oven", "--data-dir", str(stopped.path)]) == 2
    assert "add -n NAMESPACE" in capsys.readouterr().err
    assert main(["device", "explain", "other/oven", "--data-dir", str(stopped.path)]) == 0


def test_an_unknown_device_is_a_sentence_with_the_known_ones(stopped: DataDir, capsys: Any) -> None:
    assert main(["device", "explain", "nope", "--data-dir", str(stopped.path)]) == 1

    assert "there are: default/kiln" in capsys.readouterr().err


def test_status_counts_what_waits_without_the_daemon(stopped: DataDir, capsys: Any) -> None:
    assert main(["status", "--data-dir", str(stopped.path)]) == 0

    assert "3: 1 synced, 2 pending, 0 stale" in capsys.readouterr().out
