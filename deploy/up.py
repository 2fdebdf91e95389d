"""`make up`: embedded API, embedded broker, cloudcore and one edge in the foreground, on the default ports.

State stays in .state/up between runs. Ctrl-C ends both daemons in order.
"""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from deploy.stage import ROOT, StageError, output, run
from tests.kit.process import Daemon

STATE = ROOT / ".state" / "up"
NODE = "gw-1"


async def _join(cloud_dir: Path, edge_dir: Path, address: str) -> None:
    """Give the edge its certificate at the first run; nothing at later ones."""
    if (edge_dir / "pki" / "node.crt").exists():
        return
    token = await output(
        [sys.executable, "-m", "cloudcore", "token", "create", "--node", NODE, "--data-dir", str(cloud_dir)]
    )
    words = ["--cloud", address, "--token", token.split()[-1], "--node", NODE, "--data-dir", str(edge_dir)]
    print((await output([sys.executable, "-m", "edgecore", "join", *words])).rstrip())


async def _until_stopped(daemons: list[Daemon]) -> None:
    """Wait for Ctrl-C, SIGTERM or the end of a daemon (raised)."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        for daemon in daemons:
            if not daemon.running:
                raise StageError(f"{daemon.name} ended with code {daemon.exit_code}; its log: {daemon.log}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await stop.wait()


async def platform() -> int:
    """Start everything, say where it is, run until stopped."""
    STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    cloud_dir, edge_dir = STATE / "cloud", STATE / NODE
    cloud = Daemon("cloudcore", ["cloudcore", "serve", "--data-dir", str(cloud_dir)], STATE / "cloudcore.log")
    edge = Daemon("edgecore", ["edgecore", "run", "--data-dir", str(edge_dir)], STATE / f"{NODE}.log")
    try:
        await cloud.start()
        print("cloudcore ready " + " ".join(f"{k}={v}" for k, v in cloud.addresses.items()))
        await _join(cloud_dir, edge_dir, "https://127.0.0.1:10002")
        await edge.start()
        print("edgecore ready " + " ".join(f"{k}={v}" for k, v in edge.addresses.items()))
        print(f"\nIn another terminal:\n   export KUBECONFIG={cloud_dir / 'admin.kubeconfig'}")
        print("   kubectl apply -f deploy/examples/ ; kubectl get devices -o wide\nCtrl-C ends it.")
        await _until_stopped([cloud, edge])
    finally:
        for daemon in (edge, cloud):
            await daemon.stop()
    return 0


if __name__ == "__main__":
    sys.exit(run(platform()))
