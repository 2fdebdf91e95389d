"""Clients written by others: each publishes and subscribes at QoS 0, 1 and 2 through the broker as a process."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.mqtt.processes import ROOT, Broker, output, running

NPM = ROOT / ".cache" / "npm"
NPM_MQTT = "mqtt@5.10.1"
VERSIONS = ("mqttv311", "mqttv5")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path) as one:
        yield one


async def script(code: str, *argv: str) -> dict[str, object]:
    """Run Python code in a child, so that a foreign client's tasks and warnings stay out of this process."""
    out = await output(sys.executable, "-W", "ignore", "-c", code, *argv)
    found: dict[str, object] = json.loads(out.strip().splitlines()[-1])
    return found


PAHO = """
import json, sys, threading
import paho.mqtt.client as mqtt
port, version = int(sys.argv[1]), int(sys.argv[2])
got, done, ready = [], threading.Event(), threading.Event()
def on_message(client, userdata, m):
    got.append([m.topic, m.payload.decode(), m.qos])
    if len(got) == 30: done.set()
c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "paho", protocol=version)
c.on_message = on_message
c.on_subscribe = lambda *a: ready.set()
c.connect("127.0.0.1", port)
c.loop_start()
c.subscribe([("p/0", 0), ("p/1", 1), ("p/2", 2)])
ready.wait(10)
for n in range(30): c.publish(f"p/{n % 3}", str(n), qos=n % 3).wait_for_publish(10)
done.wait(10); c.disconnect(); c.loop_stop()
print(json.dumps({"got": got}))
"""

AIOMQTT = """
import asyncio, json, sys
import aiomqtt
async def main():
    got = []
    async with aiomqtt.Client("127.0.0.1", int(sys.argv[1]), identifier="aio", protocol=aiomqtt.ProtocolVersion(int(sys.argv[2]))) as c:
        for q in range(3): await c.subscribe(f"p/{q}", qos=q)
        for n in range(30): await c.publish(f"p/{n % 3}", str(n), qos=n % 3)
        async for m in c.messages:
            got.append([str(m.topic), m.payload.decode(), m.qos])
            if len(got) == 30: break
    print(json.dumps({"got": got}))
asyncio.run(main())
"""

GMQTT = """
import asyncio, json, sys
import gmqtt
from gmqtt.mqtt.constants import MQTTv311, MQTTv50
async def main():
    got, done, ready = [], asyncio.Event(), asyncio.Event()
    c = gmqtt.Client("gmqtt")
    def on_message(client, topic, payload, qos, properties):
        got.append([topic, payload.decode(), qos])
        if len(got) == 30: done.set()
        return 0
    c.on_message = on_message
    c.on_subscribe = lambda *a: ready.set()
    await c.connect("127.0.0.1", int(sys.argv[1]), version=MQTTv50 if sys.argv[2] == "5" else MQTTv311)
    c.subscribe([gmqtt.Subscription(f"p/{q}", qos=q) for q in range(3)])
    await asyncio.wait_for(ready.wait(), 10)
    for n in range(30): c.publish(f"p/{n % 3}", str(n), qos=n % 3)
    await asyncio.wait_for(done.wait(), 10)
    await c.disconnect()
    print(json.dumps({"got": got}))
asyncio.run(main())
"""

AMQTT = """
import asyncio, json, logging, sys
from amqtt.client import MQTTClient
logging.disable(logging.CRITICAL)
async def main():
    got = []
    c = MQTTClient(client_id="amqtt", config={"auto_reconnect": False})
    await c.connect(f"mqtt://127.0.0.1:{sys.argv[1]}/")
    await c.subscribe([(f"p/{q}", q) for q in range(3)])
    for n in range(30): await c.publish(f"p/{n % 3}", str(n).encode(), qos=n % 3)
    for _ in range(30):
        m = await c.deliver_message(timeout_duration=10)
        got.append([m.topic, bytes(m.data).decode(), m.qos])
    await c.disconnect()
    print(json.dumps({"got": got}))
asyncio.run(main())
"""

NODE = """
const mqtt = require("mqtt"), got = [];
const c = mqtt.connect({host: "127.0.0.1", port: +process.argv[2], protocolVersion: +process.argv[3], clientId: "node"});
c.on("connect", () => c.subscribe({"p/0": {qos: 0}, "p/1": {qos: 1}, "p/2": {qos: 2}}, async () => {
  for (let n = 0; n < 30; n++) await c.publishAsync(`p/${n % 3}`, String(n), {qos: n % 3});
}));
c.on("message", (topic, payload, m) => {
  got.push([topic, payload.toString(), m.qos]);
  if (got.length == 30) { console.log(JSON.stringify({got})); c.end(); }
});
"""


