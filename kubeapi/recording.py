"""A door for whoever must know of every write in the very transaction that stores it: the edge's journal of offline writes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubeapi.options import DeleteOptions, WriteOptions
from kubeapi.resources import Resource
from proto.kit.database import Tx

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One accepted write, in the version that ``res`` serves. ``opts`` names the user; its class tells a deletion.

    ``gone``: the object leaves the store, and ``after`` is what it would have been.
    """

    res: Resource
    before: Json | None  # None: it is created
    after: Json
    opts: WriteOptions | DeleteOptions
    gone: bool = False


# Returns what to store instead, None for "as it is". Runs in the writer thread; raises ApiError to refuse the write.
Record = Callable[[Tx, Change], Json | None]
