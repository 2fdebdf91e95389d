"""States and conditions that never lie (TWIN-14, TWIN-15)."""

import pytest

from devicetwin.lifecycle import Around, Condition, conditions, device_status, read_conditions
from devicetwin.merge import DeviceTwin, Wish, apply_spec, update
from tests.unit.devicetwin.test_merge import kiln, spec


def now(device: DeviceTwin, around: Around | None = None) -> dict[str, Condition]:
    return conditions(device, around or Around(), {}, "t0")


def test_nothing_desired_is_in_sync() -> None:
    found = now(kiln())

    assert (found["Synced"].status, found["Synced"].reason) == ("True", "NothingDesired")
    assert found["Pending"].status == "False"


def test_pending_names_the_value_and_what_is_reported_instead() -> None:
    device = kiln({"setpoint": "900"})
    update(device, {"setpoint": Wish(reported="850")}, 1)

    found = now(device)

    assert found["Synced"].status == "False"
    assert (found["Pending"].reason, found["Pending"].message) == (
        "WaitingForDevice",
        "the device still has to report setpoint=900 (reports 850)",
    )


@pytest.mark.parametrize(
    ("state", "around", "reason"),
    [
        ("", Around(), "NeverReported"),
        ("offline", Around(), "DeviceOffline"),
        ("online", Around(mapper_error="no carrier"), "MapperFailed"),
        ("online", Around(write_errors={"setpoint": "door open"}), "WriteFailed"),
    ],
)
def test_pending_says_what_stands_in_the_way(state: str, around: Around, reason: str) -> None:
    device = kiln({"setpoint": "900"})
    device.state = state

    assert now(device, around)["Pending"].reason == reason


@pytest.mark.parametrize(
    ("state", "around", "status", "reason"),
    [
        ("offline", Around(), "True", "DeviceOffline"),
        ("online", Around(mapper_error="x"), "True", "MapperFailed"),
        ("online", Around(silent_for_s=9.0, has_cycle=True), "True", "Silent"),
        ("online", Around(has_cycle=True), "False", "Reporting"),
        ("online", Around(silent_for_s=301.0), "True", "Silent"),
        ("online", Around(), "False", "Reporting"),
    ],
)
def test_stale_follows_what_is_known_of_the_device(state: str, around: Around, status: str, reason: str) -> None:
    device = kiln()
    update(device, {"temperature": Wish(reported="1")}, 1)
    device.state = state

    found = now(device, around)["Stale"]

    assert (found.status, found.reason) == (status, reason)


def test_a_device_that_never_reported_is_neither_stale_nor_fresh() -> None:
    assert now(kiln())["Stale"].status == "Unknown"


def test_a_transition_time_moves_only_with_the_status() -> None:
    device = kiln({"setpoint": "900"})
    first = conditions(device, Around(), {}, "t0")
    device.state = "offline"
    second = conditions(device, Around(), first, "t1")
    update(device, {"setpoint": Wish(reported="900")}, 1)
    third = conditions(device, Around(), second, "t2")

    assert (second["Pending"].reason, second["Pending"].since) == ("DeviceOffline", "t0")
    assert (third["Pending"].status, third["Pending"].since) == ("False", "t2")
    assert third["Invalid"].since == "t0"


def test_conditions_are_read_back_from_a_status() -> None:
    device = kiln({"setpoint": "900"})
    found = now(device)

    assert read_conditions(device_status(device, found)) == found


def test_an_override_is_shown_as_observed_desired_with_its_source() -> None:
    """TWIN-5"""
    device = kiln({"setpoint": "900"})
    update(device, {"setpoint": Wish(expected="950")}, 5)

    [twin] = device_status(device, now(device))["twins"]

    assert twin["observedDesired"] == {
        "value": "950",
        "metadata": {"timestamp": "5", "type": "int", "version": "2", "source": "edge"},
    }


def test_status_carries_counter_and_observed_generation() -> None:
    device = kiln()
    apply_spec(device, spec(7, {"setpoint": "1"}), 1)

    extensions = device_status(device, now(device))["extensions"]

    assert extensions == {"version": device.counter, "observedGeneration": 7}


def test_every_metadata_value_is_a_string_as_the_crd_demands() -> None:
    device = kiln({"setpoint": "900"})
    update(device, {"setpoint": Wish(reported="1")}, 1)

    for twin in device_status(device, now(device))["twins"]:
        for half in ("reported", "observedDesired"):
            assert all(isinstance(v, str) for v in twin[half]["metadata"].values())