NODE_BURST = """
const mqtt = require("mqtt"), version = +process.argv[3], count = 5000;
let got = 0, acked = 0;
const c = mqtt.connect({host: "127.0.0.1", port: +process.argv[2], protocolVersion: version, clientId: "burst", clean: false,
  properties: version == 5 ? {sessionExpiryInterval: 60} : undefined});
c.once("connect", () => c.subscribe("b/#", {qos: 1}, () => {
  for (let n = 0; n < count; n++) c.publish(`b/${n % 5}`, String(n), {qos: 1 + n % 2}, () => { acked++; end(); });
}));
c.on("message", () => { got++; end(); });
function end() { if (got == count && acked == count) { console.log(JSON.stringify({got, acked})); c.end(); } }
"""


def complete(found: dict[str, object]) -> bool:
    got = found["got"]
    assert isinstance(got, list)
    for qos in range(3):
        wanted = [[f"p/{qos}", str(n), qos] for n in range(30) if n % 3 == qos]
        assert [one for one in got if one[0] == f"p/{qos}"] == wanted
    return len(got) == 30


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("code", [PAHO, AIOMQTT, GMQTT], ids=["paho", "aiomqtt", "gmqtt"])
async def test_python_client_round_trips_every_qos_in_order(broker: Broker, code: str, version: str) -> None:
    assert complete(await script(code, str(broker.port), version))


async def test_amqtt_client_round_trips_every_qos_in_order(broker: Broker) -> None:
    assert complete(await script(AMQTT, str(broker.port)))


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """npm's ``mqtt``, installed once into the project's cache."""
    if not (NPM / "node_modules" / "mqtt").exists():
        import subprocess

        NPM.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        assert npm is not None, "npm is needed for this test"
        argv = [npm, "install", NPM_MQTT, "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(argv, cwd=NPM, check=True, capture_output=True, timeout=110)
    return NPM / "node_modules"


@pytest.mark.parametrize("version", ["4", "5"])
async def test_node_client_round_trips_every_qos_in_order(broker: Broker, node_modules: Path, version: str) -> None:
    env = {**os.environ, "NODE_PATH": str(node_modules)}
    program = broker.folder / "client.js" if broker.folder else Path()
    program.write_text(NODE)

    out = await output("node", str(program), str(broker.port), version, env=env)

    assert complete(json.loads(out))


@pytest.mark.parametrize("version", ["4", "5"])
async def test_node_client_that_waits_for_nothing_loses_nothing(
    broker: Broker, node_modules: Path, version: str
) -> None:
    env = {**os.environ, "NODE_PATH": str(node_modules)}
    program = broker.folder / "burst.js" if broker.folder else Path()
    program.write_text(NODE_BURST)

    out = await output("node", str(program), str(broker.port), version, env=env)

    assert json.loads(out) == {"got": 5000, "acked": 5000}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_clients_talk_through_the_broker(broker: Broker, version: str, qos: str) -> None:
    common = ["-V", version, "-p", str(broker.port), "-q", qos]
    pub, sub = shutil.which("mosquitto_pub"), shutil.which("mosquitto_sub")
    assert pub is not None
    assert sub is not None
    await output(pub, *common, "-t", "$hw/x", "-m", "kept", "-r")

    async def listen() -> str:
        return await output(sub, *common, "-t", "$hw/#", "-C", "4", "-W", "20")

    async def talk() -> None:
        for n in range(60):
            await output(pub, *common, "-t", "$hw/y", "-m", f"live{n}")
            if listening.done():
                return

    listening = asyncio.ensure_future(listen())
    await talk()
    lines = (await listening).split()

    assert lines[0] == "kept"
    assert all(line.startswith("live") for line in lines[1:])


async def test_a_persistent_mosquitto_subscriber_gets_what_came_while_it_was_away(broker: Broker) -> None:
    common = ["-p", str(broker.port), "-q", "1"]
    sub = ["mosquitto_sub", *common, "-c", "-i", "away", "-t", "x"]
    await output(*sub, "-E")

    await output("mosquitto_pub", *common, "-t", "x", "-m", "1")
    await output("mosquitto_pub", *common, "-t", "x", "-m", "2")

    assert (await output(*sub, "-C", "2", "-W", "10")).split() == ["1", "2"]
