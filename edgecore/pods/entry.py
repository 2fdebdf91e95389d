"""One pod in the hands of the controller."""

import asyncio
from dataclasses import dataclass, field

from edgecore.pods.seen import Memory
from edgecore.pods.specs import Json


@dataclass(slots=True)
class Entry:
    """``hurry`` is set when what a worker waits for (a pull, a hook) may no longer be wanted."""

    uid: str
    namespace: str
    name: str
    memory: Memory = field(default_factory=Memory)
    digest: bytes = b""  # of the object last acted on, without its status
    last: Json | None = None  # the object, once it has left the store
    grace_asked_s: int | None = None
    prepared: bool = False  # volumes are ready, as far as this process knows
    dirty: bool = False
    working: bool = False
    told: bool = False  # the cloud was told that nothing of it is left
    done: bool = False  # left the controller; nothing may wake it
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    stops: "dict[str, asyncio.Task[None]]" = field(default_factory=dict)  # container id -> the stop under way
