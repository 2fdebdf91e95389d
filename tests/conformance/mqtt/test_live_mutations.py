"""20,000 spoiled packets over TCP: the broker keeps serving a well-behaved client, within bounded memory."""

import asyncio
from contextlib import suppress

from tests.conformance.mqtt import wire as w
from tests.conformance.mqtt.processes import Broker, running
from tests.unit.mqtt.mutation import mutants

COUNT = 20_000
PER_CONNECTION = 10
AT_ONCE = 20


async def spoil(broker: Broker, seed: int, count: int) -> None:
    packets = list(mutants(seed, count))
    for start in range(0, count, PER_CONNECTION):
        version, _ = packets[start]
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        writer.write(w.connect(f"spoiled-{seed}-{start}", v=version))
        writer.write(b"".join(packet for _, packet in packets[start : start + PER_CONNECTION]))
        with suppress(OSError):  # refused in the middle of it
            writer.write_eof()  # and read to the end: closing early would throw away what the broker has not read
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def honest(broker: Broker, stop: asyncio.Event) -> int:
    """Publish to itself until told to stop; every message must come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    writer.write(w.connect("honest") + w.subscribe(1, ("honest", 1)))
    assert await asyncio.wait_for(reader.readexactly(9), 10) == b"\x20\x02\x00\x00" + w.suback(1, 1)
    rounds = 0
    while not stop.is_set():
        writer.write(w.publish("honest", b"%d" % rounds))
        wanted = w.publish("honest", b"%d" % rounds)
        assert await asyncio.wait_for(reader.readexactly(len(wanted)), 10) == wanted
        rounds += 1
        await asyncio.sleep(0)
    writer.close()
    await writer.wait_closed()
    return rounds


async def test_a_flood_of_spoiled_packets_costs_only_its_senders() -> None:
    async with running(None) as broker:
        stop = asyncio.Event()
        serving = asyncio.ensure_future(honest(broker, stop))
        await spoil(broker, 99, 2000)
        before_kb = broker.rss_kb()

        await asyncio.gather(*(spoil(broker, seed, COUNT // AT_ONCE) for seed in range(AT_ONCE)))

        stop.set()
        assert await serving > 20
        assert broker.rss_kb() - before_kb < 60_000
