"""Bad input at every door of a running platform: one clear sentence, the right code, a counter, and both daemons live."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest
import pytest_asyncio

from cloudcore.kube import config
from proto.kit.httpclient import HttpClient, Response
from tests.kit.command import failed, say
from tests.kit.devices import MODEL, oven
from tests.kit.kube import DEVICES
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPACE = f"{DEVICES}/namespaces/default"
JSON = "application/json"
ANSWER_S = 12.0  # longer than any door waits for a slow client


@dataclass
class Site:
    """One cloud with one edge and one oven, shared by every test of this file."""

    platform: Platform
    edge: Edge
    path: Path
    http: HttpClient
    token: str

    async def send(self, method: str, path: str, body: bytes = b"", content_type: str = JSON) -> Response:
        """Ask the embedded API as its administrator."""
        return await self.http.request(method, path, headers={"Content-Type": content_type}, body=body)

    def fill(self, text: str) -> list[str]:
        """The words of a command line, with the directories of this site."""
        places = {"C": self.platform.cloud_dir, "E": self.edge.data_dir, "T": self.path, "token": self.token}
        return text.format(join=f"https://127.0.0.1:{self.platform.join_port}", **places).split()

    def logs(self) -> str:
        return self.platform.cloud.tail(10_000) + self.edge.process.tail(10_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    path = tmp_path_factory.mktemp("site")
    async with Platform(path) as platform:
        await platform.start_cloud()
        edge = await platform.add_edge("gw-1")
        await platform.kube.apply(MODEL, oven())
        await eventually(lambda: _held(edge))
        _write_files(path)
        access = config.load(platform.kubeconfig)
        http = HttpClient(access.server, tls=access.context, server_hostname=access.server_hostname)
        yield Site(platform, edge, path, http, await platform.token("gw-2"))
        await http.close()


@pytest.fixture(autouse=True)
def unharmed(site: Site) -> Iterator[None]:
    """After every test both daemons run, and no log has an error or a traceback."""
    yield
    assert site.platform.cloud.running
    assert site.edge.process.running
    assert "Traceback" not in site.logs()
    assert " ERROR " not in site.logs()


async def _held(edge: Edge) -> bool:
    return bool((await edge.status())["devices"]["total"])


def _write_files(path: Path) -> None:
    (path / "open.yaml").write_text("api: {port: [1,\n")
    (path / "deep.yaml").write_text("api: " + "[" * 5000)
    (path / "date.yaml").write_text("node: 2020-13-45\n")
    (path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (path / "list.yaml").write_text("- 1\n")
    (path / "file").write_text("no directory")
    (path / "nothing").mkdir()


COMMANDS = [
    ("edgecore", 2, "required: COMMAND"),
    ("edgecore fly", 2, "invalid choice: 'fly'"),
    ("edgecore device explain --data-dir {E}", 2, "required: name"),
    ("edgecore device explain nobody --data-dir {E}", 1, "no device nobody on this node; there are: default/kiln"),
    ("edgecore status -o yaml --data-dir {E}", 2, "choose from 'text', 'json'"),
    ("edgecore status --set nod=1 --data-dir {E}", 2, "unknown setting 'nod'"),
    ("edgecore status --set api.port=x --data-dir {E}", 2, "api.port: expected `int`, got `str`"),
    ("edgecore status --set api.port=70000 --data-dir {E}", 2, "api.port: expected `int` <= 65535"),
    ("edgecore status --set link.keep_alive_s=.nan --data-dir {E}", 2, "link.keep_alive_s: nan is no finite number"),
    ("edgecore status --set link.keep_alive_s=-1 --data-dir {E}", 2, "link.keep_alive_s: -1.0 is no finite number"),
    ("edgecore status --set cloud.broker=here --data-dir {E}", 2, "write mqtts://HOST:PORT or mqtt://HOST:PORT"),
    ("edgecore status --config {T}/none.yaml --data-dir {E}", 2, "none.yaml: No such file or directory"),
    ("edgecore status --config {T}/open.yaml --data-dir {E}", 2, "open.yaml is not YAML"),
    ("edgecore status --config {T}/deep.yaml --data-dir {E}", 2, "deep.yaml is not YAML: it is nested too deeply"),
    ("edgecore status --config {T}/date.yaml --data-dir {E}", 2, "date.yaml is not YAML: month must be in 1..12"),
    ("edgecore status --config {T}/bytes.yaml --data-dir {E}", 2, "bytes.yaml is not YAML"),
    ("edgecore status --config {T}/list.yaml --data-dir {E}", 2, "must be a mapping"),
    ("edgecore run --data-dir {E}", 1, "edgecore already runs on"),
    ("edgecore run --data-dir {T}/nothing", 2, "has not joined a cloud; next: edgecore join"),
    ("edgecore reset --yes --data-dir {E}", 1, "systemctl stop edgecore"),
    ("edgecore join --cloud http://h --token {token} --node a --data-dir {T}/n", 2, "write it as https://HOST:10002"),
    ("edgecore join --cloud {join} --token abc --node gw-2 --data-dir {T}/n", 2, "this is no join token"),
    ("edgecore join --cloud {join} --token {token} --node Gw_2 --data-dir {T}/n", 2, "use a-z, 0-9 and '-'"),
    ("edgecore join --cloud {join} --token {token} --node gw-3 --data-dir {T}/n", 1, "for node gw-2, not for gw-3"),
    ("edgecore join --cloud {join} --token x{token} --node gw-2 --data-dir {T}/n", 1, "this token is not known here"),
    ("edgecore join --cloud {join} --token {token} --node gw-2 --data-dir {E}", 1, "belongs to node gw-1"),
    ("edgecore join --cloud {join} --token {token} --node gw-2 --data-dir {T}/file", 1, "use another --data-dir"),
    (
        "edgecore join --cloud https://no.such.invalid --token {token} --node a --data-dir {T}/n",
        1,
        "check the address, DNS",
    ),
    (
        "edgecore join --cloud https://127.0.0.1:1 --token {token} --node a --data-dir {T}/n",
        1,
        "check the address, DNS",
    ),
    ("cloudcore", 2, "required: COMMAND"),
    ("cloudcore serve --data-dir {C}", 1, "is serving"),
    ("cloudcore serve --data-dir {T}/file", 2, "choose another with --data-dir"),
    ("cloudcore serve --database mysql://h --data-dir {T}/new", 2, "write postgresql+psycopg://USER@HOST/DB"),
    ("cloudcore serve --broker http://h --data-dir {T}/new", 2, "write mqtts://HOST:8883 or mqtt://HOST:1883"),
    ("cloudcore serve --kubeconfig {T}/none --data-dir {T}/new", 2, "none: No such file or directory"),
    ("cloudcore serve --kubeconfig {T}/list.yaml --data-dir {T}/new", 2, "must be a mapping"),
    ("cloudcore serve --set log_level=loud --data-dir {T}/new", 2, "(debug|info|warning|error)"),
    ("cloudcore status --data-dir {T}/nothing", 1, "start it with `cloudcore serve --data-dir"),
    ("cloudcore history kiln --since yesterday --data-dir {C}", 2, "write a time such as 90s, 15m, 2h or 7d"),
    ("cloudcore history kiln --since 99999999999999d --data-dir {C}", 2, "at most 36500d"),
    ("cloudcore history kiln --limit 0 --data-dir {C}", 2, "--limit 0: at least 1"),
    ("cloudcore history kiln -o xml --data-dir {C}", 2, "choose from 'text', 'csv', 'json'"),
    ("cloudcore history kiln --data-dir {T}/none", 2, "does not exist: name another with --data-dir"),
    ("cloudcore node list --data-dir {T}/file", 2, "does not exist: name another with --data-dir"),
    ("cloudcore node revoke a_b --data-dir {C}", 2, "is no DNS-1123 label"),
    ("cloudcore token create --ttl 1s --data-dir {C}", 2, "between 1 minute and 30 days"),
    ("cloudcore token create --ttl soon --data-dir {C}", 2, "write a time such as 90s, 15m, 2h or 7d"),
    ("cloudcore token create --node a_b --data-dir {C}", 2, "is no DNS-1123 label"),
    ("cloudcore token delete nothing --data-dir {C}", 2, "`cloudcore token list` shows the ids"),
    ("cloudcore backup {T}/none/file --data-dir {C}", 2, "No such file or directory"),
    ("cloudcore backup {T}/b --data-dir {T}/none", 2, "does not exist: nothing to save"),
    ("cloudcore restore {T}/none --data-dir {T}/new", 2, "No such file or directory"),
    ("cloudcore restore {T}/list.yaml --data-dir {T}/new", 1, "is no backup of cloudcore"),
    ("cloudcore restore {T}/list.yaml --data-dir {C}", 1, "is serving"),
    ("cloudcore crds apply --data-dir {T}/none", 2, "or pass --kubeconfig"),
]


@pytest.mark.parametrize(("line", "code", "words"), COMMANDS)
async def test_a_mistaken_command_gets_one_sentence(site: Site, line: str, code: int, words: str) -> None:
    failed(await say(*site.fill(line)), code, words)


async def test_a_mistaken_directory_is_named_by_both_doctors(site: Site) -> None:
    for program in ("edgecore", "cloudcore"):
        said = await say(program, "doctor", "-o", "json", "--data-dir", str(site.path / "file"))

        assert said.code == 1
        assert "is no directory" in said.json()["checks"][0]["message"]


def device(**spec: Any) -> bytes:
    body = {"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": "new"}}
    return msgspec.json.encode({**body, "spec": {"nodeName": "gw-1", "deviceModelRef": {"name": "oven"}, **spec}})


def model(**prop: Any) -> bytes:
    body = {"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": {"name": "new"}}
    prop = {"name": "p", "type": "INT", "accessMode": "ReadWrite", **prop}
    return msgspec.json.encode({**body, "spec": {"properties": [prop]}})


OLD_SPACE = SPACE.replace("v1beta1", "v1alpha2")
STRICT = "?fieldValidation=Strict"
OLD = device().replace(b"v1beta1", b"v1alpha2").replace(b"nodeName", b"nodeSelector")
REQUESTS = [
    ("POST", "/devices", b"", JSON, 400, "has no body"),
    ("POST", "/devices", b"{", JSON, 400, "not valid JSON"),
    ("POST", "/devices", b"null", JSON, 400, "must be a JSON object of kind Device"),
    ("POST", "/devices", b"\xff\xfe", JSON, 400, "not valid JSON"),
    ("POST", "/devices", b'{"metadata":{"name":NaN}}', JSON, 400, "not valid JSON"),
    ("POST", "/devices", b'{"metadata":{"generation":1e999}}', JSON, 400, "out of range"),
    ("POST", "/devices", b"[" * 50_000, JSON, 400, "nested deeper than"),
    ("POST", "/devices", b"x" * 3_200_000, JSON, 413, "larger than 3145728 bytes"),
    ("POST", "/devices", b"x", "text/plain", 415, "application/json, application/yaml"),
    ("POST", "/devices", b"a: [", "application/yaml", 400, "not valid YAML"),
    ("POST", "/devices", b"a: " + b"[" * 5000, "application/yaml", 400, "maximum nesting depth"),
    ("POST", "/devices", b"a: &a [*a]", "application/yaml", 400, "aliases are not accepted"),
    ("POST", "/devices", b"{}", JSON, 422, "metadata.name: Required value"),
    ("POST", "/devices", device(nodeName=5), JSON, 422, "spec.nodeName in body must be of type string"),
    ("POST", "/devices", device(nodeName="No De"), JSON, 422, 'spec.nodeName: Invalid value: "No De"'),
    ("POST", "/devices" + STRICT, device(colour="red"), JSON, 400, 'unknown field "spec.colour"'),
    ("POST", "/devices", device(properties=[{"name": "target", "desired": {"value": 5}}]), JSON, 422, "desired.value"),
    (
        "POST",
        "/devices",
        device(properties=[{"name": "t", "reportCycle": -5}]),
        JSON,
        422,
        "greater than or equal to 0",
    ),
    ("POST", OLD_SPACE + "/devices", OLD, JSON, 400, "spec.nodeSelector becomes spec.nodeName"),
    ("POST", "/devicemodels", model(accessMode="Readonly"), JSON, 422, 'supported values: "ReadWrite", "ReadOnly"'),
    ("POST", "/devicemodels", model(type="INTEGER"), JSON, 422, 'properties[0].type: Unsupported value: "INTEGER"'),
    ("POST", "/devicemodels", model(minimum="ten"), JSON, 422, "spec.properties[0].minimum"),
    ("POST", "/devicemodels", model(minimum="9", maximum="1"), JSON, 422, "must not be above maximum (1)"),
    ("PATCH", "/devices/kiln", b"[]", "application/merge-patch+json", 400, "must be a JSON object"),
    ("PATCH", "/devices/kiln", b'{"spec":5}', "application/merge-patch+json", 422, "must be of type object"),
    ("PATCH", "/devices/kiln", b"{}", "application/json-patch+json", 400, "an array of operations"),
    ("PATCH", "/devices/kiln", b"{}", "application/apply-patch+yaml", 400, "fieldManager: Required value"),
    ("PATCH", "/devices/kiln", b"{}", "text/plain", 415, "application/merge-patch+json"),
    ("PUT", "/devices/kiln", b"{}", JSON, 400, "metadata.name is missing"),
    ("DELETE", "/devices/kiln", b'{"propagationPolicy":"All"}', JSON, 400, "Background, Foreground, Orphan"),
    ("GET", "/devices?limit=few", b"", JSON, 400, "for parameter limit: must be a whole number"),
    ("GET", "/devices?labelSelector=%3D%3D", b"", JSON, 400, "terms are key"),
    ("GET", "/devices?watch=maybe", b"", JSON, 400, "must be true or false"),
    ("GET", "/devices/none", b"", JSON, 404, '"none" not found'),
    ("GET", "/gadgets", b"", JSON, 404, "could not find the requested resource"),
]


@pytest.mark.parametrize(("method", "path", "body", "kind", "status", "words"), REQUESTS)
async def test_the_api_refuses_with_the_field_and_what_it_takes(
    site: Site, method: str, path: str, body: bytes, kind: str, status: int, words: str
) -> None:
    answer = await site.send(method, path if path.startswith("/apis") else SPACE + path, body, kind)

    document = msgspec.json.decode(answer.body)
    assert (answer.status, document["code"]) == (status, status), document
    assert words in document["message"]


async def test_a_device_that_points_at_nothing_says_so(site: Site) -> None:
    kube = site.platform.kube
    lost, bare = oven("lost", node="gw-nowhere"), oven("bare", target="hot")
    bare["spec"]["deviceModelRef"] = {"name": "nothing"}
    wrong = oven("wrong", target="hot")
    await kube.apply(lost, bare, wrong)

    async def said(name: str, kind: str, words: str) -> bool:
        found = (await kube.get(f"{SPACE}/devices/{name}")).get("status", {}).get("conditions", [])
        return any(c["type"] == kind and words in c["message"] for c in found)

    await eventually(lambda: said("lost", "Pending", "gw-nowhere"))
    await eventually(lambda: said("bare", "Invalid", "device model nothing is not on this node"))
    await eventually(lambda: said("wrong", "Invalid", "target"))


UPDATE = "$hw/events/device/kiln/twin/update"
STATE = "$hw/events/device/kiln/state/update"


def reading(value: Any) -> bytes:
    return msgspec.json.encode({"twin": {"temperature": {"actual": {"value": value}}}})


PAYLOADS = [
    (UPDATE, b"", 400, "Input data was truncated"),
    (UPDATE, b"{", 400, "Input data was truncated"),
    (UPDATE, b"hot", 400, "invalid character"),
    (UPDATE, b"null", 400, "Expected `object`, got `null`"),
    (UPDATE, b"{}", 400, "key:twin does not exist"),
    (UPDATE, b'{"twin":[]}', 400, "$.twin"),
    (UPDATE, b'{"twin":{"temperature":null}}', 400, "request body is wrong"),
    (UPDATE, reading(5), 400, "Expected `str | null`, got `int` - at `$.twin[...].actual.value`"),
    (UPDATE, b'{"twin":{"temperature":{"actual":{"value":NaN}}}}', 400, "invalid character"),
    (UPDATE, reading("hot"), 400, "not int or integer (property temperature)"),
    (UPDATE, reading("9" * 30), 400, "not int or integer (property temperature)"),
    (UPDATE, reading("9" * 600), 400, "less than 512 bytes (property temperature)"),
    (UPDATE, b'{"twin":{"a b":{"actual":{"value":"1"}}}}', 400, "key of twin"),
    (UPDATE, b'{"twin":{"temperature":{"expected":{"value":"3"}}}}', 400, "temperature is ReadOnly"),
    (UPDATE, b"\xff\xfe", 400, "invalid character"),
    (UPDATE, b"[" * 200_000, 400, "Expected `object`, got `array`"),
    (UPDATE, b'{"twin":' + b"9" * 10_000 + b"}", 400, "check the request"),
    (UPDATE, b'{"event_id":5,"twin":{}}', 400, "$.event_id"),
    (STATE, b'{"state":"asleep"}', 400, "one of online, offline, ok, unknown, unhealthy"),
    (STATE, b'{"state":5}', 400, "$.state"),
    ("$hw/events/device/nobody/twin/update", reading("1"), 404, "device is not existed"),
    ("$hw/events/node/gw-1/membership/get", b"{", 400, "Input data was truncated"),
]


@pytest.mark.parametrize(("topic", "payload", "code", "words"), PAYLOADS)
async def test_the_device_broker_answers_garbage_with_its_reason(
    site: Site, topic: str, payload: bytes, code: int, words: str
) -> None:
    before = await refusals(site)
    async with aiomqtt.Client("127.0.0.1", site.edge.mqtt_port) as client:
        await client.subscribe(f"{topic}/result", qos=1)
        await client.publish(topic, payload, qos=1)
        async with asyncio.timeout(ANSWER_S):
            message = await anext(aiter(client.messages))

    assert isinstance(message.payload, bytes)
    answer = msgspec.json.decode(message.payload)
    assert answer["code"] == code
    assert words in answer["reason"]
    assert await refusals(site) == before + 1


async def refusals(site: Site) -> float:
    """Requests of devices that were refused so far."""
    lines = [x for x in (await site.edge.metrics()).splitlines() if x.startswith("skerry_edge_device_requests_total")]
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if 'result="4' in x)


HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
GARBAGE = {
    "random bytes": random.Random(11).randbytes(400),
    "an open end": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "plain HTTP": HEAD + b"Connection: close\r\n\r\n",
    "a huge head": HEAD + b"A: " + b"b" * 200_000 + b"\r\n\r\n",
    "a huge length": HEAD + b"Content-Length: 99999999999\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an endless MQTT length": b"\x10\xff\xff\xff\xff\xff",
    "a PUBLISH before CONNECT": b"\x30\x05\x00\x01aaa",
    "MQTT 9": b"\x10\x10\x00\x04MQTT\x09\x02\x00\x0a\x00\x04abcd",
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_at_any_port_ends_that_connection_only(site: Site, what: str) -> None:
    async with asyncio.TaskGroup() as group:
        for port in doors(site):
            group.create_task(ends(port, GARBAGE[what], secure=False))
            if port != site.edge.mqtt_port:
                group.create_task(ends(port, GARBAGE[what], secure=True))


def doors(site: Site) -> list[int]:
    platform, edge = site.platform, site.edge
    cloud = [platform.api_port, platform.broker_port, platform.join_port, platform.metrics_port]
    return [*cloud, edge.mqtt_port, edge.api_port]


async def ends(port: int, data: bytes, *, secure: bool) -> None:
    """Send ``data`` and half-close; the server must let go of the connection by itself, in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if secure:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            await writer.start_tls(context)
        writer.write(data)
        if not secure:
            writer.write_eof()
        async with asyncio.timeout(ANSWER_S):
            while await reader.read(65536):
                pass
    except OSError:  # refused in the middle of it
        return
    finally:
        writer.transport.abort()


