"""Who may call at the pods' address (LOCAL-18)."""

import pytest

from edgecore.localapi.peers import Peers
from kubeapi.kinds import POD
from tests.unit.edgecore.localapi.conftest import Json, LocalNode, pod

NEIGHBOUR, RUNS, SHOWN = "198.51.100.7", "10.88.0.5", "10.88.0.6"


async def put(node: LocalNode, name: str, address: str, **spec: object) -> None:
    phase = spec.pop("phase", "Running")
    made: Json = {**pod(name, name, **spec), "status": {"phase": phase, "podIPs": [{"ip": address}]}}
    await node.db.tx(lambda tx: node.store.put(tx, POD, made))


async def test_pods_of_this_node_and_the_node_itself_may_call_and_nobody_else(node: LocalNode) -> None:
    running: list[str] = []
    peers = Peers(node.store, lambda: running)

    assert not peers.allows(RUNS)
    running.append(RUNS)  # its sandbox is there, no container has begun, no status is written
    assert peers.allows(RUNS)
    for own in ("127.0.0.1", "::1"):
        assert peers.allows(own)
    for other in (NEIGHBOUR, "2001:db8::7", "255.255.255.255", "no address", ""):
        assert not peers.allows(other)


async def test_while_the_runtime_is_away_the_statuses_say_who_runs_here(node: LocalNode) -> None:
    peers = Peers(node.store, tuple)
    await put(node, "a", SHOWN)

    assert peers.allows(SHOWN)


@pytest.mark.parametrize("spec", [{"hostNetwork": True}, {"phase": "Succeeded"}, {"phase": "Failed"}])
async def test_an_address_that_is_no_running_pods_own_opens_nothing(node: LocalNode, spec: Json) -> None:
    await put(node, "a", NEIGHBOUR, **spec)

    assert not Peers(node.store, tuple).allows(NEIGHBOUR)
