"""Hosts' load smoothed, so that DRS does not chase a moment's. Pure but for the JSON in which it is kept.

An exponential average whose weight depends on the time between two samples: what was `WINDOW_S` ago counts 1/e.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ostler.types.v1 import vm_pb2

WINDOW_S = 300.0
# Fewer samples than this, or none for so long, are no measurement.
ENOUGH, STALE_S = 3, 120.0


@dataclass(frozen=True)
class Smooth:
    """The average of a host's load and of its VMs' (id -> CPUs, bytes of memory, bytes of it written in a second).

    time_s: of the last sample, Unix; *_pressure: the share of time in which some task waited (PSI), None where the
    host's kernel does not tell.
    """

    cpu_used: float = 0.0
    memory_bytes: float = 0.0
    samples: int = 0
    time_s: float = 0.0
    vms: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    io_pressure: float | None = None

    def usable(self, now_s: float) -> bool:
        """Whether there is enough of it, and new enough."""
        return self.samples >= ENOUGH and now_s - self.time_s <= STALE_S

    def to_json(self) -> str:
        rounded = {
            vm_id: [round(cpu, 4), round(memory), round(dirty)] for vm_id, (cpu, memory, dirty) in self.vms.items()
        }
        return json.dumps({**vars(self), "memory_bytes": round(self.memory_bytes), "vms": rounded})

    @classmethod
    def from_json(cls, text: str) -> Smooth:
        """What `to_json` gave; nothing for ""."""
        if not text:
            return cls()
        values = json.loads(text)
        return cls(**{**values, "vms": {vm_id: tuple(averages) for vm_id, averages in values["vms"].items()}})


def smooth(before: Smooth, load: vm_pb2.HostLoad, now_s: float) -> Smooth:
    """The average with one more sample. A long silence begins it anew; a VM that is new on the host begins with its
    first sample, one that is gone is forgotten."""
    if now_s - before.time_s > STALE_S:
        before = Smooth()
    share = 1.0 - math.exp(-max(now_s - before.time_s, 0.0) / WINDOW_S) if before.samples else 1.0

    def mix(old: float, new: float) -> float:
        return old + share * (new - old)

    def pressure(resource: str, old: float | None) -> float | None:
        if not load.HasField(f"{resource}_pressure"):  # type: ignore[arg-type]  # one of three literals
            return None
        new: float = getattr(load, f"{resource}_pressure") / 100.0
        return new if old is None else mix(old, new)

    vms = {}
    for vm in load.vms:
        memory = float(vm.memory_guest_used_bytes or vm.memory_rss_bytes)
        # Measured a minute or two apart: an average of an average would only be late.
        dirty = float(vm.dirty_rate_bytes_per_s)
        cpu_before, memory_before, _ = before.vms.get(vm.vm_id, (vm.cpu_used, memory, dirty))
        vms[vm.vm_id] = (mix(cpu_before, vm.cpu_used), mix(memory_before, memory), dirty)
    return Smooth(
        mix(before.cpu_used, load.cpu_used),
        mix(before.memory_bytes, float(load.memory_used_bytes)),
        before.samples + 1,
        now_s,
        vms,
        pressure("cpu", before.cpu_pressure),
        pressure("memory", before.memory_pressure),
        pressure("io", before.io_pressure),
    )
