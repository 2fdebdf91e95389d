"""KubeEdge's device topics over MQTT: every topic, both forms, same shapes, codes and reasons; and what is mended.

Each test that shows a mend is named in docs/devices.md. The room is the real one; only the broker is recorded.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from devicetwin import topics
from devicetwin.values import REASON_KEY, REASON_VALUE
from tests.unit.edgecore_devices.room import MODEL, NODE, Room, device, open_room

N = f"$hw/events/node/{NODE}"
FORMS = {"two levels": "$hw/events/device/default/kiln", "one level": "$hw/events/device/kiln"}
T = 1_700_000_000_000


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(tmp_path) as opened:
        await opened.put(MODEL, device(desired={"setpoint": "900"}))
        opened.broker.sent.clear()
        yield opened


@pytest.fixture(params=FORMS, ids=lambda form: form.replace(" ", "-"))
def d(request: pytest.FixtureRequest) -> str:
    """The device's topic in each form; answers come in the form of the request."""
    return FORMS[request.param]


def report(value: str, **more: Any) -> dict[str, Any]:
    return {"event_id": "e1", "timestamp": T, "twin": {"lamp": {"actual": {"value": value}, **more}}}


# twin/get


async def test_twin_get_answers_with_every_live_twin_without_versions(room: Room, d: str) -> None:
    await room.send(
        f"{d}/twin/update", {"event_id": "e0", "timestamp": T, "twin": {"setpoint": {"actual": {"value": "5"}}}}
    )

    await room.send(f"{d}/twin/get", {"event_id": "e1"})

    [answer] = room.broker.take(f"{d}/twin/get/result")
    assert answer["event_id"] == "e1"
    assert isinstance(answer["timestamp"], int)
    expected = answer["twin"]["setpoint"]["expected"]
    assert (expected["value"], set(expected["metadata"])) == ("900", {"timestamp"})
    assert answer["twin"]["setpoint"]["actual"] == {"value": "5", "metadata": {"timestamp": T}}
    assert answer["twin"]["setpoint"]["optional"] is True
    assert answer["twin"]["setpoint"]["metadata"] == {"type": "int"}


async def test_twin_get_of_an_unknown_device_is_404(room: Room) -> None:
    await room.send("$hw/events/device/default/nobody/twin/get", {"event_id": "e1"})

    [answer] = room.broker.take("$hw/events/device/default/nobody/twin/get/result")
    assert (answer["event_id"], answer["code"]) == ("e1", 404)
    assert answer["reason"] == "Device default/nobody not found while getting twin"


async def test_twin_get_with_a_broken_body_is_400(room: Room, d: str) -> None:
    await room.send(f"{d}/twin/get", b"{")

    [answer] = room.broker.take(f"{d}/twin/get/result")
    assert (answer["event_id"], answer["code"]) == ("", 400)


# twin/update


async def test_twin_update_answers_with_what_changed(room: Room, d: str) -> None:
    await room.send(f"{d}/twin/update", report("on", metadata={"type": "string"}))

    [answer] = room.broker.take(f"{d}/twin/update/result")
    assert answer["event_id"] == "e1"
    lamp = {"actual": {"value": "on", "metadata": {"timestamp": T}}, "optional": True, "metadata": {"type": "string"}}
    assert answer["twin"] == {"lamp": lamp}


async def test_twin_update_answers_only_the_half_that_changed(room: Room, d: str) -> None:
    await room.send(f"{d}/twin/update", {"event_id": "e", "twin": {"setpoint": {"actual": {"value": "5"}}}})

    [answer] = room.broker.take(f"{d}/twin/update/result")
    assert set(answer["twin"]["setpoint"]) == {"actual", "optional", "metadata"}


