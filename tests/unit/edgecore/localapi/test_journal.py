"""Writes at the node: stored, kept for the cloud, answered; what the cloud says meanwhile waits."""

import asyncio
from typing import Any

import pytest

from edgecore.kinds import DEVICE, WRITE_CONFLICT
from edgecore.localapi import journal as offline_writes
from kubeapi.errors import ApiError
from kubeapi.kinds import CONFIG_MAP, EVENT, LEASE, POD
from proto import labels
from proto.kit.errors import StorageFull
from proto.link.settings import LinkSettings
from proto.writes import APPLIED, CONFLICT, WriteResult
from tests.unit.edgecore.localapi.conftest import LocalNode, config_map, pod

KEY = "core/configmaps/default/a"
POD_KEY = "core/pods/default/p"


def pending(obj: object) -> str | None:
    assert isinstance(obj, dict)
    found = (obj["metadata"].get("annotations") or {}).get(labels.PENDING)
    return found if found is None else str(found)


async def held(node: LocalNode, **data: str) -> None:
    """An object that came from the cloud."""
    await node.cloud_says(KEY, config_map(uid="cloud-1", **data))


async def test_a_write_is_in_store_journal_and_outbox_or_in_none(node: LocalNode) -> None:  # LOCAL-4
    await node.create(CONFIG_MAP, config_map(x="1"))
    (write,) = node.sent()
    assert (write.verb, write.key, write.mine["data"], write.seq) == ("create", KEY, {"x": "1"}, 1)
    assert node.journalled() == [(1, "")]

    node.outbox.closed = "the disk is full"
    with pytest.raises(StorageFull):
        await node.patch(CONFIG_MAP, "a", {"data": {"x": "2"}})

    found = node.get(CONFIG_MAP, "a")
    assert found is not None
    assert (found["data"], node.journalled(), len(node.sent())) == ({"x": "1"}, [(1, "")], 1)


async def test_the_sign_of_a_waiting_write_is_seen_here_and_never_sent(node: LocalNode) -> None:  # LOCAL-5
    await node.create(CONFIG_MAP, config_map(x="1"))
    changed = await node.patch(CONFIG_MAP, "a", {"data": {"x": "2"}})

    assert pending(changed) == "2"
    assert all(labels.PENDING not in str(write) for write in node.sent())
    assert (node.sent()[1].mine, node.sent()[1].base) == ({"data": {"x": "2"}}, {"data": {"x": "1"}})


async def test_a_change_of_nothing_is_no_write(node: LocalNode) -> None:
    await held(node, x="1")
    await node.patch(CONFIG_MAP, "a", {"data": {"x": "1"}})
    assert node.sent() == []


async def test_what_the_cloud_says_meanwhile_waits_and_a_version_without_the_write_is_older(node: LocalNode) -> None:
    await held(node, x="1", y="1")  # LOCAL-7
    await node.patch(CONFIG_MAP, "a", {"data": {"x": "2"}})
    await node.cloud_says(KEY, config_map(uid="cloud-1", x="1", y="5"))
    assert (node.get(CONFIG_MAP, "a") or {})["data"] == {"x": "2", "y": "1"}

    (write,) = node.sent()
    answer = node.marked(config_map(uid="cloud-1", x="2", y="5"), write)
    await node.cloud_answers(WriteResult(1, KEY, APPLIED, object=answer))

    found = node.get(CONFIG_MAP, "a")
    assert found is not None
    assert (found["data"], pending(found), node.journalled()) == ({"x": "2", "y": "5"}, None, [])


async def test_a_parked_version_that_has_the_write_is_newer_than_its_answer(node: LocalNode) -> None:  # LOCAL-7
    await held(node, x="1")
    await node.patch(CONFIG_MAP, "a", {"data": {"x": "2"}})
    (write,) = node.sent()
    await node.cloud_says(KEY, node.marked(config_map(uid="cloud-1", x="9"), write))

    answer = node.marked(config_map(uid="cloud-1", x="2"), write)
    await node.cloud_answers(WriteResult(1, KEY, APPLIED, object=answer))

    assert (node.get(CONFIG_MAP, "a") or {})["data"] == {"x": "9"}


