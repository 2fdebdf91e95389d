"""The judge of the chaos runs: it must see each kind of wrong, or its zeros mean nothing."""

from collections import Counter

from tests.chaos.ledger import judge
from tests.kit.mqtt_device import MqttDevice


def device(acknowledged: set[int], sent: list[int]) -> MqttDevice:
    it = MqttDevice("press", port=1)
    it.acknowledged = acknowledged
    it.published = Counter(sent)
    it.sent = sent
    return it


def test_a_whole_history_in_order_is_clean() -> None:
    verdict = judge(device({1, 2, 3}, [1, 2, 3, 2]), [1, 2, 3, 2], after=0)

    assert verdict.clean
    assert verdict.acknowledged == 3


def test_an_acknowledged_number_that_is_missing_is_lost() -> None:
    assert judge(device({1, 2, 3}, [1, 2, 3]), [1, 3], after=0).lost == ["press:2"]


def test_a_number_stored_more_often_than_sent_is_doubled() -> None:
    assert judge(device({1, 2}, [1, 2]), [1, 2, 2], after=0).doubled == ["press:2"]


def test_a_first_arrival_before_an_older_one_is_out_of_order() -> None:
    assert judge(device({1, 2, 3}, [1, 2, 3]), [1, 3, 2], after=0).disordered == ["press:2 after 3"]


def test_a_refused_reading_stands_where_it_was_sent_again() -> None:
    again = device({1, 2, 3}, [1, 2, 3, 2, 3])

    assert judge(again, [1, 3, 2, 3], after=0).clean
    assert judge(again, [1, 3, 2], after=0).clean
    assert judge(again, [2, 1, 3], after=0).disordered[0] == "press:1 after 2"


def test_what_an_earlier_episode_judged_is_not_judged_again() -> None:
    verdict = judge(device({1, 2, 3}, [1, 2, 3]), [2, 3], after=1)

    assert verdict.clean
    assert verdict.acknowledged == 2