async def test_null_deletes_and_is_answered_with_null(room: Room, d: str) -> None:
    await room.send(f"{d}/twin/update", report("on"))
    room.broker.sent.clear()

    await room.send(f"{d}/twin/update", {"event_id": "e2", "twin": {"lamp": None}})

    assert room.broker.take(f"{d}/twin/update/result")[0]["twin"] == {"lamp": None}
    [document] = room.broker.take(f"{d}/twin/update/document")
    assert document["twin"]["lamp"]["current"] is None
    await room.send(f"{d}/twin/get", {"event_id": "e3"})
    assert "lamp" not in room.broker.take(f"{d}/twin/get/result")[0]["twin"]


async def test_the_document_has_last_and_current_and_last_is_null_on_create(room: Room, d: str) -> None:
    await room.send(f"{d}/twin/update", report("on"))
    [created] = room.broker.take(f"{d}/twin/update/document")
    await room.send(f"{d}/twin/update", report("off"))
    [changed] = room.broker.take(f"{d}/twin/update/document")

    assert created["event_id"] == "e1"
    assert created["twin"]["lamp"]["last"] is None
    assert changed["twin"]["lamp"]["last"]["actual"]["value"] == "on"
    assert changed["twin"]["lamp"]["current"]["actual"]["value"] == "off"


async def test_setting_the_same_value_again_is_an_update(room: Room, d: str) -> None:
    """TWIN-7"""
    await room.send(f"{d}/twin/update", report("on"))
    await room.send(f"{d}/twin/update", report("on"))

    assert len(room.broker.take(f"{d}/twin/update/document")) == 2
    assert len(room.outbox.messages) == 2


async def test_the_delta_covers_the_whole_device_after_every_update(room: Room, d: str) -> None:
    """TWIN-8"""
    await room.send(f"{d}/twin/update", report("on"))

    [delta] = room.broker.take(f"{d}/twin/update/delta")
    assert delta["delta"] == {"setpoint": "900"}
    assert set(delta["twin"]) == {"setpoint"}
    assert delta["event_id"] not in ("", "e1")


async def test_no_delta_is_sent_when_nothing_is_pending(room: Room, d: str) -> None:
    """TWIN-8"""
    await room.send(f"{d}/twin/update", {"event_id": "e", "twin": {"setpoint": {"actual": {"value": "900"}}}})

    assert room.broker.take(f"{d}/twin/update/delta") == []


async def test_answers_leave_in_kubeedges_order(room: Room, d: str) -> None:
    """TWIN-10"""
    await room.send(f"{d}/twin/update", report("on"))

    own = [
        topic.removeprefix(f"{d}/twin/update/")
        for topic, _ in room.broker.sent
        if topic.startswith(f"{d}/twin/update/")
    ]
    assert own == ["result", "document", "delta"]


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (b"{", 400, topics.REASON_UNMARSHAL),
        ({"event_id": "e1"}, 400, "Update twin error, key:twin does not exist"),
        ({"event_id": "e1", "twin": {"bad key": {"actual": {"value": "1"}}}}, 400, REASON_KEY),
        ({"event_id": "e1", "twin": {"lamp": {"actual": {"value": "a b"}}}}, 400, REASON_VALUE),
        ({"event_id": "e1", "twin": {"lamp": {"actual": {"value": '{"a":1}'}}}}, 400, REASON_VALUE),
        (report("x", metadata={"type": "int"}), 400, "the value is not int or integer"),
        (report("x", metadata={"type": "integer"}), 400, "the value is not int or integer"),
        (report("x", metadata={"type": "float"}), 400, "the value is not float"),
        (report("TRUE", metadata={"type": "boolean"}), 400, "the bool value must be true or false"),
        (report("1", metadata={"type": "double"}), 400, "the value type is not allowed"),
        (report("1", metadata={"type": "bytes"}), 400, "the value type is not allowed"),
        (report("1", metadata={"type": "Int"}), 400, "the value type is not allowed"),
        ({"event_id": "e1", "twin": {"ghost": None}}, 400, "the request body is wrong"),
    ],
)
async def test_refusals_have_kubeedges_codes_and_reasons(room: Room, d: str, body: Any, code: int, reason: str) -> None:
    await room.send(f"{d}/twin/update", body)

    [answer] = room.broker.take(f"{d}/twin/update/result")
    assert answer["code"] == code
    assert answer["reason"].startswith(reason)  # we add which field it is
    assert room.broker.take(f"{d}/twin/update/document") == []
    assert room.outbox.messages == []