async def test_the_local_version_stays_until_the_last_answer(node: LocalNode) -> None:  # LOCAL-7
    await held(node, x="1")
    await node.patch(CONFIG_MAP, "a", {"data": {"x": "2"}})
    await node.patch(CONFIG_MAP, "a", {"data": {"x": "3"}})
    first, second = node.sent()

    await node.cloud_answers(WriteResult(1, KEY, APPLIED, object=node.marked(config_map(uid="cloud-1", x="2"), first)))
    assert (node.get(CONFIG_MAP, "a") or {})["data"] == {"x": "3"}
    await node.cloud_answers(WriteResult(2, KEY, APPLIED, object=node.marked(config_map(uid="cloud-1", x="3"), second)))

    assert node.journalled() == []
    assert pending(node.get(CONFIG_MAP, "a")) is None


async def test_a_conflict_shows_the_clouds_version_and_keeps_ours(node: LocalNode) -> None:  # LOCAL-11
    await held(node, x="1")
    await node.patch(CONFIG_MAP, "a", {"data": {"x": "2"}})
    theirs = config_map(uid="cloud-1", x="7")
    await node.cloud_says(KEY, theirs)
    result = WriteResult(1, KEY, CONFLICT, "FieldChanged", "changed, too: data.x", theirs, "default/gw-1-x-1")
    await node.cloud_answers(result)

    assert (node.get(CONFIG_MAP, "a") or {})["data"] == {"x": "7"}
    spec = (node.store.get(WRITE_CONFLICT, "default", "gw-1-x-1") or {})["spec"]
    assert (spec["mine"]["data"], spec["theirs"]["data"]) == ({"x": "2"}, {"x": "7"})
    assert [event["reason"] for event in node.store.list(EVENT, None)] == ["WriteConflict"]
    assert node.journalled() == [(1, CONFLICT)]

    await node.delete(WRITE_CONFLICT, "gw-1-x-1")
    assert node.journalled() == [(2, "")]  # the deletion itself is a write


async def test_a_conflict_that_is_dropped_in_the_cloud_is_dropped_here(node: LocalNode) -> None:
    await node.create(CONFIG_MAP, config_map(x="1"))
    await node.cloud_answers(WriteResult(1, KEY, CONFLICT, "AlreadyExists", "made, too", None, "default/gw-1-x-1"))
    await node.cloud_says("edge.skerry.io/writeconflicts/default/gw-1-x-1", None)
    assert node.journalled() == []
    assert node.store.get(WRITE_CONFLICT, "default", "gw-1-x-1") is None


async def test_a_refused_creation_goes_and_a_refused_deletion_comes_back(node: LocalNode) -> None:
    await node.create(CONFIG_MAP, config_map(x="1"))
    await node.cloud_answers(WriteResult(1, KEY, "refused", "Forbidden", "no", None, "default/gw-1-x-1"))
    assert node.get(CONFIG_MAP, "a") is None

    await held(node, x="5")
    await node.delete(CONFIG_MAP, "a")
    assert node.get(CONFIG_MAP, "a") is None
    await node.cloud_answers(WriteResult(2, KEY, "refused", "Forbidden", "no", None, "default/gw-1-x-2"))
    assert (node.get(CONFIG_MAP, "a") or {})["data"] == {"x": "5"}


async def test_an_answer_that_comes_twice_changes_nothing_the_second_time(node: LocalNode) -> None:  # LOCAL-10
    await node.create(CONFIG_MAP, config_map(x="1"))
    (write,) = node.sent()
    answer = node.marked(config_map(uid="cloud-1", x="1"), write)
    await node.cloud_answers(WriteResult(1, KEY, APPLIED, object=answer), times=2)
    assert (node.journal.waiting, node.journalled()) == (0, [])


async def test_a_restart_forgets_no_write_and_counts_on(node: LocalNode) -> None:  # LOCAL-10
    await node.create(CONFIG_MAP, config_map(x="1"))
    again = LocalNode(node.db, node.store, node.clock, LinkSettings())

    assert again.journal.waiting == 1
    await again.patch(CONFIG_MAP, "a", {"data": {"x": "2"}})
    assert [(write.seq, write.verb) for write in again.sent()] == [(1, "create"), (2, "patch")]
    assert len({write.journal for write in again.sent()}) == 1


