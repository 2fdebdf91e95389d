import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudcore.certs import Authority
from edgecore import cloud_time, settings
from edgecore.cli import main
from edgecore.data_dir import DataDir, Lock, Running
from edgecore.doctor import Patient, examine
from proto.kit.checkup import Check
from proto.kit.clock import SystemClock
from proto.kit.tls import server_context

ACCEPTED, NOT_AUTHORISED = b"\x20\x02\x00\x00", b"\x20\x02\x00\x05"


def patient_of(directory: DataDir, *sets: str, **changes: Any) -> Patient:
    wanted = settings.load(directory.path, sets=["api.port=0", "device_broker.port=0", *sets], env={})
    patient = Patient(directory, wanted, "", None, None, SystemClock().wall())
    return Patient(**{**{name: getattr(patient, name) for name in Patient.__slots__}, **changes})


def verdict(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve one connection in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(5)


def mqtt(authority: Authority, connack: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        pair = authority.server_certificate()
        context = server_context(pair.cert, pair.key, authority.ca_file, require_client=True)
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(100)
            tls.sendall(connack)

    return answer


def test_a_healthy_joined_node_has_no_error(joined: DataDir, authority: Authority) -> None:
    with listener(mqtt(authority, ACCEPTED)) as port:
        checks = examine(patient_of(joined, f"cloud.broker=mqtts://localhost:{port}"))

    assert [check for check in checks if check.level == "Error"] == []
    assert {"DNS", "TCP", "TLS", "MQTT", "certificate", "CA", "clock", "disk space"} <= {c.name for c in checks}


def test_a_node_that_never_joined_is_told_to_join(directory: DataDir) -> None:
    checks = examine(patient_of(directory))

    assert verdict(checks, "certificate").message == "this node has not joined a cloud"
    assert verdict(checks, "certificate").next.startswith("edgecore join --cloud URL")


def test_a_refused_identity_is_named(joined: DataDir, authority: Authority) -> None:
    with listener(mqtt(authority, NOT_AUTHORISED)) as port:
        check = verdict(examine(patient_of(joined, f"cloud.broker=mqtts://127.0.0.1:{port}")), "MQTT")

    assert check.level == "Error"
    assert "not authorised" in check.message


def test_a_server_of_another_ca_is_named(joined: DataDir, tmp_path: Path) -> None:
    stranger = Authority.open_or_create(tmp_path / "stranger", SystemClock())
    with listener(mqtt(stranger, ACCEPTED)) as port:
        check = verdict(examine(patient_of(joined, f"cloud.broker=mqtts://127.0.0.1:{port}")), "TLS")

    assert check.level == "Error"
    assert "another CA" in check.message


def test_a_server_of_another_name_is_named(joined: DataDir, authority: Authority) -> None:
    with listener(mqtt(authority, ACCEPTED)) as port:
        sets = (f"cloud.broker=mqtts://127.0.0.1:{port}", "cloud.server_name=other.skerry")
        check = verdict(examine(patient_of(joined, *sets)), "TLS")

    assert "does not carry the name other.skerry" in check.message


def test_a_name_without_address_is_named(joined: DataDir) -> None:
    check = verdict(examine(patient_of(joined, "cloud.broker=mqtts://nowhere.invalid:8883")), "DNS")

    assert (check.level, check.next.split()[0]) == ("Error", "getent")


def test_a_closed_port_is_named(joined: DataDir) -> None:
    check = verdict(examine(patient_of(joined, "cloud.broker=mqtts://127.0.0.1:1")), "TCP")

    assert "refused" in check.message.lower()


def test_a_clock_before_the_certificate_is_named(joined: DataDir) -> None:
    now = SystemClock().wall() - timedelta(days=3000)

    assert "clock is behind" in verdict(examine(patient_of(joined, now=now)), "clock").message


def test_a_clock_before_our_own_last_write_is_named(directory: DataDir) -> None:
    directory.settings.write_text("node: gw-1\n")
    now = SystemClock().wall() - timedelta(minutes=30)

    assert "our own last write" in verdict(examine(patient_of(directory, now=now)), "clock").message


def test_an_expired_certificate_is_named(joined: DataDir) -> None:
    now = SystemClock().wall() + timedelta(days=3000)

    assert verdict(examine(patient_of(joined, now=now)), "certificate").message.startswith("expired at")


def test_a_damaged_database_is_named_and_left_as_it_is(joined: DataDir) -> None:
    joined.database.write_bytes(b"SQLite format 3\x00" + os.urandom(8192))
    before = joined.database.read_bytes()

    check = verdict(examine(patient_of(joined)), "database")

    assert check.level == "Error"
    assert "damaged" in check.message
    assert joined.database.read_bytes() == before


def test_a_taken_port_is_named_with_the_setting(joined: DataDir) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check = verdict(examine(patient_of(joined, f"device_broker.port={port}")), "port of the device broker")

    assert check.message.endswith(f"127.0.0.1:{port}: it is taken by another process")
    assert "device_broker.port" in check.next


def test_a_key_that_others_can_read_is_an_error(joined: DataDir) -> None:
    joined.key.chmod(0o644)

    check = verdict(examine(patient_of(joined)), "data directory")

    assert (check.level, check.next) == ("Error", f"chmod 600 {joined.key}")


def test_a_fenced_node_is_told_to_reset(joined: DataDir) -> None:
    check = verdict(examine(patient_of(joined, live={"link": {"fenced": True}}, running=Running(1, "", 1))), "fenced")

    assert check.next.startswith("edgecore reset")


def test_a_nearly_full_outbox_is_a_warning(joined: DataDir) -> None:
    link = {"pending_bytes": 900, "pending_messages": 9}
    checks = examine(patient_of(joined, "link.message_quota_bytes=1000", pending=link))

    assert verdict(checks, "outbox").level == "Warning"


def test_a_daemon_that_does_not_answer_is_a_warning(joined: DataDir) -> None:
    lock = Lock(joined)
    lock.take()

    check = verdict(examine(patient_of(joined, running=joined.running())), "daemon")
    lock.release()

    assert "does not answer" in check.message


def test_wrong_settings_are_one_error_and_the_other_checks_go_on(joined: DataDir, capsys: Any) -> None:
    joined.settings.write_text("nod: gw-1\n")

    code = main(["doctor", "--data-dir", str(joined.path), "-o", "json"])
    document = msgspec.json.decode(capsys.readouterr().out)

    assert (code, document["version"], document["ok"]) == (1, 1, False)
    by_name = {check["name"]: check for check in document["checks"]}
    assert "the nearest known one is 'node'" in by_name["settings"]["message"]
    assert by_name["certificate"]["level"] == "OK"


def test_the_text_form_ends_with_a_count(joined: DataDir, capsys: Any) -> None:
    code = main(["doctor", "--data-dir", str(joined.path), "--set", "api.port=0"])

    lines = capsys.readouterr().out.strip().splitlines()
    assert code == 1
    assert lines[-1].endswith("warnings")
    assert any(line.strip().startswith("next: ") for line in lines)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_that_is_no_mqtt_broker_is_no_traceback(joined: DataDir, answer: bytes) -> None:
    with listener(lambda connection: connection.sendall(answer)) as port:
        checks = examine(patient_of(joined, f"cloud.broker=mqtts://127.0.0.1:{port}"))

    assert verdict(checks, "TLS").level == "Error"
    assert isinstance(verdict(checks, "TLS").message, str)


@pytest.mark.parametrize(
    ("skew", "level"),
    [
        (timedelta(seconds=30), "OK"),
        (timedelta(minutes=-10), "Warning"),
        (timedelta(days=2), "Error"),
    ],
)
def test_a_clock_that_differs_from_the_cloud_s_is_judged(skew: timedelta, level: str) -> None:
    assert cloud_time.judge(skew)[1] == level


def https(authority: Authority, answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        pair = authority.server_certificate()
        with server_context(pair.cert, pair.key).wrap_socket(connection, server_side=True) as tls:
            tls.recv(1000)
            tls.sendall(answer)

    return serve


def test_the_cloud_s_clock_is_read_from_its_renewal_endpoint(joined: DataDir, authority: Authority) -> None:
    answer = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\nx"
    with listener(https(authority, answer)) as port:
        checks = examine(patient_of(joined, f"cloud.join=https://127.0.0.1:{port}"))

    assert verdict(checks, "renewal endpoint").level == "OK"
    assert "ahead of the cloud's" in verdict(checks, "clock against cloud").message


def test_a_renewal_endpoint_that_is_away_is_a_warning(joined: DataDir) -> None:
    checks = examine(patient_of(joined, "cloud.join=https://127.0.0.1:1"))

    assert verdict(checks, "renewal endpoint").level == "Warning"


@pytest.mark.parametrize(("trouble", "level"), [("", "OK"), ("the broker refuses streams: no right", "Warning")])
def test_whether_logs_and_exec_can_work_is_told(joined: DataDir, trouble: str, level: str) -> None:
    live = {"link": {"connected": True, "since": "now", "epoch": 3, "streams": trouble}}
    check = verdict(examine(patient_of(joined, live=live, running=Running(1, "", 1))), "logs and exec")
    assert check.level == level
    assert trouble in check.message


BAD_POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: A_B, image: b}\n"


def test_a_bad_file_of_a_static_pod_is_named_with_its_line(joined: DataDir) -> None:
    """VOL-8."""
    folder = joined.path / "manifests"
    folder.mkdir()
    (folder / "good.yaml").write_text(BAD_POD.replace("A_B", "a"))
    assert verdict(examine(patient_of(joined)), "static pods").level == "OK"

    (folder / "bad.yaml").write_text(BAD_POD)
    check = verdict(examine(patient_of(joined)), "static pods")

    assert (check.level, check.message.startswith("bad.yaml: line 6")) == ("Error", True), check.message
    assert check.next.endswith(str(folder / "bad.yaml"))


def test_a_node_that_shall_run_no_pods_lacks_no_runtime(joined: DataDir) -> None:
    assert verdict(examine(patient_of(joined, "pods.runtime=none")), "pod runtime").level == "OK"


def test_a_runtime_that_does_not_answer_is_named_with_what_to_look_at(joined: DataDir, tmp_path: Path) -> None:
    sets = ("pods.runtime=cri", f"pods.cri_socket={tmp_path / 'nobody.sock'}")
    check = verdict(examine(patient_of(joined, *sets)), "pod runtime")

    assert (check.level, check.next) == ("Error", "systemctl status containerd")


def test_the_local_api_is_looked_at_while_the_daemon_runs(joined: DataDir) -> None:
    sets = ("local_api.pod_address=192.0.2.77",)
    assert not [c for c in examine(patient_of(joined, *sets)) if c.name == "local API"], "nobody serves it now"

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = f"local_api.port={server.getsockname()[1]}"
        checks = examine(patient_of(joined, *sets, port, live={"link": {}}))
    silent = verdict(examine(patient_of(joined, *sets, port, live={"link": {}})), "local API")

    with socket.create_server(("127.0.0.1", 0)) as server:
        started = {"local_api": {"port": server.getsockname()[1]}}
        elsewhere = verdict(examine(patient_of(joined, *sets, port, live={"link": {}, **started})), "local API")

    assert (verdict(checks, "local API").level, silent.level, elsewhere.level) == ("OK", "Error", "OK")
    assert verdict(checks, "pod address").next == "ip address add 192.0.2.77/32 dev lo"