async def test_an_update_of_an_unknown_device_is_404(room: Room) -> None:
    await room.send("$hw/events/device/default/nobody/twin/update", report("1"))

    [answer] = room.broker.take("$hw/events/device/default/nobody/twin/update/result")
    assert (answer["code"], answer["reason"]) == (404, "update rejected due to the device is not existed")


# state


@pytest.mark.parametrize("state", ["online", "offline", "ok", "unknown", "unhealthy", "Online", "OFFLINE"])
async def test_state_update_answers_with_the_state_in_its_own_case(room: Room, d: str, state: str) -> None:
    """TWIN-14"""
    await room.send(f"{d}/state/update", {"event_id": "e1", "state": state})

    [answer] = room.broker.take(f"{d}/state/update/result")
    assert (answer["device"]["name"], answer["device"]["state"]) == ("kiln", state)
    assert ("lastOnlineTime" in answer["device"]) is (state.lower() in ("online", "ok"))
    assert room.status()["state"] == state


# membership


async def test_membership_get_lists_the_devices_without_twins(room: Room) -> None:
    await room.send(f"{N}/membership/get", {"event_id": "e1"})

    [answer] = room.broker.take(f"{N}/membership/get/result")
    [entry] = answer["devices"]
    assert answer["event_id"] == "e1"
    assert set(entry) == {"id", "name", "description", "state", "last_online", "attributes"}
    assert (entry["id"], entry["name"]) == ("default/kiln", "kiln")


async def test_membership_get_with_a_broken_body_is_400(room: Room) -> None:
    await room.send(f"{N}/membership/get", b"[")

    assert room.broker.take(f"{N}/membership/get/result")[0]["code"] == 400


async def test_membership_updated_tells_each_device_that_comes_and_goes(room: Room) -> None:
    await room.put(device("oven", uid="u-9"))
    [added] = room.broker.take(f"{N}/membership/updated")
    await room.remove("oven")
    [removed] = room.broker.take(f"{N}/membership/updated")

    assert added["event_id"]
    assert (added["added_devices"][0]["id"], added["removed_devices"]) == ("default/oven", None)
    assert (removed["added_devices"], removed["removed_devices"][0]["id"]) == (None, "default/oven")


async def test_membership_detail_shows_twins_with_versions(room: Room) -> None:
    await room.send(f"{N}/membership/detail", {"event_id": "e1"})

    [answer] = room.broker.take(f"{N}/membership/detail/result")
    assert answer["devices"][0]["twin"]["setpoint"]["expected_version"] == {"cloud": 1, "edge": 0}


async def test_changed_labels_are_attributes_on_updated(room: Room, d: str) -> None:
    labelled = device(desired={"setpoint": "900"})
    labelled["metadata"]["labels"] = {"hall": "north"}
    await room.put(labelled)
    del labelled["metadata"]["labels"]
    await room.put({**labelled, "metadata": {**labelled["metadata"], "labels": {}}})

    first, second = room.broker.take(f"{d}/updated")
    assert first["attributes"] == {"hall": {"value": "north", "optional": True, "metadata": {"type": "string"}}}
    assert second["attributes"] == {"hall": None}


# what is mended


async def test_mended_desired_values_of_the_cloud_are_sent_as_delta(room: Room, d: str) -> None:
    """TWIN-8"""
    await room.put(device(generation=2, desired={"setpoint": "950"}))

    [delta] = room.broker.take(f"{d}/twin/update/delta")
    assert delta["delta"] == {"setpoint": "950"}
    [document] = room.broker.take(f"{d}/twin/update/document")
    assert document["twin"]["setpoint"]["last"]["expected"]["value"] == "900"


