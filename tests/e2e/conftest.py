"""Real processes for the end-to-end tests: a whole platform, one edge that has joined a cloud that is away, or what runs pods alone."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloudcore.certs import Authority
from edgecore.data_dir import DataDir
from proto.kit.clock import SystemClock
from tests.kit.containerd import Host, hosted
from tests.kit.platform import Platform
from tests.kit.pods import PodWorld, on_containerd, world
from tests.kit.ports import free_port
from tests.kit.process import Daemon

NODE = "gw-1"


class LoneEdge:
    """An edge whose cloud never answers: what an edge does by itself."""

    def __init__(self, path: Path) -> None:
        self.directory = DataDir(path / "edge")
        self.mqtt_port, self.api_port, self.local_port = free_port(), free_port(), free_port()
        self.directory.pki.mkdir(parents=True, mode=0o700)
        authority = Authority.open_or_create(path / "ca", SystemClock())
        pair = authority.client_certificate(NODE, f"system:node:{NODE}", ("system:nodes",))
        self.directory.certificate.write_bytes(pair.cert.read_bytes())
        self.directory.key.write_bytes(pair.key.read_bytes())
        self.directory.key.chmod(0o600)
        self.directory.ca.write_bytes(authority.ca_pem)
        self.directory.settings.write_text(
            f"node: {NODE}\n"
            "cloud: {broker: 'mqtts://127.0.0.1:1'}\n"
            f"device_broker: {{port: {self.mqtt_port}}}\n"
            f"api: {{port: {self.api_port}}}\n"
            f"local_api: {{port: {self.local_port}, pod_address: ''}}\n"
            "pods: {runtime: none}\n"
        )
        self.daemon = Daemon(NODE, ["edgecore", "run", "--data-dir", str(self.directory.path)], path / "edge.log")

    def find_runtime(self) -> None:
        """Run pods with what is found; whoever asks ends them, since they outlive their daemon."""
        settings = self.directory.settings
        settings.write_text(settings.read_text().replace("runtime: none", "runtime: auto"))


@pytest.fixture
async def lone_edge(tmp_path: Path) -> AsyncIterator[LoneEdge]:
    edge = LoneEdge(tmp_path)
    yield edge
    await edge.daemon.kill()


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    """A cloud that serves; add edges to it."""
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        yield platform


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A containerd of the module's own."""
    with hosted(tmp_path_factory.mktemp("host") / "h") as one:
        yield one


@pytest.fixture
async def node(host: Host, tmp_path: Path) -> AsyncIterator[PodWorld]:
    """What runs pods at a gateway, on ``host``; whatever a test left there is gone before the next one."""
    async with world(tmp_path / "edge") as one:
        one.begin(on_containerd(host))
        yield one
        await one.empty()
