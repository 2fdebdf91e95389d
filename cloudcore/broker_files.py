"""What a real broker must be told to enforce: configuration, server certificate, rights per node, revoked certificates.

``python -m cloudcore.broker_files DATA_DIR OUT`` writes them for Mosquitto (``mosquitto.conf`` and what it names) and for
NATS (``nats.conf``), and with ``--watch`` keeps them true, telling Mosquitto by SIGHUP. See ``deploy/broker``.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from cloudcore import revocation
from cloudcore.broker_access import CLOUD_USER
from cloudcore.certs import ADMIN_GROUP, NODE_GROUP, Authority, node_user
from cloudcore.sql import Sql, SqlUnavailable
from proto import topics
from proto.kit import files
from proto.kit.clock import Clock, SystemClock
from proto.kit.errors import SkerryError, UsageError
from proto.kit.log import Logger

POLL_S = 1.0
VERBS = {"publish": "write", "subscribe": "read"}

log = Logger("broker-files")

MOSQUITTO = """\
# Written by cloudcore.broker_files; local additions belong into another file with `include_dir`.
per_listener_settings false
allow_anonymous false
acl_file {out}/acl
pid_file {pid_file}

listener {port}
cafile {out}/ca.crt
certfile {out}/server.crt
keyfile {out}/server.key
crlfile {out}/crl.pem
tls_version tlsv1.2
require_certificate true
# The certificate is the identity: its common name is the user of `acl`, and also the client id, so that nobody ends
# another node's connection by using its client id.
use_identity_as_username true
use_username_as_clientid true

# The link keeps everything itself, in clean sessions: nothing here has to survive, nothing may pile up.
persistence false
max_packet_size 300000
max_inflight_messages 200
max_queued_messages 0
max_queued_bytes 268435456
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
log_type notice
"""

NATS = """\
# Written by cloudcore.broker_files. MQTT topics are NATS subjects with "." for "/".
server_name: skerry
jetstream {{ store_dir: "{out}/jetstream", max_file_store: 1GB }}
mqtt {{
  port: {port}
  ack_wait: "5s"
  max_ack_pending: 1000
  tls {{
    cert_file: "{out}/server.crt", key_file: "{out}/server.key", ca_file: "{out}/ca.crt"
    verify_and_map: true
  }}
}}
authorization {{
  users = [
{users}
  ]
}}
"""


class BrokerFiles:
    """Keeps the files in ``out`` true. ``names`` are the host names that the broker is reached by."""

    def __init__(
        self,
        sql: Sql,
        authority: Authority,
        out: Path,
        *,
        clock: Clock,
        names: Sequence[str] = (),
        port: int = 8883,
        pid_file: Path | None = None,
    ) -> None:
        self._sql, self._authority, self._out, self._clock = sql, authority, out.absolute(), clock
        self._names, self._port = tuple(names), port
        self._pid_file = (pid_file or out / "mosquitto.pid").absolute()
        self._state: object = None

    async def update(self) -> bool:
        """Write what changed and tell a running Mosquitto; whether anything did. Raises SqlUnavailable, OSError."""
        nodes, revoked = await self._sql.read(self._read)
        files.make_dir(self._out)
        pair = self._authority.server_certificate(self._names, self._out)
        state = (nodes, revoked, pair.cert.stat().st_ino)
        if state == self._state:
            return False
        content = {
            "ca.crt": self._authority.ca_pem,
            "crl.pem": self._authority.crl(revoked),
            "acl": mosquitto_acl(nodes).encode(),
            "mosquitto.conf": MOSQUITTO.format(out=self._out, port=self._port, pid_file=self._pid_file).encode(),
            "nats.conf": NATS.format(out=self._out, port=self._port, users=nats_users(nodes)).encode(),
        }
        for name, text in content.items():
            files.write(self._out / name, text)
        self._give_to_owner()
        self._state = state
        self._tell()
        log.info("broker files written", directory=self._out, nodes=len(nodes), revoked=len(revoked))
        return True

    async def run(self) -> None:
        """Follow joins and revocations until cancelled; rights that were written stay while the database is away."""
        while True:
            try:
                await self.update()
            except (SqlUnavailable, OSError) as error:
                log.warning("broker files not written", error=error)
            await self._clock.sleep(POLL_S)

    def _read(self, connection: Connection) -> tuple[list[str], list[tuple[str, datetime]]]:
        return revocation.living_nodes(connection), revocation.revoked_serials(connection, self._clock.wall())

    def _give_to_owner(self) -> None:
        """As root, let the files belong to the directory's owner: the broker reads them again after dropping rights."""
        owner = self._out.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            for path in self._out.iterdir():
                os.chown(path, owner.st_uid, owner.st_gid)

    def _tell(self) -> None:
        with suppress(OSError, ValueError):  # not running yet: it reads everything when it starts
            pid = int(self._pid_file.read_text("ascii"))
            # A stale pid file may name anybody's process.
            if Path(f"/proc/{pid}/comm").read_text("ascii").startswith("mosquitto"):
                os.kill(pid, signal.SIGHUP)


