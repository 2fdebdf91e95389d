"""The CA and the serving pair of the node-local API, made by the short-lived key child, renewed while the daemon runs."""

from collections.abc import Sequence
from pathlib import Path

from edgecore import enrol
from edgecore.data_dir import LOCAL_CA, LOCAL_CA_KEY, LOCAL_CERTIFICATE, LOCAL_KEY, DataDir
from proto.kit.clock import Clock
from proto.kit.errors import MalformedMessage, SkerryError
from proto.kit.log import Logger
from proto.kit.x509 import read_file

LOOK_EVERY_S = 600.0  # the wall clock of a gateway may jump

log = Logger("local-api")


class Certificates:
    """Files below ``pki``; ``ensure`` before the listener opens, ``run`` for as long as it is open."""

    def __init__(self, directory: DataDir, node: str, addresses: Sequence[str], clock: Clock) -> None:
        self.ca = directory.pki / LOCAL_CA
        self.certificate, self.key = directory.pki / LOCAL_CERTIFICATE, directory.pki / LOCAL_KEY
        self._files = (self.ca, directory.pki / LOCAL_CA_KEY, self.certificate, self.key)
        self._node, self._addresses, self._clock = node, tuple(addresses), clock

    async def ensure(self) -> bool:
        """Make what lacks or ends soon; whether something was made. Raises KeyFailed."""
        if all(path.exists() for path in self._files) and not self._is_due(self.certificate):
            return False
        await enrol.run_keys("local", str(self.ca.parent), self._node, *self._addresses)
        return True

    async def run(self) -> None:
        """Look again and again, until cancelled; the listener takes new files by itself."""
        while True:
            await self._clock.sleep(LOOK_EVERY_S)
            try:
                if await self.ensure():
                    log.info("certificate of the node-local API renewed")
            except (SkerryError, OSError) as error:
                log.warning("certificate of the node-local API not renewed", error=error)

    def _is_due(self, path: Path) -> bool:
        """Whether it ends before long, or begins in what is now the future: it was made while the clock was wrong."""
        try:
            facts = read_file(path)
        except (OSError, MalformedMessage):
            return True
        now = self._clock.wall()
        return now < facts.not_before or now >= facts.renew_at()
