"""Property tests: whatever is lost, repeated or reordered, both sides end with the same twin."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from devicetwin.delta import delta
from devicetwin.lifecycle import Around, conditions, device_status
from devicetwin.merge import DeviceTwin, Rejected, Wish, apply_spec, update
from devicetwin.model import DeviceSpec
from tests.unit.devicetwin.test_merge import spec

VALUES = st.sampled_from(["1", "2", "3"])
NAMES = st.sampled_from(["temperature", "setpoint", "mode", "lamp"])
SPECS = st.lists(st.dictionaries(st.sampled_from(["setpoint", "mode"]), VALUES), min_size=1, max_size=6)
WISHES = st.one_of(
    st.none(),
    st.builds(Wish, expected=st.one_of(st.none(), VALUES, st.just("")), reported=st.one_of(st.none(), VALUES)),
)
UPDATES = st.lists(st.dictionaries(NAMES, WISHES, min_size=1, max_size=3), max_size=8)


def generations(wanted: list[dict[str, str]]) -> list[DeviceSpec]:
    return [spec(number, desired) for number, desired in enumerate(wanted, 1)]


def accept(device: DeviceTwin, wishes: dict[str, Wish | None]) -> None:
    try:
        update(device, wishes, 1)
    except Rejected:
        return


def essence(device: DeviceTwin) -> dict[str, Any]:
    return {
        name: (twin.expected, twin.reported) for name, twin in device.live().items() if twin.expected or twin.reported
    }


@given(SPECS, st.data())
@settings(max_examples=200, deadline=None)
def test_any_delivery_that_ends_with_the_newest_generation_gives_the_same_desired_values(
    wanted: list[dict[str, str]], data: st.DataObject
) -> None:
    """TWIN-3"""
    specs = generations(wanted)
    noise = data.draw(st.lists(st.sampled_from(specs), max_size=10))
    straight, wild = DeviceTwin(specs[0]), DeviceTwin(specs[0])

    for one in specs:
        apply_spec(straight, one, 1)
    for one in [*noise, specs[-1], *noise]:
        apply_spec(wild, one, 1)

    assert essence(wild) == essence(straight)
    assert wild.generation == straight.generation
    assert delta(wild.twins) == delta(straight.twins)
    assert all(twin.desired_version <= wild.generation for twin in wild.twins.values())


@given(SPECS, UPDATES, st.data())
@settings(max_examples=300, deadline=None)
def test_merging_is_idempotent_and_versions_never_go_back(
    wanted: list[dict[str, str]], updates: list[dict[str, Wish | None]], data: st.DataObject
) -> None:
    """TWIN-2, TWIN-3, TWIN-4, TWIN-5"""
    specs = generations(wanted)
    device = DeviceTwin(specs[0])
    seen = 0
    for wishes in updates:
        one = data.draw(st.sampled_from(specs))
        apply_spec(device, one, 1)
        assert apply_spec(device, one, 1) == []
        counter = device.counter
        accept(device, wishes)
        assert device.counter in (counter, counter + 1)
        for twin in device.twins.values():
            assert max(twin.reported_version, twin.override_version, twin.deleted_version) <= device.counter
        assert device.generation >= seen
        seen = device.generation
    apply_spec(device, specs[-1], 1)
    newest = {n: v for n, v in wanted[-1].items() if v}
    if device.generation > 1 or not updates:
        cloud = {name: twin.desired for name, twin in device.live().items() if twin.desired}
        assert cloud == newest


@given(SPECS, UPDATES, st.data())
@settings(max_examples=200, deadline=None)
def test_the_cloud_ends_with_the_edges_status_however_statuses_travel(
    wanted: list[dict[str, str]], updates: list[dict[str, Wish | None]], data: st.DataObject
) -> None:
    """TWIN-4, TWIN-16"""
    specs = generations(wanted)
    device = DeviceTwin(specs[0])
    sent: list[tuple[int, bytes]] = []

    def send() -> None:
        status = device_status(device, conditions(device, Around(), {}, "now"))
        sent.append((device.counter, msgspec.json.encode(status)))

    for one in specs:
        apply_spec(device, one, 1)
        send()
    for wishes in updates:
        accept(device, wishes)
        send()
    travelled = data.draw(st.permutations([*sent, *data.draw(st.lists(st.sampled_from(sent), max_size=5))]))

    held: tuple[int, bytes] = (-1, b"")
    for version, body in travelled:
        if version > held[0]:
            held = (version, body)

    newest = max(version for version, _ in sent)
    assert held[0] == newest
    assert {body for version, body in sent if version == newest} >= {held[1]}


@given(SPECS, UPDATES)
@settings(max_examples=200, deadline=None)
def test_undoing_a_change_restores_every_twin(
    wanted: list[dict[str, str]], updates: list[dict[str, Wish | None]]
) -> None:
    """TWIN-2, TWIN-10"""
    device = DeviceTwin(generations(wanted)[0])
    for one in generations(wanted):
        apply_spec(device, one, 1)
    for wishes in updates:
        before = dict(device.twins)
        try:
            changes = update(device, wishes, 1)
        except Rejected:
            assert device.twins == before
            continue
        after = dict(device.twins)
        device.undo(changes)
        assert device.twins == before
        device.twins = after
