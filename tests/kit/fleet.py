"""A cloud and gateways that run pods, in a thread of their own: tests that block on kubectl use them.

with fleet(folder, "gw-1", "gw-2") as site:
    site.say("get pods"); site.call(site.edges["gw-1"].kill())
"""

import asyncio
import json
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.kit.gateway import gateway
from tests.kit.images import BUSYBOX_REF
from tests.kit.kubectl import VERSIONS, Kubectl, until
from tests.kit.platform import Edge, Platform

T = TypeVar("T")
Json = dict[str, Any]
CALL_S = 120.0
SLEEP = ("sleep", "100000")


class Fleet:
    """One cloud, gateways by name, and kubectl of every version."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.folder, self._loop = folder, loop
        self.platform: Platform
        self.edges: dict[str, Edge] = {}
        self.stack = AsyncExitStack()

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float = CALL_S) -> T:
        """Do something in the loop of the platform."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def kubectl(self, version: str) -> Kubectl:
        """One version; its caches last as long as the fleet."""
        home = self.folder / f"home-{version}"
        home.mkdir(exist_ok=True)
        return Kubectl(version, self.platform.kubeconfig, home)

    def run(self, words: str, stdin: str = "", version: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a kubectl command by one version: unless given, one that the words choose, so that all have their share."""
        return self.kubectl(version or VERSIONS[zlib.crc32(words.encode()) % len(VERSIONS)]).run(words, stdin)

    def say(self, words: str, stdin: str = "", version: str = "") -> str:
        """As ``run``; the output of a command that must succeed."""
        done = self.run(words, stdin, version)
        assert done.returncode == 0, f"kubectl {words}: {done.stdout}{done.stderr}\n{self.shown()}"
        return done.stdout

    def apply(self, *objects: Json) -> str:
        return self.say("apply -f -", json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, words: str) -> Json:
        found: Json = json.loads(self.say(f"get {words} -o json"))
        return found

    def pods(self, selector: str) -> list[Json]:
        """The pods of a selector that are not on their way out."""
        items = self.get(f"pods -l {selector}")["items"]
        return [each for each in items if "deletionTimestamp" not in each["metadata"]]

    def eventually(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Wait for a condition; a failure shows the pods and the latest events."""
        try:
            until(condition, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.shown()}") from error

    def shown(self) -> str:
        """What a person would look at when something is wrong."""
        said = [self.run(words).stdout[-3000:] for words in ("get nodes", "get pods -A -o wide", "get events -A")]
        return "\n".join([*said, self.logs()])

    def logs(self, lines: int = 12) -> str:
        """The end of each daemon's log."""
        return "\n".join(
            daemon.tail(lines) for daemon in (self.platform.cloud, *(e.process for e in self.platform.edges.values()))
        )

    async def _open(
        self, names: tuple[str, ...], runtime: str, cloud_sets: tuple[str, ...], edge_sets: tuple[str, ...]
    ) -> None:
        self.platform = await self.stack.enter_async_context(Platform(self.folder, cloud_sets=cloud_sets))
        await self.platform.start_cloud()
        for at, name in enumerate(names):
            sets = {"runtime": runtime, "subnet": f"10.{88 + at}.0.0/16"}
            host = self.folder / f"host-{name}"
            self.edges[name] = await self.stack.enter_async_context(
                gateway(self.platform, host, name, *edge_sets, **sets)
            )


@contextmanager
def fleet(
    *names: str, runtime: str = "cri", cloud_sets: tuple[str, ...] = (), edge_sets: tuple[str, ...] = ()
) -> Iterator[Fleet]:
    """Run a cloud and these gateways until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fleet")
    thread.start()
    with tempfile.TemporaryDirectory(prefix="skerry-fleet-") as folder:
        site = Fleet(Path(folder), loop)
        try:
            try:
                site.call(site._open(names, runtime, cloud_sets, edge_sets))
            except AssertionError as error:
                raise AssertionError(f"{error}\n{site.logs(40)}") from error
            yield site
        finally:
            site.call(site.stack.aclose())
            site.call(loop.shutdown_default_executor())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def side_by_side(*works: Callable[[], T]) -> list[T]:
    """Do several things that block at once; their results in order."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [done.result() for done in [pool.submit(work) for work in works]]


def container(name: str = "main", *command: str, **fields: Any) -> Json:
    """A container of busybox that ends at once when it is told to."""
    return {
        "name": name,
        "image": BUSYBOX_REF,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command or SLEEP),
        **fields,
    }


def template(app: str, *containers: Json, **spec: Any) -> Json:
    """The template of a workload's pods."""
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": list(containers) or [container()], **spec},
    }


def pod(name: str, *containers: Json, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        **template(name, *containers, **spec),
        "metadata": {"name": name, "labels": {"app": name}},
    }


def workload(kind: str, name: str, pods: Json, **spec: Any) -> Json:
    """An object of group apps."""
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": pods, **spec},
    }


def job(name: str, pods: Json, **spec: Any) -> Json:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": pods, **spec}}
