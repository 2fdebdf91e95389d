"""What pods may learn about their node."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """``addresses``: the node's own, the first is hostIP. ``allocatable`` as in the Node's status, quantities."""

    name: str
    addresses: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    allocatable: dict[str, str] = field(default_factory=dict)
    memory_bytes: int = 0  # of the machine; 0 is unknown
    boot_id: str = ""  # another after each boot of the machine