async def test_mended_a_body_that_cannot_be_read_is_answered_on_the_devices_own_topic(room: Room, d: str) -> None:
    """TWIN-11"""
    await room.send(f"{d}/twin/update", b'{"event_id":"e7","twin":5}')

    [answer] = room.broker.take(f"{d}/twin/update/result")
    assert (answer["event_id"], answer["code"]) == ("e7", 400)
    assert not any("device//" in topic for topic, _ in room.broker.sent)


async def test_mended_identity_is_read_by_position(room: Room) -> None:
    """TWIN-11"""
    odd = device("twin", uid="u-8")
    odd["metadata"]["namespace"] = "device"
    odd["spec"].pop("deviceModelRef")
    await room.put(odd)

    await room.send("$hw/events/device/device/twin/twin/update", report("on"))

    assert room.broker.take("$hw/events/device/device/twin/twin/update/result")[0]["event_id"] == "e1"


@pytest.mark.parametrize(
    ("state", "name", "code"), [("asleep", "kiln", 400), ("", "kiln", 400), ("online", "nobody", 404)]
)
async def test_mended_an_unknown_state_or_device_is_answered(room: Room, state: str, name: str, code: int) -> None:
    """TWIN-11, TWIN-14"""
    topic = f"$hw/events/device/default/{name}/state/update"
    await room.send(topic, {"event_id": "e1", "state": state})

    [answer] = room.broker.take(f"{topic}/result")
    assert (answer["event_id"], answer["code"]) == ("e1", code)


async def test_mended_the_state_answer_echoes_the_event_id(room: Room, d: str) -> None:
    """TWIN-11"""
    await room.send(f"{d}/state/update", {"event_id": "e1", "state": "online"})

    assert room.broker.take(f"{d}/state/update/result")[0]["event_id"] == "e1"


async def test_mended_state_get_has_an_answer(room: Room, d: str) -> None:
    """TWIN-11"""
    await room.send(f"{d}/state/get", {"event_id": "e1"})

    [answer] = room.broker.take(f"{d}/state/get/result")
    assert (answer["event_id"], answer["device"]) == ("e1", {"name": "kiln", "state": "unknown"})


async def test_mended_cloud_updated_from_a_local_client_is_refused(room: Room, d: str) -> None:
    """TWIN-9"""
    await room.send(f"{d}/twin/cloud_updated", {"event_id": "e1", "twin": {"setpoint": {"expected": {"value": "1"}}}})

    [answer] = room.broker.take(f"{d}/twin/cloud_updated/result")
    assert (answer["event_id"], answer["code"], answer["reason"]) == ("e1", 400, topics.REASON_CLOUD_ONLY)
    assert room.twin("setpoint")["observedDesired"]["value"] == "900"


async def test_mended_a_device_list_from_a_local_client_is_refused(room: Room) -> None:
    """TWIN-9"""
    await room.send(f"{N}/membership/detail", {"event_id": "e1", "devices": [{"id": "x"}]})

    assert room.broker.take(f"{N}/membership/detail/result")[0]["code"] == 400
    assert len(room.controller.entries) == 1


async def test_mended_an_update_is_accepted_whole_or_not_at_all(room: Room, d: str) -> None:
    """TWIN-7"""
    twin = {"lamp": {"actual": {"value": "on"}}, "setpoint": {"actual": {"value": "hot"}}}
    await room.send(f"{d}/twin/update", {"event_id": "e1", "twin": twin})

    assert room.broker.take(f"{d}/twin/update/result")[0]["code"] == 400
    await room.send(f"{d}/twin/get", {"event_id": "e2"})
    assert "lamp" not in room.broker.take(f"{d}/twin/get/result")[0]["twin"]


