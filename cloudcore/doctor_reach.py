"""The doctor's checks that leave the process: SQL, the API server, its definitions, the broker."""

import asyncio
from pathlib import Path

from cloudcore import broker, crds
from cloudcore.commands.api import access_of
from cloudcore.doctor import Patient
from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import ApiRefused, ApiUnavailable, Forbidden, NotFound
from cloudcore.kube.resources import CRD
from cloudcore.settings import Settings
from proto.kit.checkup import Check
from proto.kit.clock import SystemClock
from proto.kit.errors import SkerryError, UsageError
from proto.kit.httpclient import HttpLimits, HttpUntrusted
from proto.link.broker import Refused

TIMEOUT_S = 6.0
MAX_ASKED = 3  # nodes: what is wrong for one is mostly wrong for all
QUICK = HttpLimits(connect_timeout_s=TIMEOUT_S, request_timeout_s=TIMEOUT_S)


def _settings(patient: Patient) -> Settings:
    assert patient.settings is not None
    return patient.settings


async def check_sql(patient: Patient) -> list[Check]:
    """PostgreSQL only: the file's own check is a local one."""
    settings, name = _settings(patient), "PostgreSQL"
    url = settings.database_url(patient.data_dir)
    if not url.startswith("postgresql"):
        return []
    from sqlalchemy import text  # noqa: PLC0415  heavy, and only here
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from cloudcore.sql import make_engine  # noqa: PLC0415

    def ask() -> str:
        engine = make_engine(url)
        try:
            with engine.connect() as connection:
                return str(connection.execute(text("SHOW server_version")).scalar())
        finally:
            engine.dispose()

    try:
        async with asyncio.timeout(TIMEOUT_S):
            version = await asyncio.to_thread(ask)
    except TimeoutError:
        return [Check(name, "Error", f"no answer within {TIMEOUT_S:g} s", "pg_isready -d history.database")]
    except (SQLAlchemyError, SkerryError) as error:
        first = str(getattr(error, "orig", error)).strip().splitlines()[0]
        return [Check(name, "Error", f"cannot be reached: {first}", "psql 'URL of history.database' -c 'select 1'")]
    return [Check(name, "OK", f"server {version}")]


async def check_api(patient: Patient) -> list[Check]:
    settings, name = _settings(patient), "API server"
    if settings.embedded_api and not patient.running:
        return []
    shown = settings.api.kubeconfig or str(patient.data_dir / "admin.kubeconfig")
    ask = f"kubectl --kubeconfig {shown} get --raw /version"
    try:
        client = KubeClient(access_of(settings, patient.data_dir), limits=QUICK)
    except UsageError as error:
        return [Check(name, "Error", str(error), f"ls -l {shown}")]
    try:
        version = await client.raw("GET", "/version")
    except HttpUntrusted as error:
        return [Check(name, "Error", f"{client.server}: {error}", ask)]
    except ApiUnavailable as error:
        return [Check(name, "Error", f"{client.server} does not answer: {error}", ask)]
    except ApiRefused as error:
        return [
            Check(name, "Error", f"{client.server} refuses us: {error}", f"kubectl --kubeconfig {shown} auth whoami")
        ]
    finally:
        await client.close()
    return [Check(name, "OK", f"{client.server}, version {version.get('gitVersion', 'unknown')}")]


async def check_definitions(patient: Patient) -> list[Check]:
    settings, name = _settings(patient), "definitions"
    if settings.embedded_api and not patient.running:
        return []
    mend = f"cloudcore crds apply {patient.flag}"
    if settings.api.kubeconfig:
        mend += f" --kubeconfig {settings.api.kubeconfig}"
    missing: list[str] = []
    try:
        client = KubeClient(access_of(settings, patient.data_dir), limits=QUICK)
        try:
            for wanted in crds.definitions():
                try:
                    await client.get(CRD, "", wanted["metadata"]["name"])
                except NotFound:
                    missing.append(wanted["metadata"]["name"])
        finally:
            await client.close()
    except Forbidden as error:
        text = f"this user lacks rights: {error}"
        look = f"kubectl --kubeconfig {settings.api.kubeconfig} auth can-i --list"
        return [Check(name, "Error", text, f"{look}  # compare with the ClusterRole in docs/cloudcore.md")]
    except SkerryError:
        return []  # the check before says why
    if missing:
        return [Check(name, "Error", f"not installed: {', '.join(missing)}", mend)]
    return [Check(name, "OK", "our custom resource definitions are installed")]


async def check_broker(patient: Patient) -> list[Check]:
    settings, name = _settings(patient), "broker"
    if settings.embedded_broker:
        return []
    pki = patient.data_dir / "pki"
    url = settings.broker.url
    try:
        door = broker.foreign(
            settings.broker,
            ca=pki / "ca.crt",
            cert=pki / "cloudcore.crt",
            key=pki / "cloudcore.key",
            clock=SystemClock(),
            frame_bytes=settings.link.frame_bytes,
        )
        async with asyncio.timeout(TIMEOUT_S):
            connection = await door.connect("cloudcore-doctor")
            await connection.close()
    except TimeoutError:
        return [Check(name, "Error", f"{url}: no answer within {TIMEOUT_S:g} s", f"nc -vz {_host_port(url)}")]
    except Refused as error:
        rights = f"python -m cloudcore.broker_files {patient.data_dir} {Path('OUT')}"
        return [Check(name, "Error", f"{url} refuses cloudcore: {error}", rights)]
    except SkerryError as error:
        return [Check(name, "Error", f"{url}: {error}", f"openssl s_client -connect {_host_port(url, ':')}")]
    return [Check(name, "OK", f"{url} lets cloudcore in")]


async def check_calls(patient: Patient) -> list[Check]:
    """Ask connected nodes by the way that kubectl logs and exec take: API server, kubelet API, link."""
    settings, name = _settings(patient), "logs and exec"
    nodes = (patient.live or {}).get("nodes", {})
    asked = [node for node, found in nodes.items() if found["connected"]][:MAX_ASKED]
    if not asked:
        return []
    try:
        client = KubeClient(access_of(settings, patient.data_dir), limits=QUICK)
    except UsageError:
        return []  # the check of the API server says why
    try:
        for node in asked:
            try:
                await client.raw("GET", f"/api/v1/nodes/{node}/proxy/nodes/{node}/ping")
            except Forbidden:
                text = "not tested: this user may not ask nodes/proxy"
                return [Check(name, "OK", text)]
            except SkerryError as error:
                look = f"kubectl get node {node} -o jsonpath={{.status.addresses}}  # the API server dials kubelet.advertise"
                return [Check(name, "Error", f"the API server does not reach {node}: {error}", look)]
    finally:
        await client.close()
    return [Check(name, "OK", f"the API server reaches {', '.join(asked)}")]


def _host_port(url: str, between: str = " ") -> str:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition("@")[2].partition(":")
    return f"{host}{between}{port or ('8883' if scheme == 'mqtts' else '1883')}"
