"""Other people's Python clients on streams: kubernetes (threads, the older port-forward), kubernetes_asyncio, lightkube."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes
import kubernetes_asyncio as ka
import pytest
from kubernetes.stream import portforward, stream
from kubernetes_asyncio.stream import WsApiClient
from lightkube import AsyncClient, KubeConfig
from lightkube.config.models import Cluster, User

from kubeapi.access import AlwaysAllow
from kubeapi.kubelet import KubeletAccess
from kubeapi.server import ApiSettings
from tests.kit.kubectl import until
from tests.kit.kubelet import pod, serving_kubelet
from tests.unit.kubeapi_http.face import open_face
from tests.unit.kubeapi_streaming.node import ShellNode

PODS = "/api/v1/namespaces/default/pods"
TIMEOUT_S = 20

# The official client leaves some sockets to the garbage collector; it must run before another module's tests.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """An API whose pod ``web`` runs on a node of a few words."""
    node, settings = ShellNode(), ApiSettings(kubelet=KubeletAccess(None))
    async with (
        serving_kubelet(node.open) as kubelet,
        open_face(tmp_path, settings=settings, authorizers=(AlwaysAllow(),)) as face,
    ):
        await face.must("POST", "/api/v1/nodes", kubelet.node())
        await face.must("PUT", "/api/v1/nodes/gw-1/status", kubelet.node())
        await face.must("POST", PODS, pod())
        yield f"http://127.0.0.1:{face.port}"


@contextmanager
def official(url: str) -> Iterator[Any]:
    configuration = kubernetes.client.Configuration()
    configuration.host = url
    client = kubernetes.client.ApiClient(configuration)
    try:
        yield kubernetes.client.CoreV1Api(client)
    finally:
        client.rest_client.pool_manager.clear()


async def test_the_official_client_runs_commands_and_sees_their_exit_code(url: str) -> None:
    def work() -> tuple[str, int]:
        with official(url) as api:
            connect = api.connect_get_namespaced_pod_exec
            options = {"stdout": True, "stderr": True, "stdin": False, "tty": False, "_preload_content": False}
            both = stream(connect, "web", "default", command=["both"], **options)
            both.run_forever(TIMEOUT_S)
            failed = stream(connect, "web", "default", command=["fail", "7"], **options)
            failed.run_forever(TIMEOUT_S)
            both.close()
            failed.close()
            return both.read_all(), failed.returncode

    output, code = await asyncio.to_thread(work)
    assert (sorted(output), code) == (sorted("outerr"), 7)


async def test_the_official_client_talks_to_a_command(url: str) -> None:
    def work() -> str:
        with official(url) as api:
            connect = api.connect_get_namespaced_pod_exec
            options = {"stdout": True, "stderr": True, "stdin": True, "tty": False, "_preload_content": False}
            cat = stream(connect, "web", "default", command=["cat"], **options)
            cat.write_stdin("hello\n")
            line = cat.readline_stdout(TIMEOUT_S)
            cat.close()
            return str(line)

    assert await asyncio.to_thread(work) == "hello"


async def test_the_official_client_reads_logs_and_follows_them(url: str) -> None:
    def work() -> str:
        with official(url) as api:
            return str(api.read_namespaced_pod_log("web", "default", tail_lines=3))

    assert await asyncio.to_thread(work) == "line 0\nline 1\nline 2\n"


async def test_the_official_client_forwards_ports_in_its_older_way(url: str) -> None:
    def work() -> tuple[bytes, str]:
        with official(url) as api:
            connect = api.connect_get_namespaced_pod_portforward
            forward = portforward(connect, "web", "default", ports="80,81")
            sock = forward.socket(80)
            sock.setblocking(True)
            sock.settimeout(TIMEOUT_S)
            sock.sendall(b"shout")
            answer = sock.recv(100)
            until(lambda: forward.error(81) is not None)
            sock.close()
            forward.socket(81).close()
            until(lambda: not forward.connected)
            forward.websocket.close()
            return answer, str(forward.error(81))

    answer, error = await asyncio.to_thread(work)
    assert (answer, error) == (b"SHOUT", "nothing listens on port 81")


async def test_kubernetes_asyncio_runs_commands(url: str) -> None:
    configuration = ka.client.Configuration()
    configuration.host = url
    async with WsApiClient(configuration) as client:
        api = ka.client.CoreV1Api(client)
        options = {"stdout": True, "stderr": True, "stdin": False, "tty": False}
        found = await api.connect_get_namespaced_pod_exec("web", "default", command=["both"], **options)
    assert sorted(found) == sorted("outerr")


async def test_lightkube_runs_commands_with_input(url: str) -> None:
    config = KubeConfig.from_one(cluster=Cluster(server=url), user=User())
    client = AsyncClient(config=config, namespace="default")
    done = await client.exec("web", command=["cat"], stdin="hello", stdout=True, timeout=TIMEOUT_S)
    await client.close()
    assert done.stdout == "hello"
