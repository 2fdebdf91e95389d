"""Backoff, canonical JSON, names, metrics, readiness."""

import asyncio
import contextlib
import os
import random
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.kit import canonical, daemon
from proto.kit.backoff import Backoff
from proto.kit.errors import MalformedMessage
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.names import ObjectKey, is_node_name, parse_key

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


def test_backoff_grows_to_its_cap_with_full_jitter() -> None:
    backoff = Backoff(base_s=1.0, cap_s=8.0, rng=random.Random(7))

    delays = [backoff.next_s() for _ in range(200)]

    assert all(0 < d <= min(8.0, 2.0**n) for n, d in enumerate(delays))
    assert max(delays) > 7.0
    assert min(delays[10:]) < 1.0


def test_backoff_begins_anew_after_a_success() -> None:
    backoff = Backoff(base_s=0.1, cap_s=100.0, rng=random.Random(1))
    for _ in range(20):
        backoff.next_s()
    backoff.reset()

    assert backoff.next_s() <= 0.1


def test_the_digest_ignores_status_and_bookkeeping_only() -> None:
    plain = {"metadata": {"name": "a"}, "spec": {"x": 1, "y": 2}}
    dressed = {
        "status": {"z": 1},
        "spec": {"y": 2, "x": 1},
        "metadata": {"resourceVersion": "7", "managedFields": [], "name": "a"},
    }

    assert canonical.digest(plain) == canonical.digest(dressed)
    assert canonical.digest(plain) != canonical.digest({**plain, "spec": {"x": 1}})
    assert len(canonical.digest(plain)) == 16


@given(st.sampled_from(["", "apps", "devices.kubeedge.io"]), NAMES, st.one_of(st.just(""), NAMES), NAMES)
def test_an_object_key_reads_back(group: str, plural: str, namespace: str, name: str) -> None:
    key = ObjectKey(group, plural, namespace, name)

    assert parse_key(str(key)) == key


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/c/d/e", "a//c/d"])
def test_a_bad_object_key_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_key(text)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("gw-1", True),
        ("a" * 52, True),
        ("a" * 53, False),
        ("GW", False),
        ("-a", False),
        ("a/b", False),
        ("", False),
        ("a\n", False),
    ],
)
def test_node_names_are_dns_labels(name: str, good: bool) -> None:
    assert is_node_name(name) is good


def test_metrics_render_as_prometheus_text() -> None:
    metrics = Metrics()
    metrics.counter("x_total", "X.", ["why"]).inc('a "quoted"\nword', by=2)
    metrics.gauge("g", "G.", source=lambda: 1.5)
    metrics.histogram("h_seconds", "H.", [0.1, 1]).observe(0.5)

    text = metrics.render()

    assert '# TYPE x_total counter\nx_total{why="a \\"quoted\\"\\nword"} 2\n' in text
    assert "g 1.5\n" in text
    assert 'h_seconds_bucket{le="0.1"} 0\nh_seconds_bucket{le="1"} 1\nh_seconds_bucket{le="+Inf"} 1' in text


def test_systemd_hears_that_the_daemon_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        monkeypatch.setitem(os.environ, "NOTIFY_SOCKET", path)
        daemon.ready("edgecore", {"api": "127.0.0.1:1"})
        sock.settimeout(5)
        assert sock.recv(100) == b"READY=1"
    assert capsys.readouterr().out == "edgecore ready api=127.0.0.1:1\n"


async def test_ctrl_c_that_an_await_swallowed_still_ends_the_daemon() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # what asyncio.Runner does at SIGINT
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await daemon.Supervisor().run_until_signal()

    async with asyncio.timeout(5):
        await asyncio.gather(main())


def test_a_log_line_stays_one_line_whatever_others_sent(caplog: pytest.LogCaptureFixture) -> None:
    Logger("test").warning("refused", user="a\n2026-01-01 INFO forged\x1b[2J", name="käfer")

    assert caplog.messages == ['refused user="a\\n2026-01-01 INFO forged\\x1b[2J" name=käfer']
