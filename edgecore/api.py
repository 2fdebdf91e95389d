"""Health, metrics and status of this gateway over HTTP: ``/healthz /readyz /metrics /status``, GET and HEAD only."""

from collections.abc import Callable
from typing import Any

from kubeapi.pages import Pages
from proto.kit.clock import Clock
from proto.kit.errors import SkerryError
from proto.kit.metrics import Metrics


class Api(Pages):
    """The pages for probes, Prometheus and the commands on the gateway."""

    def __init__(
        self, *, status: Callable[[], dict[str, Any]], unready: Callable[[], str], metrics: Metrics, clock: Clock
    ) -> None:
        super().__init__(status=status, unready=unready, metrics=metrics, clock=clock, name="api")

    async def start(self, host: str, port: int) -> int:
        """Listen and return the bound port. Raises SkerryError naming the address and the setting."""
        try:
            return await super().start(host, port)
        except OSError as error:
            raise SkerryError(
                f"health and metrics cannot listen on {host}:{port} ({error.strerror or error});"
                " stop the other process or set api.port"
            ) from error
