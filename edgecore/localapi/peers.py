"""Who may call at the pods' address: the pods that run here and this machine; no other machine, whatever routes it has.

The address is on the loopback interface, but Linux answers for it on every interface: a neighbour that routes it to this
gateway would reach the API.
"""

from collections.abc import Callable, Iterable, Iterator

from edgecore.localapi import address
from kubeapi.kinds import POD
from kubeapi.store import Store
from proto.kit.log import Logger

FINISHED = ("Succeeded", "Failed")
RunningAddresses = Callable[[], Iterable[str]]
log = Logger("local-api")


class Peers:
    """``running`` yields the addresses of the pods' sandboxes: known before a container starts, unlike the status.

    While the runtime cannot be asked, what the pods' statuses say counts.
    """

    def __init__(self, store: Store, running: RunningAddresses) -> None:
        self._store, self._running = store, running
        self._quiet = False

    def allows(self, host: str) -> bool:
        """Whether a connection from the address ``host`` is served."""
        if host in self._running() or host in _shown(self._store) or address.is_own(host):
            return True
        if not self._quiet:
            log.warning("another machine has called the pods' address of the node-local API; refused", peer=host)
            self._quiet = True  # the counter says how often
        return False


def _shown(store: Store) -> Iterator[str]:
    for stored in store.items(POD, None):
        spec, status = stored.object.get("spec") or {}, stored.object.get("status") or {}
        if spec.get("hostNetwork") or status.get("phase") in FINISHED:
            continue  # a machine's address may be another machine's tomorrow
        for entry in status.get("podIPs") or ():
            yield str(entry.get("ip"))
