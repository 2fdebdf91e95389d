"""Kubeconfigs of every form that needs no plugin, and one that does."""

import asyncio
import base64
import sys
import threading
from pathlib import Path

import pytest
import yaml

from cloudcore.kube import config
from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import ApiUnavailable
from cloudcore.kube.resources import NODE
from proto.kit.errors import UsageError
from tests.kit.wait import eventually


def write(path: Path, cluster: dict[str, object] | None = None, user: dict[str, object] | None = None) -> Path:
    file = path / "kubeconfig"
    content = {
        "clusters": [{"name": "c", "cluster": {"server": "https://api:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_token_is_used_as_it_is(tmp_path: Path) -> None:
    access = config.load(write(tmp_path, user={"token": "abc"}))

    assert access.server == "https://api:6443"
    assert access.token is not None
    assert access.token() == "abc"


def test_a_token_file_is_read_at_each_request(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    access = config.load(write(tmp_path, user={"tokenFile": "token"}))
    assert access.token is not None
    assert access.token() == "one"

    (tmp_path / "token").write_text("two\n")

    assert access.token() == "two"


def test_the_servers_name_can_be_set(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, {"tls-server-name": "kubernetes"})).server_hostname == "kubernetes"


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({"certificate-authority": "missing.pem"}, {}, "missing.pem"),
        ({"certificate-authority-data": base64.b64encode(b"rubbish").decode()}, {}, "TLS files"),
        ({}, {"client-certificate": "no.crt", "client-key": "no.key"}, "no.crt"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(
    tmp_path: Path, cluster: dict[str, object], user: dict[str, object], words: str
) -> None:
    access = config.load(write(tmp_path, cluster, user))
    assert access.context is not None

    with pytest.raises(UsageError, match=words):
        access.context()


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "[]", "{current-context: x}", "{contexts: [], current-context: x}", "[" * 5000, "#" * (5 << 20)],
)
def test_what_is_no_kubeconfig_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)

    with pytest.raises(UsageError, match=str(file)):
        config.load(file)


def test_data_that_is_no_base64_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="certificate-authority-data is not base64"):
        config.load(write(tmp_path, {"certificate-authority-data": "%%"}))


def test_an_exec_plugin_gives_the_token(tmp_path: Path) -> None:
    answer = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "fresh"}}'
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", f"print('''{answer}''')"],
        "interactiveMode": "Never",
    }

    access = config.load(write(tmp_path, user={"exec": plugin}))

    assert access.token is not None
    assert access.token() == "fresh"


def test_outside_a_pod_there_is_no_cluster_to_be_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(UsageError, match="--kubeconfig"):
        config.load(None)


async def test_a_plugin_that_takes_its_time_holds_up_nobody_else() -> None:
    asked, answer = threading.Event(), threading.Event()

    def token() -> str:
        asked.set()
        assert answer.wait(10)
        raise OSError("no such token")

    client = KubeClient(config.KubeAccess("http://127.0.0.1:9", context=None, token=token, token_blocks=True))
    async with asyncio.TaskGroup() as group:
        request = group.create_task(said(client))
        await eventually(asked.is_set)
        answer.set()  # the loop still runs

    assert "no such token" in request.result()


async def test_a_token_file_that_is_away_is_asked_for_again(tmp_path: Path) -> None:
    access = config.load(write(tmp_path, user={"tokenFile": "token"}))

    assert "no token for the API server" in await said(KubeClient(access))


async def said(client: KubeClient) -> str:
    """What a request fails with."""
    with pytest.raises(ApiUnavailable) as failed:
        await client.get(NODE, "", "gw-1")
    await client.close()
    return str(failed.value)
