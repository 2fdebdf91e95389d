"""``python -m proto.mqtt``: the broker alone, for trying and for tests.

Anonymous on the loopback address; ``--acl FILE`` takes lines ``allow|deny publish|subscribe|receive FILTER``, first match wins.
"""

import argparse
import ssl
import sys
from pathlib import Path

from proto.kit import daemon, log
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database
from proto.kit.errors import SkerryError, UsageError
from proto.mqtt.broker import SCHEMA, BrokerSettings, MqttBroker
from proto.mqtt.identity import Acl, Identity, Verb, allow_all
from proto.mqtt.topics import check_filter, matches

VERBS = ("publish", "subscribe", "receive")


def read_acl(path: Path) -> Acl:
    """Return the rights of an ACL file. Raises UsageError naming the line."""
    rules: list[tuple[bool, str, str]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or words[0] not in ("allow", "deny") or words[1] not in VERBS or not check_filter(words[2]):
            raise UsageError(f"{path}:{number}: write it as: allow|deny publish|subscribe|receive FILTER")
        rules.append((words[0] == "allow", words[1], words[2]))

    def acl(identity: Identity, verb: Verb, topic: str) -> bool:  # noqa: ARG001
        for allow, rule_verb, topic_filter in rules:
            if rule_verb == verb and (topic_filter == topic or matches(topic_filter, topic)):
                return allow
        return False

    return acl


def tls_context(certificate: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Return a server context; with ``client_ca`` every client needs a certificate of it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(client_ca) if client_ca else None)
    context.load_cert_chain(certificate)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve(host: str, port: int, data_dir: Path | None, acl: Acl, context: ssl.SSLContext | None) -> int:
    """Serve until a signal."""
    clock = SystemClock()
    supervisor = Supervisor(clock)
    db = Database.open(data_dir / "broker.db", [SCHEMA]) if data_dir is not None else None
    broker = MqttBroker(BrokerSettings(), db=db, acl=acl, clock=clock)
    bound = await broker.listen(host, port, context)
    daemon.ready("mqtt", {"mqtt": f"{'mqtts' if context else 'mqtt'}://{host}:{bound}"})
    await supervisor.run_until_signal()
    await broker.close()
    await supervisor.close()
    if db is not None:
        await db.close()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proto.mqtt", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=1883, help="port; 0 takes a free one (default 1883)")
    parser.add_argument("--data-dir", type=Path, help="keep sessions and messages here; without it, in memory")
    parser.add_argument("--acl", type=Path, help="file of rights; without it, everything is allowed")
    parser.add_argument("--certificate", type=Path, help="serve TLS with this PEM file of certificate and key")
    parser.add_argument("--client-ca", type=Path, help="ask every client for a certificate of this CA")
    parsed = parser.parse_args()
    log.setup()
    try:
        acl = read_acl(parsed.acl) if parsed.acl else allow_all
        context = tls_context(parsed.certificate, parsed.client_ca) if parsed.certificate else None
        return daemon.run(lambda: serve(parsed.host, parsed.port, parsed.data_dir, acl, context))
    except (SkerryError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
