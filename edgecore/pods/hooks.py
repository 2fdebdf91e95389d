"""Life-cycle hooks of containers: exec, httpGet, tcpSocket, sleep."""

from collections.abc import Callable

from edgecore.pods.checks import Checks
from edgecore.pods.specs import Json
from proto.kit.clock import Clock

LONGEST_S = 3600.0  # a postStart hook has no limit of its own; one that hangs must end some day


class LifecycleHooks:
    """PORT Hooks of the executor. ``target``: where a pod listens."""

    def __init__(self, checks: Checks, clock: Clock, target: Callable[[Json], str]) -> None:
        self._checks, self._clock, self._target = checks, clock, target

    async def run(self, pod: Json, container: Json, hook: Json, container_id: str, timeout_s: float | None) -> str:
        """Run one hook; return why it failed, "" when it went well. Raises RuntimeAway."""
        limit_s = min(LONGEST_S, timeout_s if timeout_s is not None else LONGEST_S)
        if "sleep" in hook:
            await self._clock.sleep(min(limit_s, float((hook["sleep"] or {}).get("seconds") or 0)))
            return ""
        found = await self._checks.run(container, hook, container_id, self._target(pod), limit_s)
        return "" if found.ok else found.message
