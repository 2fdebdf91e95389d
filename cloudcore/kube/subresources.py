"""Where a kind's status is written: at its status subresource, or at the object where a CRD has none."""

from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import Kind


class StatusPaths:
    """Asks discovery once per API group and remembers."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._served: dict[tuple[str, str], frozenset[str]] = {}

    async def subresource(self, kind: Kind) -> str:
        """Return "status", or "" when the status is part of the object itself."""
        if not kind.group:
            return "status"
        group = (kind.group, kind.version)
        if group not in self._served:
            self._served[group] = await self._discover(kind)
        return "status" if f"{kind.plural}/status" in self._served[group] else ""

    def forget(self) -> None:
        """Ask again at the next use: a CRD may have changed."""
        self._served.clear()

    async def _discover(self, kind: Kind) -> frozenset[str]:
        try:
            found = await self._client.raw("GET", f"/apis/{kind.group}/{kind.version}")
        except NotFound:
            return frozenset()
        return frozenset(str(r.get("name")) for r in found.get("resources") or [] if isinstance(r, dict))
