"""Who may speak for a node: LINK-6, LINK-9, LINK-27."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.frames import Hello
from proto.link.log import NodeRecord
from proto.session import RESTORE_JUMP, Fenced, confirm, judge

CLOUD = "cloud-a"


def hello(disk: str, epoch: int = 0, cloud: str = CLOUD) -> Hello:
    return Hello(connection=1, nonce=1, incarnation=disk, epoch=epoch, cloud=cloud if epoch else "")


def live(disk: str = "one", epoch: int = 5) -> NodeRecord:
    return NodeRecord(disk, CLOUD, epoch, epoch)


def test_a_new_node_gets_its_first_epoch() -> None:
    assert judge(NodeRecord(), hello("one"), CLOUD).granted == 1


def test_the_disk_that_speaks_for_the_node_goes_on() -> None:
    """LINK-6"""
    assert judge(live(), hello("one", 5), CLOUD) == NodeRecord("one", CLOUD, 6, 5)


def test_a_grant_that_never_arrived_does_no_harm() -> None:
    record = judge(live(), hello("one", 5), CLOUD)
    assert judge(record, hello("one", 5), CLOUD).granted == 7


def test_a_copy_with_an_older_epoch_is_fenced() -> None:
    record = confirm(judge(live(), hello("one", 5), CLOUD), "one", 6)
    with pytest.raises(Fenced, match="copy"):
        judge(record, hello("one", 5), CLOUD)


def test_of_two_copies_only_the_first_to_be_confirmed_goes_on() -> None:
    first = judge(live(), hello("one", 5), CLOUD)
    second = judge(first, hello("one", 5), CLOUD)
    record = confirm(second, "one", second.granted)
    with pytest.raises(Fenced):
        judge(record, hello("one", first.granted), CLOUD)
    assert judge(record, hello("one", second.granted), CLOUD).granted > second.granted


def test_a_copy_of_a_disk_before_its_first_session_is_fenced() -> None:
    with pytest.raises(Fenced):
        judge(live(), hello("one"), CLOUD)


def test_an_epoch_that_was_never_granted_is_fenced() -> None:
    with pytest.raises(Fenced, match="never granted"):
        judge(live(), hello("one", 6), CLOUD)


def test_a_joined_again_edge_takes_over_once_it_is_confirmed() -> None:
    """LINK-27"""
    record = judge(live(), hello("two"), CLOUD)
    assert record.incarnation == "one"
    record = confirm(record, "two", record.granted)
    assert record.incarnation == "two"
    with pytest.raises(Fenced):
        judge(record, hello("one", 5), CLOUD)


def test_a_late_hello_of_a_lost_disk_displaces_nobody() -> None:
    """LINK-27"""
    record = confirm(judge(live(), hello("two"), CLOUD), "two", 6)
    late = judge(record, hello("one"), CLOUD)
    assert judge(late, hello("two", 6), CLOUD).incarnation == "two"


def test_a_new_disk_whose_confirmation_was_lost_is_known_by_its_epoch() -> None:
    record = judge(live(), hello("two"), CLOUD)
    assert judge(record, hello("two", record.granted), CLOUD).incarnation == "two"


def test_the_first_hello_after_a_restore_is_taken_and_epochs_jump() -> None:
    """LINK-9"""
    record = judge(live(epoch=3), hello("one", 9), "cloud-b")
    assert record.granted == 9 + RESTORE_JUMP
    assert judge(record, hello("one", record.granted, "cloud-b"), "cloud-b").granted == record.granted + 1


def test_a_copy_from_before_the_restore_is_fenced_once_the_right_one_is_back() -> None:
    """LINK-9"""
    record = judge(live(epoch=3), hello("one", 9), "cloud-b")
    record = confirm(record, "one", record.granted)
    with pytest.raises(Fenced):
        judge(record, hello("one", 9), "cloud-b")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=40))
def test_epochs_only_grow_and_no_two_disks_hold_the_newest(steps: list[tuple[str, bool, bool]]) -> None:
    """LINK-3"""
    record = NodeRecord()
    held = {"a": 0, "b": 0}
    for disk, adopts, confirms in steps:
        before = record.granted
        try:
            record = judge(record, hello(disk, held[disk]), CLOUD)
        except Fenced:
            continue
        assert record.granted > before
        if adopts:
            held[disk] = record.granted
            if confirms:
                record = confirm(record, disk, held[disk])
                assert record.acked == held[disk]
    assert record.acked <= record.granted
