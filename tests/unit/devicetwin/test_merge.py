"""Conflict rules of a twin: one writer per half, versions, overrides, tombstones."""

from collections.abc import Mapping
from typing import Any

import pytest

from devicetwin.delta import delta
from devicetwin.merge import MAX_TWINS, DeviceTwin, Rejected, Twin, Wish, apply_spec, update
from devicetwin.model import DeviceSpec, read_device
from devicetwin.values import REASON_KEY, REASON_TYPE, REASON_VALUE

MODEL: dict[str, Any] = {
    "metadata": {"name": "m"},
    "spec": {
        "properties": [
            {"name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly", "minimum": "-40", "maximum": "1400"},
            {"name": "setpoint", "type": "INT", "minimum": "0", "maximum": "1300"},
            {"name": "mode", "type": "STRING"},
        ]
    },
}


def spec(generation: int, desired: Mapping[str, str] | None = None, properties: list[str] | None = None) -> DeviceSpec:
    names = ["temperature", "setpoint", "mode"] if properties is None else properties
    entries: list[dict[str, Any]] = [{"name": n} for n in names]
    for entry in entries:
        if desired and entry["name"] in desired:
            entry["desired"] = {"value": desired[entry["name"]]}
    obj = {
        "metadata": {"name": "kiln", "namespace": "default", "uid": "u", "generation": generation},
        "spec": {"deviceModelRef": {"name": "m"}, "properties": entries},
    }
    model = {
        "metadata": {"name": "m"},
        "spec": {"properties": [p for p in MODEL["spec"]["properties"] if p["name"] in names]},
    }
    return read_device(obj, model)


def kiln(desired: Mapping[str, str] | None = None, generation: int = 1) -> DeviceTwin:
    device = DeviceTwin(spec(generation, desired))
    apply_spec(device, device.spec, 1)
    return device


def test_desired_version_is_the_generation_of_its_last_change() -> None:
    """TWIN-3"""
    device = kiln({"setpoint": "900"})

    apply_spec(device, spec(2, {"setpoint": "900", "mode": "eco"}), 2)
    apply_spec(device, spec(3, {"setpoint": "950", "mode": "eco"}), 3)

    assert (device.twins["setpoint"].desired, device.twins["setpoint"].desired_version) == ("950", 3)
    assert device.twins["mode"].desired_version == 2


def test_an_older_generation_changes_nothing() -> None:
    """TWIN-3"""
    device = kiln({"setpoint": "950"}, generation=5)

    assert apply_spec(device, spec(4, {"setpoint": "900"}), 2) == []
    assert device.twins["setpoint"].desired == "950"


def test_a_desired_value_that_is_taken_back_asks_for_nothing() -> None:
    """TWIN-3"""
    device = kiln({"setpoint": "950"})

    apply_spec(device, spec(2), 2)

    assert delta(device.twins) == {}
    assert device.twins["setpoint"].desired_version == 2


def test_every_accepted_update_moves_the_counter_by_one() -> None:
    """TWIN-2, TWIN-4"""
    device = kiln()

    update(device, {"temperature": Wish(reported="1"), "setpoint": Wish(reported="2")}, 1)
    update(device, {"temperature": Wish(reported="1")}, 2)

    assert device.counter == 2
    assert device.twins["setpoint"].reported_version == 1
    assert device.twins["temperature"].reported_version == 2


def test_an_undone_update_leaves_the_twins_and_wastes_its_version() -> None:
    """TWIN-2"""
    device = kiln()
    update(device, {"temperature": Wish(reported="1")}, 1)
    before = dict(device.twins)

    device.undo(update(device, {"temperature": Wish(reported="2"), "new": Wish(reported="x")}, 2))

    assert device.twins == before
    update(device, {"temperature": Wish(reported="3")}, 3)
    assert device.twins["temperature"].reported_version == 3


def test_an_override_is_in_force_until_a_newer_generation() -> None:
    """TWIN-5"""
    device = kiln({"setpoint": "900"})
    update(device, {"setpoint": Wish(expected="950")}, 1)
    assert device.twins["setpoint"].expected == "950"

    apply_spec(device, device.spec, 2)
    assert device.twins["setpoint"].expected == "950"

    apply_spec(device, spec(2, {"setpoint": "900"}), 3)
    assert device.twins["setpoint"].expected == "900"


def test_a_newer_generation_ends_overrides_of_properties_that_it_does_not_name() -> None:
    """TWIN-5"""
    device = kiln()
    update(device, {"lamp": Wish(expected="on")}, 1)

    apply_spec(device, spec(2), 2)

    assert device.twins["lamp"].expected is None
    assert device.twins["lamp"].live


def test_an_empty_expected_takes_the_override_back() -> None:
    """TWIN-5"""
    device = kiln({"setpoint": "900"})
    update(device, {"setpoint": Wish(expected="950")}, 1)

    update(device, {"setpoint": Wish(expected="")}, 2)

    assert device.twins["setpoint"].expected == "900"


def test_null_leaves_a_versioned_tombstone_that_a_report_revives() -> None:
    """TWIN-6"""
    device = kiln()
    update(device, {"lamp": Wish(reported="on", type="string")}, 1)

    update(device, {"lamp": None}, 2)
    assert not device.twins["lamp"].live
    assert device.twins["lamp"].deleted_version == 2
    assert "lamp" not in device.live()

    update(device, {"lamp": Wish(reported="5", type="int")}, 3)
    assert device.live()["lamp"].type == "int"
    assert device.twins["lamp"].reported_version == 3


def test_null_where_the_cloud_desires_removes_only_the_edges_half() -> None:
    """TWIN-6"""
    device = kiln({"setpoint": "900"})
    update(device, {"setpoint": Wish(reported="900", expected="901")}, 1)

    update(device, {"setpoint": None}, 2)

    assert device.twins["setpoint"].reported is None
    assert device.twins["setpoint"].expected == "900"
    assert delta(device.twins) == {"setpoint": "900"}