def mosquitto_acl(nodes: Sequence[str]) -> str:
    """Return Mosquitto's ``acl_file``: the cloud and each node by common name, nobody else anything."""
    cloud = [(VERBS[verb], topic) for verb, topic in topics.cloud_acl()]
    own = {node_user(node): [(VERBS[verb], topic) for verb, topic in topics.acl(node)] for node in nodes}
    blocks = [_acl_block(user, rights) for user, rights in {CLOUD_USER: cloud, **own}.items()]
    return "\n".join(blocks)


def nats_users(nodes: Sequence[str]) -> str:
    """Return the entries of NATS' ``authorization.users``: certificate subjects with their subjects to use."""
    lines = [_nats_user(f"CN={CLOUD_USER},O={ADMIN_GROUP}", topics.cloud_acl())]
    # NATS writes a subject's parts in the order of RFC 2253, which is the reverse of the certificate's.
    lines += [_nats_user(f"CN={node_user(node)},O={NODE_GROUP}", topics.acl(node)) for node in nodes]
    return "\n".join(lines)


def _acl_block(user: str, rights: Sequence[tuple[str, str]]) -> str:
    return "".join([f"user {user}\n", *(f"topic {verb} {topic}\n" for verb, topic in rights)])


def _nats_user(subject: str, rights: Sequence[tuple[str, str]]) -> str:
    def subjects(verb: str) -> str:
        found = [topic.replace("/", ".").replace("+", "*") for known, topic in rights if known == verb]
        own = ["$MQTT.>"] if verb == "subscribe" else []  # NATS' own deliveries of QoS 1
        return ", ".join(f'"{text}"' for text in [*found, *own])

    return (
        f'    {{ user: "{subject}", permissions: {{ publish: [{subjects("publish")}],'
        f" subscribe: [{subjects('subscribe')}] }} }}"
    )


def main(argv: Sequence[str]) -> int:
    """Write the files once, or keep them true."""
    parser = argparse.ArgumentParser(prog="python -m cloudcore.broker_files", description=__doc__)
    parser.add_argument("data_dir", type=Path, help="cloudcore's data directory")
    parser.add_argument("out", type=Path, help="directory for the broker's files")
    parser.add_argument("--database", default="", help="as in cloudcore's settings; default DATA_DIR/cloud.db")
    parser.add_argument(
        "--name", action="append", default=[], help="host name or address of the broker; may be repeated"
    )
    parser.add_argument("--port", type=int, default=8883, help="the broker's TLS port")
    parser.add_argument("--pid-file", type=Path, help="Mosquitto's pid file; default OUT/mosquitto.pid")
    parser.add_argument("--watch", action="store_true", help="follow joins and revocations until stopped")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(_main(arguments))
    except KeyboardInterrupt:
        return 0
    except (SkerryError, OSError) as error:
        sys.stderr.write(f"broker files: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


async def _main(arguments: argparse.Namespace) -> None:
    clock = SystemClock()
    authority = Authority.open_or_create(arguments.data_dir / "pki", clock)
    sql = Sql.open(arguments.database or f"sqlite:///{arguments.data_dir / 'cloud.db'}")
    written = BrokerFiles(
        sql,
        authority,
        arguments.out,
        clock=clock,
        names=arguments.name,
        port=arguments.port,
        pid_file=arguments.pid_file,
    )
    try:
        await written.update()
        if arguments.watch:
            await written.run()
    finally:
        await sql.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
