import time

from hypothesis import given
from hypothesis import strategies as st

from proto.mqtt.limits import Quota
from proto.mqtt.packets import Subscription
from proto.mqtt.reasons import Violation
from proto.mqtt.routing import Routing
from proto.mqtt.session import Session
from proto.mqtt.store import Store
from proto.mqtt.topics import NameTree, TopicNames, Trie, check_filter, check_name, matches, split_share
from tests.kit.clock import ManualClock

LEVELS = st.sampled_from(["", "a", "b", "$x", "é"])
NAMES = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER_LEVELS = st.sampled_from(["", "a", "b", "$x", "+"])
FILTERS = st.tuples(st.lists(FILTER_LEVELS, min_size=1, max_size=4), st.booleans()).map(
    lambda both: "/".join([*both[0], "#"] if both[1] else both[0])
)
USABLE = FILTERS.filter(check_filter)


@given(st.lists(USABLE, max_size=8), NAMES)
def test_trie_finds_exactly_the_filters_that_match(filters: list[str], name: str) -> None:
    trie: Trie[str] = Trie()
    for one in filters:
        trie.add(one, "key", one)

    assert sorted(trie.match(name)) == sorted({one for one in filters if matches(one, name)})


@given(st.lists(USABLE, max_size=8), st.lists(USABLE, max_size=8), NAMES)
def test_trie_forgets_what_is_discarded(kept: list[str], gone: list[str], name: str) -> None:
    trie: Trie[str] = Trie()
    for one in [*kept, *gone]:
        trie.add(one, "key", one)
    for one in gone:
        trie.discard(one, "key")

    assert sorted(trie.match(name)) == sorted({one for one in set(kept) - set(gone) if matches(one, name)})


def test_an_emptied_trie_holds_no_branches() -> None:
    trie: Trie[int] = Trie()
    trie.add("a/b/c", 1, 1)
    trie.add("a/+", 2, 2)
    trie.discard("a/b/c", 1)
    trie.discard("a/+", 2)
    trie.discard("never/there", 3)

    assert not trie._root.children


@given(st.dictionaries(NAMES, st.integers(), max_size=8), USABLE)
def test_name_tree_finds_exactly_the_names_that_a_filter_matches(kept: dict[str, int], topic_filter: str) -> None:
    tree: NameTree[int] = NameTree()
    for name, value in kept.items():
        tree.put(name, value)

    assert tree.names == len(kept)
    assert sorted(tree.match(topic_filter)) == sorted(v for n, v in kept.items() if matches(topic_filter, n))


def test_name_tree_counts_and_forgets() -> None:
    tree: NameTree[int] = NameTree()
    tree.put("a/b", 1)
    tree.put("a/b", 2)
    tree.put("a/c", None)
    assert (tree.names, tree.get("a/b"), tree.get("a")) == (1, 2, None)

    tree.put("a/b", None)
    assert tree.names == 0
    assert not tree._root.children


def test_names_and_filters_are_told_apart() -> None:
    assert all(check_name(one) for one in ("a", "/", "$hw/x", "a b"))
    assert not any(check_name(one) for one in ("", "a/+", "#", "a\0"))
    assert all(check_filter(one) for one in ("#", "+", "a/+/b", "a/#", "/", "$share/g/a/#", "$share/g//"))
    assert not any(
        check_filter(one) for one in ("", "a#", "a+", "#/a", "a/#/b", "$share/g", "$share//a", "$share/+/a", "a\0")
    )
    assert split_share("$share/g/a/b") == ("g", "a/b")
    assert split_share("a/b") == ("", "a/b")


def test_topic_names_beyond_the_limits_are_refused() -> None:
    names = TopicNames(max_bytes=8, max_levels=3)
    assert names.learn(b"a/b/c") == "a/b/c"
    for raw in (b"123456789", b"a/b/c/d", b"\xff", b"", b"a/+"):
        try:
            names.learn(raw)
        except Violation:
            continue
        raise AssertionError(raw)


def test_ten_thousand_wildcard_filters_cost_at_most_twice_none() -> None:
    def cost_s(filters: int) -> float:
        routing = Routing(lambda session, topic: True)
        store = Store(None, ManualClock())
        session = Session("s", "o", quota=Quota(1), ledger=store)
        routing.subscribe(session, Subscription("to/me"))
        for number in range(filters):
            routing.subscribe(session, Subscription(f"a/{number}/+/update"))
        started = time.perf_counter()
        for number in range(4000):
            assert len(routing.plan("to/me" if number % 2 else f"a/{number % 500}/x/other").routes) == number % 2
        return time.perf_counter() - started

    assert min(cost_s(10_000) for _ in range(3)) < 2 * min(cost_s(0) for _ in range(3)) + 0.01