@pytest.mark.parametrize("twice", [False, True])
def test_null_for_a_twin_that_is_not_there_is_refused(twice: bool) -> None:
    """TWIN-6"""
    device = kiln()
    if twice:
        update(device, {"lamp": Wish(reported="on")}, 1)
        update(device, {"lamp": None}, 2)

    with pytest.raises(Rejected, match="the request body is wrong"):
        update(device, {"lamp": None}, 3)


def test_a_twin_that_is_not_optional_cannot_be_deleted_nor_made_optional_again() -> None:
    """TWIN-6, TWIN-12"""
    device = kiln()
    update(device, {"lamp": Wish(reported="on", optional=False)}, 1)
    update(device, {"lamp": Wish(reported="on", optional=True)}, 2)

    assert not device.twins["lamp"].optional
    with pytest.raises(Rejected, match="not optional"):
        update(device, {"lamp": None}, 3)


def test_a_property_that_leaves_the_device_becomes_a_tombstone_and_an_apps_own_stays() -> None:
    """TWIN-6"""
    device = kiln({"mode": "eco"})
    update(device, {"mode": Wish(reported="eco"), "lamp": Wish(reported="on")}, 1)

    apply_spec(device, spec(2, properties=["temperature", "setpoint"]), 2)

    assert set(device.live()) == {"lamp"}


def test_a_tombstone_of_a_declared_property_stays_when_the_same_generation_is_read_again() -> None:
    """TWIN-6"""
    device = kiln()
    update(device, {"mode": Wish(reported="eco")}, 1)
    update(device, {"mode": None}, 2)

    assert apply_spec(device, device.spec, 3) == []


def test_one_bad_value_refuses_the_whole_update() -> None:
    """TWIN-7"""
    device = kiln()

    with pytest.raises(Rejected):
        update(device, {"mode": Wish(reported="eco"), "setpoint": Wish(reported="hot")}, 1)

    assert device.twins == {}
    assert device.counter == 0


@pytest.mark.parametrize(
    ("name", "wish", "reason"),
    [
        ("bad key", Wish(reported="1"), REASON_KEY),
        ("k" * 129, Wish(reported="1"), REASON_KEY),
        ("lamp", Wish(reported="with space"), REASON_VALUE),
        ("lamp", Wish(reported="v" * 513), REASON_VALUE),
        ("lamp", Wish(reported="1", type="double"), REASON_TYPE),
        ("lamp", Wish(reported="1", type="INT"), REASON_TYPE),
        ("lamp", Wish(reported="1.5", type="int"), "the value is not int or integer"),
        ("lamp", Wish(reported="x", type="float"), "the value is not float"),
        ("lamp", Wish(reported="nan", type="float"), "the value is not float"),
        ("lamp", Wish(reported="True", type="boolean"), "the bool value must be true or false"),
        ("setpoint", Wish(reported="9999"), "the value 9999 of setpoint is above its maximum 1300"),
        ("setpoint", Wish(reported="-1"), "the value -1 of setpoint is below its minimum 0"),
        ("setpoint", Wish(expected="9999"), "the value 9999 of setpoint is above its maximum 1300"),
        (
            "temperature",
            Wish(expected="1"),
            "property temperature is ReadOnly in the device model: it takes no expected value",
        ),
    ],
)
def test_what_a_client_may_not_say_has_its_reason(name: str, wish: Wish, reason: str) -> None:
    """TWIN-12, TWIN-13"""
    with pytest.raises(Rejected) as refusal:
        update(kiln(), {name: wish}, 1)

    assert refusal.value.status == 400
    assert str(refusal.value) in {reason, f"{reason} (property {name[:128]})"}


def test_expected_is_checked_also_where_there_was_none_before() -> None:
    """TWIN-12"""
    device = kiln()
    update(device, {"lamp": Wish(reported="5", type="int")}, 1)

    with pytest.raises(Rejected, match="not int"):
        update(device, {"lamp": Wish(expected="five")}, 2)


def test_a_live_twin_keeps_its_type() -> None:
    """TWIN-12"""
    device = kiln()
    update(device, {"lamp": Wish(reported="5", type="int")}, 1)

    update(device, {"lamp": Wish(reported="6", type="string")}, 2)

    assert device.twins["lamp"].type == "int"


def test_what_was_asked_for_may_be_reported_whatever_its_characters() -> None:
    """TWIN-12"""
    device = kiln({"mode": "very hot, please!"})

    update(device, {"mode": Wish(reported="very hot, please!")}, 1)

    assert delta(device.twins) == {}


def test_a_device_has_a_bounded_number_of_twins() -> None:
    """TWIN-12"""
    device = kiln()
    update(device, {f"p{n}": Wish(reported="1") for n in range(MAX_TWINS)}, 1)

    with pytest.raises(Rejected, match="at most 1024"):
        update(device, {"one-more": Wish(reported="1")}, 2)


@pytest.mark.parametrize(
    ("twin", "pending"),
    [
        (Twin(desired="21"), True),
        (Twin(desired="21", reported="21"), False),
        (Twin("float", desired="21", reported="21.0"), False),
        (Twin("string", desired="21", reported="21.0"), True),
        (Twin(desired="", reported="x"), False),
        (Twin(desired="21", override="22", reported="21"), True),
        (Twin(desired="21", reported="22", deleted_version=3), False),
        (Twin(reported="22"), False),
    ],
)
def test_pending_is_an_expected_value_that_is_not_reported(twin: Twin, pending: bool) -> None:
    """TWIN-8"""
    assert bool(delta({"p": twin})) is pending