async def test_a_pod_keeps_its_uid_when_the_cloud_has_made_it_and_other_kinds_take_the_clouds(node: LocalNode) -> None:
    made = await node.create(POD, pod())  # LOCAL-8
    (write,) = node.sent()
    assert labels.cloud_uid(made["metadata"]) == ""
    told: list[str] = []
    node.journal.adopted = lambda: told.append("adopted")
    await node.cloud_answers(
        WriteResult(1, POD_KEY, APPLIED, object=node.marked(pod(uid="cloud-9", **made["spec"]), write))
    )

    found = node.get(POD, "p")
    assert found is not None
    assert (found["metadata"]["uid"], labels.cloud_uid(found["metadata"])) == (made["metadata"]["uid"], "cloud-9")
    assert told == ["adopted"]
    await node.patch(POD, "p", {"metadata": {"labels": {"a": "b"}}})
    assert node.sent()[-1].uid == "cloud-9"

    other = await node.create(CONFIG_MAP, config_map(x="1"))
    result = WriteResult(3, KEY, APPLIED, object=node.marked(config_map(uid="cloud-1", x="1"), node.sent()[-1]))
    await node.cloud_answers(result)
    assert other["metadata"]["uid"] != (node.get(CONFIG_MAP, "a") or {})["metadata"]["uid"] == "cloud-1"


async def test_another_pod_of_the_same_name_is_another_pod(node: LocalNode) -> None:  # LOCAL-8
    await node.create(POD, pod())
    (write,) = node.sent()
    await node.cloud_answers(
        WriteResult(1, POD_KEY, APPLIED, object=node.marked(pod(uid="c-1", nodeName="gw-1"), write))
    )

    await node.cloud_says(POD_KEY, pod(uid="c-2", nodeName="gw-1"))

    assert (node.get(POD, "p") or {})["metadata"]["uid"] == "c-2"


async def test_a_refused_change_of_a_device_leaves_the_twin_what_the_cloud_asks(node: LocalNode) -> None:  # LOCAL-11
    key = "devices.kubeedge.io/devices/default/kiln"

    def kiln(value: str, generation: int) -> dict[str, Any]:
        metadata = {"name": "kiln", "namespace": "default", "uid": "u", "generation": generation}
        wanted = [{"name": "temp", "desired": {"value": value}}]
        return {
            "apiVersion": DEVICE.api_version,
            "kind": "Device",
            "metadata": metadata,
            "spec": {"properties": wanted},
        }

    await node.cloud_says(key, kiln("20", 5))
    for value in ("30", "40", "50"):
        changed = await node.patch(DEVICE, "kiln", {"spec": kiln(value, 0)["spec"]})
        assert changed["metadata"]["generation"] == 5
    await node.cloud_says(key, kiln("25", 6))
    for seq in (1, 2, 3):
        await node.cloud_answers(WriteResult(seq, key, CONFLICT, "FieldChanged", "no", None, f"default/w-{seq}"))
    assert (node.get(DEVICE, "kiln") or {})["metadata"]["generation"] == 6


async def test_leases_stay_at_the_node(node: LocalNode) -> None:  # LOCAL-9
    lease = {"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": {"name": "l", "namespace": "default"}}
    await node.create(LEASE, {**lease, "spec": {"holderIdentity": "me"}})
    assert node.sent() == []


async def test_quotas_drop_no_write_and_too_many_are_refused(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # LOCAL-13
    await node.create(CONFIG_MAP, config_map(x="1"))
    for _ in range(40):
        await node.db.tx(lambda tx: node.outbox.put_message(tx, "history", b"x" * 1000))
    assert [write.seq for write in node.sent()] == [1]

    monkeypatch.setattr(offline_writes, "MAX_WAITING", 1)
    with pytest.raises(ApiError, match="wait for the cloud already") as refused:
        await node.create(CONFIG_MAP, config_map("b"))
    assert refused.value.status == 429
    assert node.get(CONFIG_MAP, "b") is None


async def test_a_write_that_the_cloud_has_and_does_not_answer_is_sent_again(node: LocalNode) -> None:
    await node.create(CONFIG_MAP, config_map(x="1"))
    await node.db.tx(lambda tx: node.outbox.settle(tx, [], node.outbox.bounds()[1]))
    assert node.sent() == []

    task = asyncio.ensure_future(node.journal.run(node.db, lambda: True))
    try:
        for _ in range(3):
            await asyncio.sleep(0)
            node.clock.advance(offline_writes.ASK_AGAIN_S)
            await asyncio.sleep(0)
            await node.db.tx(lambda _: None)
    finally:
        task.cancel()

    assert [write.seq for write in node.sent()] == [1]
