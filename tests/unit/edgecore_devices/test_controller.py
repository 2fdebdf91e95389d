"""The controller: twins from the store and from MQTT, committed before anybody hears (TWIN-10)."""

from contextlib import suppress
from pathlib import Path

import pytest

from edgecore.devices.controller import MAX_WAITING
from edgecore.devices.twins import FLOOR, load
from proto.kit.errors import Retryable, StorageFull
from tests.kit.wait import eventually
from tests.unit.edgecore_devices.room import KILN, MODEL, device, open_room

D = "$hw/events/device/default/kiln"


async def test_a_report_reaches_status_history_and_outbox_in_one_transaction(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())

        await room.send(f"{D}/twin/update", {"event_id": "e1", "twin": {"temperature": {"actual": {"value": "812.5"}}}})

        assert room.twin("temperature")["reported"]["value"] == "812.5"
        [(namespace, name, uid, _, version, values)] = room.outbox.messages
        assert (namespace, name, uid, values) == ("default", "kiln", "u-1", {"temperature": "812.5"})
        body = room.outbox.states["devices.kubeedge.io/devicestatuses/default/kiln"]
        assert body["uid"] == "u-1"
        assert body["version"] == version
        assert body["status"] == room.status()


async def test_a_new_desired_value_is_sent_as_delta_and_ends_when_reported(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        await room.put(device(generation=2, desired={"setpoint": "900"}))

        [delta] = room.broker.take(f"{D}/twin/update/delta")
        assert delta["delta"] == {"setpoint": "900"}
        assert room.condition("Pending")["status"] == "True"

        await room.send(f"{D}/twin/update", {"event_id": "e", "twin": {"setpoint": {"actual": {"value": "900"}}}})

        assert room.broker.take(f"{D}/twin/update/delta") == []
        assert room.condition("Synced")["status"] == "True"


async def test_many_reports_at_once_share_one_transaction(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        before = room.db.transactions

        done = [
            room.controller.receive(f"{D}/twin/update", b'{"twin":{"temperature":{"actual":{"value":"%d"}}}}' % n)
            for n in range(50)
        ]
        for future in done:
            await future

        assert room.db.transactions == before + 1
        assert [row[5] for row in room.outbox.messages] == [{"temperature": str(n)} for n in range(50)]
        assert room.twin("temperature")["reported"]["value"] == "49"


async def test_twins_and_overrides_survive_a_restart(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device(desired={"setpoint": "900"}))
        twin = {"setpoint": {"expected": {"value": "950"}, "actual": {"value": "900"}}}
        await room.send(f"{D}/twin/update", {"event_id": "e", "twin": twin})
        status = room.status()

    async with open_room(tmp_path) as room:
        assert room.status() == status
        assert room.controller.pending(KILN) == {"setpoint": "950"}
        assert room.controller.entries[KILN].twin.counter == status["extensions"]["version"]
        assert room.outbox.state_writes == 0


async def test_a_device_made_again_inherits_nothing(tmp_path: Path) -> None:
    """TWIN-1"""
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": "1"}}}})

        await room.remove("kiln")
        assert room.status() == {}
        await room.put(device(uid="u-2"))

        assert room.twin("temperature") == {}
        assert set(room.db.read(load)) - {FLOOR} == {"u-2"}


async def test_a_device_replaced_while_edgecore_was_down_inherits_nothing(tmp_path: Path) -> None:
    """TWIN-1"""
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": "1"}}}})
        room.controller._device_changed = lambda _event: None  # type: ignore[method-assign,assignment]
        room.store._listeners.clear()
        await room.put(device(uid="u-2"))

    async with open_room(tmp_path) as room:
        assert room.twin("temperature") == {}
        assert set(room.db.read(load)) - {FLOOR} == {"u-2"}
        assert room.outbox.states["devices.kubeedge.io/devicestatuses/default/kiln"]["uid"] == "u-2"


async def test_a_full_disk_answers_500_gives_no_puback_and_changes_nothing(tmp_path: Path) -> None:
    """TWIN-2, TWIN-10"""
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": "1"}}}})
        counter = room.controller.entries[KILN].twin.counter
        room.outbox.full = True
        room.broker.take(f"{D}/twin/update/result")

        with pytest.raises(StorageFull):
            await room.send(f"{D}/twin/update", {"event_id": "e", "twin": {"temperature": {"actual": {"value": "2"}}}})

        [result] = room.broker.take(f"{D}/twin/update/result")
        assert (result["event_id"], result["code"]) == ("e", 500)
        assert room.twin("temperature")["reported"]["value"] == "1"
        room.outbox.full = False
        await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": "3"}}}})
        assert room.controller.entries[KILN].twin.counter > counter + 1
        assert [row[5]["temperature"] for row in room.outbox.messages] == ["1", "3"]


async def test_a_property_kept_on_the_node_leaves_neither_status_nor_history(tmp_path: Path) -> None:
    """TWIN-16"""
    async with open_room(tmp_path) as room:
        spec = device()
        spec["spec"]["properties"][0]["reportToCloud"] = False
        await room.put(MODEL, spec)

        await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": "1"}}}})

        assert room.twin("temperature") == {}
        assert room.outbox.messages == []
        await room.send(f"{D}/twin/get", {"event_id": "g"})
        assert room.broker.take(f"{D}/twin/get/result")[0]["twin"]["temperature"]["actual"]["value"] == "1"


async def test_the_same_devices_serve_with_no_cloud_after_a_cold_boot(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device(desired={"setpoint": "900"}))

    async with open_room(tmp_path) as room:
        await room.send(f"{D}/twin/update", {"event_id": "e", "twin": {"setpoint": {"actual": {"value": "900"}}}})
        assert room.condition("Synced")["status"] == "True"


async def test_a_status_lost_in_a_crash_before_its_write_is_written_at_the_next_start(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        room.controller._statuses.take = lambda batch: None  # type: ignore[method-assign]
        await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": "1"}}}})
        assert room.twin("temperature") == {}

    async with open_room(tmp_path) as room:
        assert room.twin("temperature")["reported"]["value"] == "1"
        assert "devices.kubeedge.io/devicestatuses/default/kiln" in room.outbox.states


async def test_statuses_for_the_links_repair_are_the_bodies_that_were_sent(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": "1"}}}})
        [(key, body)] = room.controller.statuses().items()
        from proto.kit import canonical

        assert canonical.decode(body) == room.outbox.states[key]


async def test_a_model_that_arrives_after_its_device_is_applied(tmp_path: Path) -> None:
    """TWIN-13"""
    async with open_room(tmp_path) as room:
        await room.put(device(desired={"setpoint": "900"}))
        assert room.condition("Invalid")["message"] == "device model thermostat is not on this node yet"
        assert room.controller.pending(KILN) == {}

        await room.put(MODEL)

        assert room.controller.pending(KILN) == {"setpoint": "900"}
        assert room.condition("Invalid")["status"] == "False"


async def test_a_desired_value_that_the_model_refuses_is_not_sent_and_says_why(tmp_path: Path) -> None:
    """TWIN-13"""
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device(desired={"setpoint": "2000"}))

        assert room.condition("Invalid") | {"lastTransitionTime": ""} == {
            "type": "Invalid",
            "status": "True",
            "reason": "Refused",
            "message": "desired value '2000' of setpoint is refused: the value 2000 of setpoint is above its maximum 1300",
            "lastTransitionTime": "",
        }
        assert room.broker.take(f"{D}/twin/update/delta") == []


async def test_an_apps_expected_is_no_sign_of_life_of_the_device(tmp_path: Path) -> None:
    """TWIN-14"""
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())

        await room.send(f"{D}/twin/update", {"twin": {"setpoint": {"expected": {"value": "5"}}}})
        assert room.status()["state"] == "unknown"

        await room.send(f"{D}/twin/update", {"twin": {"setpoint": {"actual": {"value": "5"}}}})
        assert room.status()["state"] == "online"


async def test_a_flood_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())

        futures = [room.controller.receive(f"{D}/twin/get", b"{}") for _ in range(MAX_WAITING + 5)]

        assert [f.done() for f in futures].count(True) == 5
        with pytest.raises(Retryable):
            await futures[-1]
        await futures[0]


async def test_a_device_whose_arrival_could_not_be_committed_is_taken_up_again(tmp_path: Path) -> None:
    """TWIN-10"""
    async with open_room(tmp_path) as room:
        room.outbox.full = True
        with suppress(StorageFull):
            await room.put(MODEL, device(desired={"setpoint": "900"}))
        await eventually(lambda: "commits_failed_total 0" not in room.metrics.render())
        assert KILN not in room.controller.entries
        assert room.broker.take(f"{D}/twin/update/delta") == []

        room.outbox.full = False

        await eventually(room.status)
        assert room.controller.pending(KILN) == {"setpoint": "900"}
        assert len(room.broker.take(f"{D}/twin/update/delta")) == 1


async def test_what_a_mapper_said_while_the_disk_was_full_is_not_forgotten(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        room.outbox.full = True
        room.controller.mapper_says(KILN, "offline", error="no carrier")
        with pytest.raises(StorageFull):
            await room.controller.settled()
        room.controller.mapper_says(KILN, "online")
        with pytest.raises(StorageFull):
            await room.controller.settled()

        room.outbox.full = False

        await eventually(lambda: room.status()["state"] == "online")
        assert room.condition("Stale")["status"] == "Unknown"


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_device_that_comes_back_to_its_node_counts_on(tmp_path: Path, restarted: bool) -> None:
    """TWIN-2"""
    async with open_room(tmp_path) as room:
        await room.put(MODEL, device())
        for value in range(5):
            await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": str(value)}}}})
        before = room.status()["extensions"]["version"]
        await room.remove("kiln")
        if not restarted:
            await room.put(device())
            assert room.status()["extensions"]["version"] >= before
            return

    async with open_room(tmp_path) as room:
        await room.put(device())
        assert room.twin("temperature") == {}
        assert room.status()["extensions"]["version"] >= before
