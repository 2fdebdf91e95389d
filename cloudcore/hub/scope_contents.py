"""ConfigMaps and Secrets that no node needs are kept without what is in them; it is read when one does.

Their digests are known all the same, so that what a node should hold is, too.
"""

from collections.abc import Callable, Mapping
from typing import Any

from cloudcore.controllers.queue import KeyQueue
from cloudcore.hub.scope_bodies import digest_of
from cloudcore.kube.cluster import BULKY, Cluster
from cloudcore.kube.errors import NotFound
from cloudcore.kube.informer import Hollowing, Informer, Name
from cloudcore.kube.resources import Kind
from proto.names import parse_key

WORKERS = 4


class Contents:
    """``held(key)``: whether a node needs the object; ``came(key)`` is called when its content is here."""

    def __init__(self, cluster: Cluster, held: Callable[[str], bool], came: Callable[[str], None]) -> None:
        self._cluster, self._came = cluster, came
        self._reads: KeyQueue[str] = KeyQueue(
            "contents", self._read, workers=WORKERS, clock=cluster.clock, rng=cluster.rng
        )
        for kind in BULKY:
            cluster.of(kind).hollowing = _hollowing(kind, held)

    async def run(self) -> None:
        await self._reads.run()

    def digest(self, informer: Informer, name: Name, item: Mapping[str, Any]) -> bytes:
        """Return the digest of the whole object; what somebody asks for and is not here is read."""
        known = informer.hollow.get(name)
        if known is None:
            return digest_of(informer.kind, item)
        self._reads.add(informer.kind.key(*name))
        return known

    def lacks(self, informer: Informer, name: Name) -> bool:
        """Whether the content is not here; then it is read."""
        lacking = name in informer.hollow
        if lacking:
            self._reads.add(informer.kind.key(*name))
        return lacking

    def drop(self, key: str) -> None:
        """Nobody needs the content any more."""
        parsed = parse_key(key)
        informer = self._cluster.find(parsed.group, parsed.plural)
        if informer is not None:
            informer.shrink(Name(parsed.namespace, parsed.name))

    async def _read(self, key: str) -> None:
        parsed = parse_key(key)
        name = Name(parsed.namespace, parsed.name)
        informer = self._cluster.find(parsed.group, parsed.plural)
        if informer is None or name not in informer.hollow:
            return
        try:
            item = await self._cluster.client.get(informer.kind, *name)
        except NotFound:  # the watch is about to say so
            return
        if informer.fill(name, item):
            self._came(key)


def _hollowing(kind: Kind, held: Callable[[str], bool]) -> Hollowing:
    return Hollowing(whole=lambda name: held(kind.key(*name)), mark=lambda item: digest_of(kind, item))
