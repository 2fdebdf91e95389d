"""Where a kind's status is written: at its status subresource, or at the object where a CRD has none."""

from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import Kind
from proto.kit.clock import Clock

REMEMBER_S = 300.0  # somebody may give a definition a status subresource while we run


class StatusPaths:
    """Asks discovery once per API group and remembers for a while."""

    def __init__(self, client: KubeClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._served: dict[tuple[str, str], tuple[float, frozenset[str]]] = {}

    async def subresource(self, kind: Kind) -> str:
        """Return "status", or "" when the status is part of the object itself."""
        if not kind.group:
            return "status"
        group, now_s = (kind.group, kind.version), self._clock.now_s()
        until_s, served = self._served.get(group, (0.0, frozenset()))
        if now_s >= until_s:
            served = await self._discover(kind)
            self._served[group] = (now_s + REMEMBER_S, served)
        return "status" if f"{kind.plural}/status" in served else ""

    def forget(self) -> None:
        """Ask again at the next use: a CRD may have changed."""
        self._served.clear()

    async def _discover(self, kind: Kind) -> frozenset[str]:
        try:
            found = await self._client.raw("GET", f"/apis/{kind.group}/{kind.version}")
        except NotFound:
            return frozenset()
        return frozenset(str(r.get("name")) for r in found.get("resources") or [] if isinstance(r, dict))
