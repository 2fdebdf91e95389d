"""Memory of our broker per idle connection with one subscription, plain and over TLS with a client certificate.

python -m tests.bench.bench_idle [--count 1000]
"""

import argparse
import json
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from cloudcore.certs import Authority
from proto.kit import tls
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database
from proto.mqtt.broker import SCHEMA, BrokerSettings, MqttBroker
from proto.mqtt.identity import allow_all
from tests.bench.bench_broker import broker_argv, idle, running
from tests.kit.ports import free_port


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the server's and the client's context, as cloudcore and an edge have them."""
    authority = Authority.open_or_create(folder / "pki", SystemClock())
    pair = authority.server_certificate()
    server = tls.server_context(pair.cert, pair.key, authority.ca_file, require_client=True)
    return server, tls.client_context(*authority.issue("client"), authority.ca_pem)


async def serve(port: int, folder: Path) -> None:
    """The broker behind mutual TLS, until a signal."""
    clock, db = SystemClock(), Database.open(folder / "broker.db", [SCHEMA])
    broker = MqttBroker(BrokerSettings(), db=db, acl=allow_all, clock=clock)
    supervisor = Supervisor(clock)
    await broker.listen("127.0.0.1", port, contexts(folder)[0])
    await supervisor.run_until_signal()
    await broker.close()
    await supervisor.close()
    await db.close()


def measure(folder: Path, count: int, *, secure: bool) -> float:
    folder.mkdir()
    port = free_port()
    argv = broker_argv("skerry", port, folder)
    if secure:
        argv = [sys.executable, "-m", "tests.bench.bench_idle", "serve", str(port), str(folder)]
    context = contexts(folder)[1] if secure else None
    with running(argv, port) as process:
        grown_kb: float = uvloop.run(idle(count, port, process.pid, context))
        return round(grown_kb, 1)


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as tmp:
        folder = Path(tmp)
        return {
            "plain_kb": measure(folder / "plain", args.count, secure=False),
            "tls_kb": measure(folder / "tls", args.count, secure=True),
            "connections": args.count,
        }


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(int(sys.argv[2]), Path(sys.argv[3])))
    else:
        print(json.dumps(main(), indent=2))
