"""Run amqtt's broker on one port: ``python -m tests.chaos.amqtt_broker PORT``."""

import asyncio
import logging
import sys

from amqtt.broker import Broker

CONFIG = {
    "listeners": {"default": {"type": "tcp", "bind": "", "max_connections": 100}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}


async def main(port: int) -> None:
    CONFIG["listeners"]["default"]["bind"] = f"127.0.0.1:{port}"  # type: ignore[index]
    broker = Broker(CONFIG)
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(int(sys.argv[1])))
