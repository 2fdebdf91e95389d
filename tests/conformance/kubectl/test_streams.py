"""logs, exec, attach and port-forward by every supported kubectl, through the API, to a node behind it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubeapi.access import AlwaysAllow
from kubeapi.kubelet import KubeletAccess
from kubeapi.server import ApiSettings
from tests.kit.kubectl import VERSIONS, Kubectl
from tests.kit.kubelet import pod, serving_kubelet
from tests.kit.wait import eventually
from tests.unit.kubeapi_http.face import open_face
from tests.unit.kubeapi_http.test_usage import SUMMARY
from tests.unit.kubeapi_streaming.node import ShellNode

PODS = "/api/v1/namespaces/default/pods"
CONFIG = """
apiVersion: v1
kind: Config
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
users: [{name: x, user: {}}]
clusters: [{name: x, cluster: {server: "http://127.0.0.1:PORT"}}]
"""


class Site:
    """An API whose pod ``web`` runs on a node of a few words, and one kubectl."""

    def __init__(self, kubectl: Kubectl, node: ShellNode) -> None:
        self.kubectl, self.node = kubectl, node

    async def start(self, command: str, stdin: int | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.kubectl.argv(command),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.kubectl.environment(None),
        )

    async def run(self, command: str, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Run to the end; return exit code, standard output and standard error."""
        process = await self.start(
            command, asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL
        )
        out, err = await asyncio.wait_for(process.communicate(stdin), 30)
        assert process.returncode is not None
        return process.returncode, out, err


@pytest.fixture(params=VERSIONS)
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    node, settings = ShellNode(), ApiSettings(kubelet=KubeletAccess(None))
    async with (
        serving_kubelet(node.open) as kubelet,
        open_face(tmp_path, settings=settings, authorizers=(AlwaysAllow(),)) as face,
    ):
        await face.must("POST", "/api/v1/nodes", kubelet.node())
        await face.must("PUT", "/api/v1/nodes/gw-1/status", kubelet.node())
        await face.must("POST", PODS, pod())
        await face.must("PUT", f"{PODS}/web/status", pod())
        config = tmp_path / "config"
        config.write_text(CONFIG.replace("PORT", str(face.port)))
        (tmp_path / "home").mkdir()
        kubelet.summary = json.dumps(SUMMARY).encode()
        yield Site(Kubectl(request.param, config, tmp_path / "home"), node)


async def test_logs_and_followed_logs(site: Site) -> None:
    assert (await site.run("logs web --tail=3"))[:2] == (0, b"line 0\nline 1\nline 2\n")
    following = await site.start("logs -f web")
    assert following.stdout is not None
    assert await asyncio.wait_for(following.stdout.readexactly(21), 20) == b"line 0\nline 1\nline 2\n"
    following.kill()
    await following.wait()
    await eventually(lambda: site.node.running == 0)


async def test_exec_with_input_output_errors_and_exit_code(site: Site) -> None:
    sent = bytes(range(256)) * 8192
    assert (await site.run("exec -i web -- cat", sent))[:2] == (0, sent)
    assert await site.run("exec web -- both") == (0, b"out", b"err")
    code, _, err = await site.run("exec web -- fail 7")
    assert (code, b"exit code 7" in err) == (7, True)
    code, _, err = await site.run("exec web -- break")
    assert (code, b"the container went away" in err) == (1, True)
    assert len((await site.run("exec web -- flood 1000"))[1]) == 1000 * 32768
    await eventually(lambda: site.node.running == 0)


async def test_attach_is_exec_without_a_command(site: Site) -> None:
    assert (await site.run("attach -i web", b"hello\n"))[:2] == (0, b"hello\n")


async def test_port_forward_carries_many_connections(site: Site) -> None:
    forwarding = await site.start("port-forward pod/web :80")
    assert forwarding.stdout is not None
    line = await asyncio.wait_for(forwarding.stdout.readline(), 20)
    found = re.search(rb"127\.0\.0\.1:(\d+) -> 80", line)
    assert found, line

    async def shout(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    answers = await asyncio.gather(*[shout(b"x%d" % i * 50_000) for i in range(8)])
    assert answers == [b"X%d" % i * 50_000 for i in range(8)]
    forwarding.kill()
    await forwarding.wait()
    await eventually(lambda: site.node.running == 0)


async def test_top_shows_what_nodes_and_pods_use(site: Site) -> None:
    code, out, err = await site.run("top node")
    assert (code, err) == (0, b"")
    assert re.search(rb"gw-1 +250m +12% +512Mi +25% *$", out)
    code, out, err = await site.run("top pod --containers")
    assert (code, err) == (0, b"")
    assert re.search(rb"web +app +1m +8Mi", out)


async def test_what_the_node_refuses_is_printed(site: Site) -> None:
    code, _, err = await site.run("logs web -c nope")
    assert (code, b"container nope is not valid for pod web" in err) == (1, True)
