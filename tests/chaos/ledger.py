"""The independent judge: what the devices were told is safe, against what the cloud's history holds."""

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field

from tests.kit.mqtt_device import MqttDevice
from tests.kit.platform import Platform, command


@dataclass
class Verdict:
    """Counts over one check. All but the first must be zero."""

    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.disordered)

    def add(self, other: "Verdict") -> None:
        self.acknowledged += other.acknowledged
        self.lost += other.lost
        self.doubled += other.doubled
        self.disordered += other.disordered


def judge(device: MqttDevice, stored: list[int], *, after: int) -> Verdict:
    """Compare ``stored`` (history in order) with the ledger, for numbers above ``after``.

    A report that the device sent twice (its answer was lost with a killed edge) may be stored twice, never more often
    than it was sent. What is stored is in the order of sending: a reading that was refused and sent again stands where
    it was sent again.
    """
    counts = Counter(stored)
    sent = iter([n for n in device.sent if n > after])
    in_order = [n for n in stored if n > after]
    acknowledged = {n for n in device.acknowledged if n > after}
    return Verdict(
        acknowledged=len(acknowledged),
        lost=[f"{device.name}:{n}" for n in sorted(acknowledged) if not counts[n]],
        doubled=[f"{device.name}:{n}" for n, times in counts.items() if n > after and times > device.published[n]],
        # Each stored number is looked for behind the place of the one before it: ``in`` moves the iterator on.
        disordered=[f"{device.name}:{b} after {a}" for a, b in itertools.pairwise([0, *in_order]) if b not in sent],
    )


async def stored_numbers(platform: Platform, device: MqttDevice, *, newest: int) -> list[int]:
    """The device's numbers in the cloud's history, oldest first; at most the ``newest`` rows."""
    words = ["cloudcore", "history", device.name, "--property", device.prop, "--limit", str(newest), "-o", "json"]
    rows = json.loads(await command(*words, "--data-dir", str(platform.cloud_dir)))
    return [int(row["value"]) for row in rows]
