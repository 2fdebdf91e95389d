"""The command line without a daemon: usage, settings, tokens, history, nodes, doctor."""

import asyncio
import csv
import io
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cloudcore import revocation
from cloudcore.history import History
from cloudcore.settings import Settings
from cloudcore.sql import Sql
from proto.kit.clock import SystemClock, wall_ms
from proto.kit.metrics import Metrics
from proto.kit.settings import describe
from proto.link.replica import MessageRow
from tests.unit.cloudcore.cli import Said, run


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    made = tmp_path / "cloud"
    made.mkdir(mode=0o700)
    return made


def call(cloud: Path, *argv: str) -> Said:
    return run(*argv, "--data-dir", str(cloud))


def test_print_settings_shows_what_is_in_force(cloud: Path) -> None:
    said = call(cloud, "serve", "--print-settings", "--set", "api.port=7443", "--broker", "mqtts://mq:8883")

    assert said.code == 0
    assert "port: 7443" in said.out
    assert "url: mqtts://mq:8883" in said.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--set", "api.prot=1"), "api.port"),
        (("--set", "broker.url=http://x"), "mqtts://HOST:8883"),
        (("--set", "broker.mqtt_version=3"), "4 (MQTT 3.1.1) or 5"),
        (("--database", "mysql://root:secret@h/d"), "postgresql+psycopg"),
        (("--config", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("--set", "admin.port=99999"), "settings"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_what_to_write(cloud: Path, argv: tuple[str, ...], words: str) -> None:
    said = call(cloud, "serve", "--print-settings", *argv)

    assert said.code == 2
    assert words in said.err
    assert "secret" not in said.err
    assert "Traceback" not in said.err


def test_every_setting_can_be_given_alone(cloud: Path) -> None:
    shown = {doc.key: doc.default for doc in describe(Settings) if doc.default.isdigit()}
    assert len(shown) > 40
    wrong = [
        said.err
        for said in (call(cloud, "serve", "--print-settings", "--set", f"{k}={v}") for k, v in shown.items())
        if said.code
    ]
    assert not wrong


def test_a_token_is_made_listed_without_its_secret_and_deleted(cloud: Path) -> None:
    token = call(cloud, "token", "create", "--node", "gw-1", "--ttl", "30m", "-o", "json").json["token"]
    token_id, secret, _ = token.split(".")

    listed = call(cloud, "token", "list")
    assert token_id in listed.out
    assert "gw-1" in listed.out
    assert secret not in listed.out
    assert call(cloud, "token", "delete", token_id).code == 0
    assert call(cloud, "token", "delete", token_id).code == 2


@pytest.mark.parametrize("ttl", ["", "1", "5y", "1h30", "-1h"])
def test_a_time_that_is_none_is_refused(cloud: Path, ttl: str) -> None:
    said = call(cloud, "token", "create", f"--ttl={ttl}")

    assert said.code == 2
    assert "2h" in said.err


async def fill(cloud: Path, *uids: str) -> None:
    sql = Sql.open(f"sqlite:///{cloud / 'cloud.db'}")
    history = History(sql, clock=SystemClock(), metrics=Metrics())
    now_ms = wall_ms(SystemClock())
    reports = [("temp", "20", 7_200_000), ("temp", "2,1", 60_000), ("load", 'say "hi"', 1_000)]
    rows = [
        MessageRow(i, "history", msgspec.json.encode(["default", "kiln", uid, now_ms - age, i, {name: value}]))
        for i, ((name, value, age), uid) in enumerate(zip(reports, uids or ("u", "u", "u"), strict=True), 1)
    ]
    await history.apply("gw-1", "disk", rows)
    await sql.close()


def test_history_is_printed_as_text_csv_and_json(cloud: Path) -> None:
    asyncio.run(fill(cloud))

    text = call(cloud, "history", "kiln")
    assert [line.split()[1] for line in text.out.splitlines()[1:]] == ["temp", "temp", "load"]
    rows = list(csv.DictReader(io.StringIO(call(cloud, "history", "default/kiln", "-o", "csv").out)))
    assert [row["value"] for row in rows] == ["20", "2,1", 'say "hi"']
    found = call(cloud, "history", "kiln", "--property", "temp", "--since", "1h", "-o", "json").json
    assert [(row["property"], row["value"], row["node"]) for row in found] == [("temp", "2,1", "gw-1")]


def test_history_tells_a_device_from_an_earlier_one_of_its_name(cloud: Path) -> None:
    asyncio.run(fill(cloud, "older", "younger", "younger"))

    lines = call(cloud, "history", "kiln").out.splitlines()

    assert lines[0].split() == ["AT", "PROPERTY", "VALUE", "NODE", "UID"]
    assert [line.split()[-1] for line in lines[1:]] == ["older", "younger", "younger"]


async def fill_oddly(cloud: Path) -> None:
    sql = Sql.open(f"sqlite:///{cloud / 'cloud.db'}")
    body = msgspec.json.encode(["default", "odd", "u", 1 << 62, 1, {"temp": "\x1b[2J"}])
    await History(sql, clock=SystemClock(), metrics=Metrics()).apply("gw-1", "disk", [MessageRow(1, "history", body)])
    await sql.close()


def test_history_shows_times_beyond_the_calendar_and_values_that_would_steer_a_terminal(cloud: Path) -> None:
    asyncio.run(fill_oddly(cloud))

    said = call(cloud, "history", "odd")

    assert said.code == 0
    assert f"{1 << 62} ms" in said.out
    assert "\\x1b[2J" in said.out


def test_history_of_an_unknown_device_is_empty_and_no_error(cloud: Path) -> None:
    said = call(cloud, "history", "nobody")

    assert (said.code, said.out) == (0, "")
    assert "no reports of default/nobody" in said.err


def test_a_data_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    said = call(tmp_path / "none", "history", "kiln")

    assert said.code == 2
    assert "cloudcore serve --data-dir" in said.err
    assert not (tmp_path / "none").exists()


async def joined(cloud: Path, node: str) -> None:
    now = SystemClock().wall()
    sql = Sql.open(f"sqlite:///{cloud / 'cloud.db'}")
    until = now + timedelta(days=1)
    await sql.tx(lambda c: revocation.record(c, node, serial="01", key_hash="x", not_after=until, now=now))
    await sql.close()


def test_a_node_that_never_joined_cannot_be_revoked(cloud: Path) -> None:
    said = call(cloud, "node", "revoke", "gw-1")

    assert (said.code, said.out) == (1, "")
    assert "no node gw-1 has joined this cloud" in said.err
    assert call(cloud, "node", "list", "-o", "json").json == []


def test_a_revoked_node_is_listed_as_such(cloud: Path) -> None:
    asyncio.run(joined(cloud, "gw-1"))
    assert call(cloud, "node", "revoke", "gw-1", "--reason", "stolen").code == 0

    (node,) = call(cloud, "node", "list", "-o", "json").json
    assert (node["node"], node["reason"]) == ("gw-1", "stolen")
    assert call(cloud, "node", "revoke", "GW_1").code == 2


def test_status_without_a_daemon_says_how_to_start_one(cloud: Path) -> None:
    said = call(cloud, "status")

    assert said.code == 1
    assert f"cloudcore serve --data-dir {cloud}" in said.err
    assert call(cloud, "status", "-o", "json").json == {"ready": False}


def verdicts(said: Said) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in said.json["checks"]}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_the_doctor_names_a_taken_port_and_the_command_that_finds_its_owner(cloud: Path, taken_port: int) -> None:
    said = call(cloud, "doctor", "-o", "json", "--set", f"broker.port={taken_port}")

    check = verdicts(said)[f"port {taken_port}"]
    assert said.code == 1
    assert "broker" in check["message"]
    assert check["next"].startswith(f"ss -ltnp 'sport = :{taken_port}'")


def test_the_doctor_names_a_damaged_database(cloud: Path) -> None:
    (cloud / "kube.db").write_bytes(b"rubbish" * 1000)

    check = verdicts(call(cloud, "doctor", "-o", "json"))["database kube.db"]

    assert check["level"] == "Error"
    assert "cloudcore restore FILE" in check["next"]


def test_the_doctor_names_an_open_key(cloud: Path) -> None:
    call(cloud, "token", "create")
    (cloud / "pki" / "ca.key").chmod(0o644)

    check = verdicts(call(cloud, "doctor", "-o", "json"))["data directory"]

    assert check["level"] == "Error"
    assert check["next"].startswith("chmod go= ")


def test_the_doctor_names_a_wrong_setting_and_goes_on(cloud: Path) -> None:
    found = verdicts(call(cloud, "doctor", "-o", "json", "--set", "api.prot=1"))

    assert "api.port" in found["settings"]["message"]
    assert found["data directory"]["level"] == "OK"


def test_the_doctor_names_an_unreachable_postgresql_without_its_password(cloud: Path) -> None:
    url = "postgresql+psycopg://skerry:hunter2@127.0.0.1:1/skerry"

    said = call(cloud, "doctor", "-o", "json", "--database", url)

    check = verdicts(said)["PostgreSQL"]
    assert check["level"] == "Error"
    assert "refused" in check["message"].lower()
    assert "hunter2" not in said.out


def test_the_doctor_names_an_unreachable_api_server(cloud: Path, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        """{clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: u, user: {token: t}}],
        contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}"""
    )

    check = verdicts(call(cloud, "doctor", "-o", "json", "--kubeconfig", str(config)))["API server"]

    assert check["level"] == "Error"
    assert check["next"] == f"kubectl --kubeconfig {config} get --raw /version"


def test_help_starts_without_the_heavy_imports() -> None:
    code = (
        "import sys, cloudcore.cli as c; c.parser().format_help(); "
        "print([m for m in ('sqlalchemy','pydantic','kubernetes','grpc','cryptography','psycopg') if m in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert said.stdout.strip() == "[]"
