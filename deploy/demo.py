"""`make demo`: a device's twin from the cloud to the edge and back, through an outage, with nothing lost.

Every step is one of the real commands, run as a separate process in its own data directory. The press (deploy/press.py)
keeps its own ledger of what the edge acknowledged; the last table compares it with the cloud's history.
"""

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.kubectl import VERSIONS, provide
from deploy.press import Press
from deploy.stage import ROOT, Kubectl, fresh_directory, output, run
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

STATE = ROOT / ".state" / "demo"
EXAMPLES = ROOT / "deploy" / "examples"
BEFORE, DURING, AFTER_KILL = 50, 300, 100  # strokes of the press: with the link, without it, after the power cut
CHANGES = 20  # desired changes made in the office while the link is down
BOLD, DIM, GREEN, RED, PLAIN = "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m"


class Teller:
    """Prints the story; colours only on a terminal."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()
        self._step = 0
        self.began_s = time.monotonic()  # noqa: TID251  how long the story took, for people

    def paint(self, style: str, text: str) -> str:
        return f"{style}{text}{PLAIN}" if self._colour else text

    def step(self, title: str, why: str = "") -> None:
        self._step += 1
        print(f"\n{self.paint(BOLD, f'{self._step}. {title}')}  {self.paint(DIM, f'[{self.elapsed_s():.0f} s]')}")
        if why:
            print(f"   {why}")

    def command(self, text: str) -> None:
        print(f"   {self.paint(DIM, '$ ' + text)}")

    def show(self, text: str, limit: int = 12) -> None:
        lines = text.rstrip().splitlines()
        for line in lines[:limit]:
            print(f"     {line}")
        if len(lines) > limit:
            print(f"     … {len(lines) - limit} more")

    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s  # noqa: TID251


class Story:
    """The steps, in order; each leaves the platform in the state that the next one needs."""

    def __init__(self, platform: Platform, kubectl: Kubectl, tell: Teller) -> None:
        self.platform = platform
        self.kubectl = kubectl
        self.tell = tell
        self.edge: Edge | None = None
        self.press: Press | None = None
        self.outage_s = self.converged_s = 0.0

    async def start(self) -> None:
        self.tell.step("The cloud: one process", "Kubernetes API, MQTT broker and join endpoint, nothing else needed.")
        self.tell.command("cloudcore serve --data-dir .state/demo/cloud")
        await self.platform.start_cloud()
        self.tell.show("cloudcore ready " + " ".join(f"{k}={v}" for k, v in self.platform.cloud.addresses.items()))
        self.tell.step(
            "A gateway joins with a one-time token", "Its key never leaves it; the token carries the CA's hash."
        )
        self.tell.command("edgecore join --cloud https://127.0.0.1:10002 --token … --node gw-1 && edgecore run")
        self.edge = await self.platform.add_edge("gw-1")
        await eventually(self._node_ready, 15.0)
        self.tell.show(await self.kubectl("get", "nodes"))

    async def _node_ready(self) -> bool:
        return " Ready " in await self.kubectl("get", "nodes")

    async def devices(self) -> None:
        assert self.edge is not None
        self.tell.step(
            "Three devices, declared as Kubernetes resources",
            "A simulated boiler, the gateway itself, a press that speaks plain MQTT.",
        )
        for name in sorted(p.name for p in EXAMPLES.glob("0*.yaml")):
            self.tell.command(f"kubectl apply -f deploy/examples/{name}")
            await self.kubectl("apply", "-f", str(EXAMPLES / name))
        self.press = Press(self.edge.mqtt_port)
        self.press.start()
        await eventually(self._known_at_the_edge, 15.0)
        await asyncio.to_thread(self.press.strokes, 1, BEFORE)
        await eventually(self._all_report, 20.0)
        self.tell.command("kubectl get devices -o wide")
        self.tell.show(await self.kubectl("get", "devices", "-o", "wide"))
        self.tell.command("kubectl get devicestatus gateway -o jsonpath=… (real values of this machine)")
        self.tell.show(await self._values("gateway"))

    async def _known_at_the_edge(self) -> bool:
        assert self.edge is not None
        listed = await output(
            [sys.executable, "-m", "edgecore", "device", "list", "--data-dir", str(self.edge.data_dir)]
        )
        return all(name in listed for name in ("boiler", "gateway", "press"))

    async def _all_report(self) -> bool:
        statuses = (await self.kubectl.json("get", "devicestatuses"))["items"]
        reporting = {s["metadata"]["name"] for s in statuses if _reported(s)}
        return reporting >= {"boiler", "gateway", "press"}

    async def _values(self, device: str) -> str:
        status = await self.kubectl.json("get", "devicestatus", device)
        return "\n".join(f"{name:<24} {value}" for name, value in sorted(_reported(status).items()))

    async def desired(self) -> None:
        assert self.press is not None
        self.tell.step(
            "A desired value reaches the device", "And the device's answer comes back as its reported value."
        )
        await self._want(10)
        self.tell.command("kubectl patch device press … speed=10")
        if not await asyncio.to_thread(self.press.hears, "speed", "10", 15.0):
            raise AssertionError("the desired value never reached the press")
        await eventually(lambda: self._reports("speed", "10"), 15.0)
        self.tell.show(await self.kubectl("get", "device", "press", "-o", "wide"))

    async def _want(self, speed: int) -> None:
        device = await self.kubectl.json("get", "device", "press")
        properties = device["spec"]["properties"]
        for prop in properties:
            if prop["name"] == "speed":
                prop["desired"] = {"value": str(speed)}
        patch = json.dumps({"spec": {"properties": properties}})
        await self.kubectl("patch", "device", "press", "--type=merge", "-p", patch)

    async def _reports(self, name: str, value: str) -> bool:
        return _reported(await self.kubectl.json("get", "devicestatus", "press")).get(name) == value

    async def outage(self) -> None:
        assert self.edge is not None
        assert self.press is not None
        self.tell.step(
            "The link goes down",
            "First half-open (no byte passes, nobody is told), then cut. Both sides go on working.",
        )
        began_s = self.tell.elapsed_s()
        self.edge.pause_link()
        async with asyncio.TaskGroup() as both_sides:
            both_sides.create_task(asyncio.to_thread(self.press.strokes, BEFORE + 1, BEFORE + DURING))
            both_sides.create_task(self._change_of_mind())
        self.edge.cut()
        self.tell.show(f"{DURING} strokes acknowledged on the gateway, {CHANGES} desired changes made in the office")
        self.tell.command("kill -9 edgecore; edgecore run   # a power cut on top")
        await self.edge.kill()
        await self.edge.start()
        await asyncio.to_thread(self.press.strokes, BEFORE + DURING + 1, BEFORE + DURING + AFTER_KILL)
        self.tell.command("edgecore device explain press   # offline, on the gateway")
        explain = [
            sys.executable,
            "-m",
            "edgecore",
            "device",
            "explain",
            "press",
            "--data-dir",
            str(self.edge.data_dir),
        ]
        self.tell.show(await output(explain))
        await eventually(self._stale, 60.0)
        self.tell.command("kubectl get devices -o wide   # the office is told the truth: stale")
        self.tell.show(await self.kubectl("get", "devices", "-o", "wide"))
        self.outage_s = self.tell.elapsed_s() - began_s

    async def _change_of_mind(self) -> None:
        for change in range(CHANGES):
            await self._want(100 + change)

    async def _stale(self) -> bool:
        status = (await self.kubectl.json("get", "device", "press")).get("status", {})
        return any(c["type"] == "Stale" and c["status"] == "True" for c in status.get("conditions", []))

    async def reunion(self) -> None:
        assert self.edge is not None
        assert self.press is not None
        self.tell.step(
            "The link comes back", "Digests are compared, the outbox drains, the newest desired value is applied once."
        )
        began_s = self.tell.elapsed_s()
        self.edge.mend()
        await self.edge.drained(30.0)
        last = str(100 + CHANGES - 1)
        await eventually(lambda: self._reports("speed", last), 30.0)
        await eventually(lambda: self._reports("strokes", str(BEFORE + DURING + AFTER_KILL)), 30.0)
        self.converged_s = self.tell.elapsed_s() - began_s
        self.tell.command("kubectl get devices -o wide")
        self.tell.show(await self.kubectl("get", "devices", "-o", "wide"))

    async def verdict(self) -> bool:
        """Compare the press's ledger with the cloud's history; True when nothing was lost, doubled or disordered."""
        assert self.press is not None
        argv = ["cloudcore", "history", "press", "--property", "strokes", "--limit", "100000", "-o", "json"]
        text = await output([sys.executable, "-m", *argv, "--data-dir", str(self.platform.cloud_dir)])
        rows: list[dict[str, Any]] = json.loads(text)
        stored = [int(row["value"]) for row in rows]
        counts, sent = Counter(stored), self.press.published
        lost = [n for n in self.press.acknowledged if not counts[n]]
        doubled = [n for n in counts if counts[n] > sent[n]]
        disordered = sum(1 for a, b in itertools.pairwise(stored) if b < a)
        took_s = self.tell.elapsed_s()
        good = (
            not lost and not doubled and not disordered and len(self.press.acknowledged) == BEFORE + DURING + AFTER_KILL
        )
        self.tell.step("The press's ledger against the cloud's history")
        style = GREEN if good else RED
        table = [
            ("strokes acknowledged by the edge", str(len(self.press.acknowledged))),
            ("of these in the cloud's history", str(len(self.press.acknowledged) - len(lost))),
            ("lost", str(len(lost))),
            ("duplicated", str(len(doubled))),
            ("out of order", str(disordered)),
            ("desired changes in the outage / last one applied", f"{CHANGES} / {self.press.desired.get('speed')}"),
            ("outage, with a SIGKILL inside", f"{self.outage_s:.1f} s"),
            ("link back → everything equal again", f"{self.converged_s:.1f} s"),
            ("the whole story", f"{took_s:.1f} s"),
        ]
        width = max(len(name) for name, _ in table)
        print()
        for name, value in table:
            shown = self.tell.paint(style, value) if name in {"lost", "duplicated", "out of order"} else value
            print(f"   {name:<{width}}  {shown}")
        return good


def _reported(status: dict[str, Any]) -> dict[str, str]:
    twins = status.get("status", {}).get("twins") or []
    return {twin["propertyName"]: twin["reported"]["value"] for twin in twins if "reported" in twin}


def _where_next(kubeconfig: Path, *, kept: bool) -> str:
    if kept:
        return (
            "It is still running; Ctrl-C ends it. In another terminal:\n"
            f"   export KUBECONFIG={kubeconfig.relative_to(ROOT)}\n"
            "   kubectl get devices -o wide        kubectl get devicestatuses -w\n"
            "   .venv/bin/edgecore status --data-dir .state/demo/gw-1\n"
            "   .venv/bin/cloudcore history press --data-dir .state/demo/cloud"
        )
    return (
        "Where to look next:\n"
        "   KEEP=1 make demo         the same, left running for your own kubectl\n"
        "   docs/quickstart.md       two real machines in five minutes\n"
        "   docs/concepts.md         what 'acknowledged' means here\n"
        "   docs/devices.md          your own devices over MQTT"
    )


async def tell_story(*, keep: bool) -> int:
    tell = Teller()
    kubectl_path = shutil.which("kubectl") or str(await asyncio.to_thread(provide, VERSIONS[-1]))
    state = fresh_directory(STATE)
    tell.began_s = time.monotonic()  # noqa: TID251
    async with Platform(state) as platform:
        kubectl = Kubectl(kubectl_path, platform.kubeconfig, fresh_directory(state / "home"))
        story = Story(platform, kubectl, tell)
        try:
            for part in (story.start, story.devices, story.desired, story.outage, story.reunion):
                await part()
            good = await story.verdict()
            print("\n" + _where_next(platform.kubeconfig, kept=keep))
            if keep:
                await asyncio.Event().wait()
        finally:
            if story.press is not None:
                story.press.close()
    return 0 if good else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    return run(tell_story(keep=parser.parse_args(argv).keep))


if __name__ == "__main__":
    sys.exit(main())