async def test_what_was_refused_is_counted(site: Site) -> None:
    await ends(site.platform.broker_port, b"x", secure=True)
    await ends(site.platform.join_port, b"\x00\r\n\r\n", secure=True)
    await ends(site.platform.api_port, b"\x00\r\n\r\n", secure=False)
    await ends(site.edge.mqtt_port, GARBAGE["a PUBLISH before CONNECT"], secure=False)
    cloud, edge = await site.platform.metrics(), await site.edge.metrics()

    assert 'skerry_mqtt_refused_total{reason="tls_handshake"}' in cloud
    assert 'skerry_http_refused_total{server="join",reason="malformed"}' in cloud
    assert 'skerry_http_refused_total{server="kube",reason="tls_handshake"}' in cloud
    assert "skerry_mqtt_connections_closed_total{" in edge


async def test_slow_clients_cost_nobody_else(site: Site) -> None:
    slow = [await asyncio.open_connection("127.0.0.1", port) for port in doors(site) for _ in range(20)]
    for _, writer in slow:
        writer.write(b"\x16")  # the beginning of TLS, of nothing for the others
    try:
        assert (await site.send("GET", f"{SPACE}/devices/kiln")).status == 200
        assert (await site.edge.status())["link"]["connected"]
        async with asyncio.timeout(2 * ANSWER_S):
            await asyncio.gather(*(_drain(reader) for reader, _ in slow))
    finally:
        for _, writer in slow:
            writer.transport.abort()


async def _drain(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        return
