"""KubeEdge's topics by position, payloads by shape (TWIN-11)."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicetwin import topics
from devicetwin.merge import Rejected, Twin
from devicetwin.model import DeviceId
from proto.kit import canonical

LEVEL = st.text(alphabet="abcdehinstuvw0-", min_size=1, max_size=12)
VERBS = st.sampled_from(sorted(topics.DEVICE_VERBS.values()))


@given(LEVEL, LEVEL, VERBS)
def test_two_level_names_round_trip_whatever_they_are_called(namespace: str, name: str, verb: str) -> None:
    device = DeviceId(namespace, name)

    request = topics.parse(topics.device_topic(device, verb))

    assert request == topics.Request(verb, device)


@given(LEVEL, VERBS)
def test_one_level_names_are_in_the_default_namespace(name: str, verb: str) -> None:
    request = topics.parse(f"$hw/events/device/{name}/{verb}")

    assert request is not None
    assert request.device == DeviceId("default", name)
    assert request.result_topic() == f"$hw/events/device/{name}/{verb}/result"


@pytest.mark.parametrize("namespace", ["hw", "events", "device", "node", "twin", "e", "state"])
def test_a_namespace_may_be_called_like_a_part_of_the_topic(namespace: str) -> None:
    request = topics.parse(f"$hw/events/device/{namespace}/twin/twin/update")

    assert request is not None
    assert request.device == DeviceId(namespace, "twin")


@pytest.mark.parametrize(
    "topic",
    [
        "$hw/events/device/default/kiln/twin/update/result",
        "$hw/events/device/kiln/twin/update/result",
        "$hw/events/device/default/kiln/twin/update/delta",
        "$hw/events/device/default/kiln/twin/update/document",
        "$hw/events/device/default/kiln/updated",
        "$hw/events/device//kiln/twin/update",
        "$hw/events/device/a/b/c/twin/update",
        "$hw/events/node/gw-1/membership/updated",
        "$hw/events/node/gw-1/membership/get/result",
        "$hw/events/upload/x",
        "$ke/events/device/kiln/data/update",
        "hw/events/device/default/kiln/twin/update",
        "",
    ],
)
def test_answers_and_other_topics_are_no_requests(topic: str) -> None:
    assert topics.parse(topic) is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", topics.REASON_UNMARSHAL),
        (b"{", topics.REASON_UNMARSHAL),
        (b"[]", topics.REASON_UNMARSHAL),
        (b'{"twin":[]}', topics.REASON_UNMARSHAL),
        (b'{"twin":{"t":{"actual":{"value":1}}}}', topics.REASON_UNMARSHAL),
        (b'{"event_id":7,"twin":{}}', topics.REASON_UNMARSHAL),
        (b'{"event_id":"x"}', topics.REASON_NO_TWIN),
        (b'{"twin":null}', topics.REASON_NO_TWIN),
        (b"\xff\xfe", topics.REASON_UNMARSHAL),
        (b'{"event_id":"\xff","twin":{}}', topics.REASON_UNMARSHAL),
        (b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"twin":{}}', topics.REASON_UNMARSHAL),
    ],
)
def test_a_body_that_cannot_be_read_has_kubeedges_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as refusal:
        topics.decode_update(payload)

    assert refusal.value.status == 400
    assert str(refusal.value).startswith(reason)  # followed by which part of the body it is


@pytest.mark.parametrize(
    ("payload", "event_id"),
    [(b'{"event_id":"e","twin":[]}', "e"), (b'{"event_id":3}', ""), (b"{", ""), (b"[1]", "")],
)
def test_the_event_id_of_an_unreadable_request_is_still_echoed(payload: bytes, event_id: str) -> None:
    assert topics.event_id_of(payload) == event_id


def test_versions_that_an_app_supplies_are_ignored() -> None:
    payload = b'{"event_id":"e","twin":{"t":{"actual":{"value":"1"},"actual_version":{"cloud":9,"edge":9},"x":1}}}'

    [wish] = topics.decode_update(payload).wishes.values()

    assert wish is not None
    assert (wish.reported, wish.expected) == ("1", None)


@pytest.mark.parametrize(
    ("metadata", "sent", "at_ms"),
    [
        ('{"timestamp":1700000000001}', 0, 1700000000001),
        ("null", 1700000000002, 1700000000002),
        ('{"timestamp":1700000000}', 0, 0),
        ('{"timestamp":1700000000000000000}', 0, 0),
        ('{"timestamp":-1}', 0, 0),
    ],
)
def test_only_a_plausible_millisecond_is_believed_as_time_of_a_report(metadata: str, sent: int, at_ms: int) -> None:
    payload = f'{{"timestamp":{sent},"twin":{{"t":{{"actual":{{"value":"1","metadata":{metadata}}}}}}}}}'

    [wish] = topics.decode_update(payload.encode()).wishes.values()

    assert wish is not None
    assert wish.reported_at_ms == at_ms


def test_absent_members_are_left_out_and_event_id_and_timestamp_are_always_there() -> None:
    answer = canonical.decode(topics.get_result("", 0, {"t": Twin("int", reported="5", reported_at_ms=7)}))

    assert answer == {
        "event_id": "",
        "timestamp": 0,
        "twin": {
            "t": {
                "actual": {"value": "5", "metadata": {"timestamp": 7}},
                "optional": True,
                "metadata": {"type": "int"},
            }
        },
    }


def test_kubeedges_version_pairs_are_views_of_generation_and_counter() -> None:
    """TWIN-3, TWIN-4"""
    view = topics.versioned_view(Twin(desired="1", desired_version=4, reported="1", reported_version=9))

    assert view.expected_version == topics.Version(cloud=4, edge=0)
    assert view.actual_version == topics.Version(cloud=0, edge=9)


@given(
    st.one_of(
        st.binary(max_size=64), st.text(alphabet='{}[]":,twineva_dloptsm01 \\\ud7ff', max_size=80).map(str.encode)
    )
)
def test_no_payload_raises_anything_but_a_refusal(payload: bytes) -> None:
    for decode in (topics.decode_update, topics.decode_state, topics.decode_ask):
        with suppress(Rejected):
            decode(payload)
    topics.event_id_of(payload)
    topics.has_devices(payload)
