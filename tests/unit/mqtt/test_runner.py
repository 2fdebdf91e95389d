"""``python -m proto.mqtt`` as people meet it."""

import socket
from pathlib import Path

import pytest

from proto.kit.errors import UsageError
from proto.mqtt import __main__ as runner
from proto.mqtt.identity import Identity, peer_certificate
from proto.mqtt.limits import TokenBucket
from proto.mqtt.timers import MIN_SWEEP, Timers

ANYBODY = Identity("x")


def test_acl_file_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text("# rights\n\ndeny publish a/secret\nallow publish a/+\nallow subscribe a/#\n")
    acl = runner.read_acl(path)
    assert [acl(ANYBODY, "publish", topic) for topic in ("a/secret", "a/b", "b")] == [False, True, False]
    assert acl(ANYBODY, "subscribe", "a/#")
    assert not acl(ANYBODY, "receive", "a/b")


def test_a_bad_acl_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text("allow publish a\nallow everything\n")
    with pytest.raises(UsageError, match=":2: write it as"):
        runner.read_acl(path)


def test_a_taken_port_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("sys.argv", ["mqtt", "--port", str(taken.getsockname()[1])])
        assert runner.main() == 2
    assert "address already in use" in capsys.readouterr().err


def test_cancelled_timers_are_forgotten() -> None:
    timers, rang = Timers(), []
    for number in range(MIN_SWEEP * 3):
        timers.at(number, lambda: rang.append(1)).cancel()
    timers.at(5.0, lambda: rang.append(2))
    assert len(timers) < MIN_SWEEP * 2

    timers.run(10.0)

    assert rang == [2]


def test_token_bucket_pays_its_debt() -> None:
    bucket = TokenBucket(10.0, 5.0, 0.0)
    assert bucket.take(5, 0.0) == 0.0
    assert bucket.take(10, 0.0) == 1.0
    assert not bucket.try_take(1.0)
    assert bucket.try_take(1.2)


def test_a_certificate_with_two_common_names_has_none() -> None:
    rdn = (("commonName", "a"), ("commonName", "b"))
    found = peer_certificate({"subject": (rdn,), "serialNumber": "0A", "subjectAltName": (("DNS", "h"),)})
    assert found is not None
    assert (found.common_name, found.serial, found.dns_names) == ("", "0A", ("h",))
    assert peer_certificate(None) is None