async def test_mended_a_device_that_comes_back_online_hears_its_delta_again(room: Room, d: str) -> None:
    """TWIN-8"""
    await room.send(f"{d}/state/update", {"event_id": "e1", "state": "online"})

    assert room.broker.take(f"{d}/twin/update/delta")[0]["delta"] == {"setpoint": "900"}


async def test_mended_the_answer_comes_when_twin_status_and_history_are_on_disk(tmp_path: Path, d: str) -> None:
    """TWIN-10"""
    async with open_room(tmp_path) as first:
        await first.put(MODEL, device())
        await first.send(f"{d}/twin/update", report("on"))
        assert first.broker.take(f"{d}/twin/update/result")[0]["event_id"] == "e1"
        [row] = first.outbox.messages
        assert row[-1] == {"lamp": "on"}

    async with open_room(tmp_path) as again:
        await again.send(f"{d}/twin/get", {"event_id": "e2"})

        [answer] = again.broker.take(f"{d}/twin/get/result")
    assert answer["twin"]["lamp"]["actual"]["value"] == "on"


async def test_mended_expected_is_checked_where_there_was_none_before(room: Room, d: str) -> None:
    """TWIN-12"""
    twin = {"lit": {"expected": {"value": "maybe"}}}
    await room.send(f"{d}/twin/update", {"event_id": "e1", "twin": twin})

    [answer] = room.broker.take(f"{d}/twin/update/result")
    assert (answer["code"], answer["reason"].partition(" (")[0]) == (400, "the bool value must be true or false")


async def test_mended_a_value_has_the_time_that_the_device_says(room: Room, d: str) -> None:
    """TWIN-11"""
    own = {"value": "5", "metadata": {"timestamp": T - 1}}
    twin = {"setpoint": {"actual": own}, "temperature": {"actual": {"value": "20"}}}
    await room.send(f"{d}/twin/update", {"event_id": "e1", "timestamp": T, "twin": twin})

    [answer] = room.broker.take(f"{d}/twin/update/result")
    assert answer["twin"]["setpoint"]["actual"]["metadata"]["timestamp"] == T - 1
    assert answer["twin"]["temperature"]["actual"]["metadata"]["timestamp"] == T


async def test_mended_a_desired_value_of_any_characters_can_be_reported_back(room: Room, d: str) -> None:
    """TWIN-12"""
    await room.put(device(generation=2, desired={"mode": "très doux"}))

    await room.send(f"{d}/twin/update", {"event_id": "e1", "twin": {"mode": {"actual": {"value": "très doux"}}}})

    assert "code" not in room.broker.take(f"{d}/twin/update/result")[0]
    assert room.condition("Synced")["status"] == "True"


async def test_mended_null_for_a_twin_that_is_not_optional_is_refused(room: Room, d: str) -> None:
    """TWIN-6"""
    await room.send(f"{d}/twin/update", report("on", optional=False))
    room.broker.sent.clear()

    await room.send(f"{d}/twin/update", {"event_id": "e2", "twin": {"lamp": None}})

    assert room.broker.take(f"{d}/twin/update/result")[0]["code"] == 400


async def test_mended_the_first_report_of_a_property_counts(room: Room, d: str) -> None:
    """TWIN-10"""
    await room.send(f"{d}/twin/update", report("on"))

    await room.controller.settled()
    assert room.outbox.messages[0][-1] == {"lamp": "on"}


async def test_mended_a_device_that_comes_is_announced_with_its_twins(room: Room) -> None:
    """TWIN-8"""
    await room.put(device("oven", uid="u-9", desired={"setpoint": "700"}))

    [added] = room.broker.take(f"{N}/membership/updated")
    assert added["added_devices"][0]["twin"]["setpoint"]["expected"]["value"] == "700"


async def test_other_topics_are_acknowledged_and_counted(room: Room) -> None:
    await room.send("$hw/events/device/default/kiln/twin/update/delta", b"{}")

    assert room.broker.sent == []
    assert 'skerry_edge_device_ignored_total{reason="no request topic"} 1' in room.metrics.render()
