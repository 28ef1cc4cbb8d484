"""Hosts' loads and their averages in memory, and when a host's row must follow them. Pure.

Every host reports every few seconds. Its row is for the other replicas, for DRS, and for the time after a restart. It
is written when it would mislead them, and often enough to count as new.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ostler.types.v1 import vm_pb2

from ostler_control.fleet.smoothing import ENOUGH, Smooth, smooth

# A row is written again after this time, seconds: well within `smoothing.STALE_S`, and not for all hosts at once.
REFRESH_S = (45.0, 75.0)
# A change by this share of what the host has is written at once.
_NOTABLE = 0.1


@dataclass(frozen=True)
class Record:
    """What a host's row is to say, or says. until_s: when it is written again at the latest, Unix."""

    load: vm_pb2.HostLoad
    average: Smooth
    until_s: float


class Loads:
    """Averages the loads of many hosts. For one thread."""

    def __init__(self, chance: Callable[[float, float], float] = random.uniform) -> None:
        self._chance = chance
        self._averages: dict[str, Smooth] = {}
        self._recorded: dict[str, Record] = {}

    def unknown(self, host_ids: Iterable[str]) -> list[str]:
        """The hosts whose average must be read from their rows first, see `resume`."""
        return [host_id for host_id in host_ids if host_id not in self._averages]

    def resume(self, averages: Mapping[str, Smooth]) -> None:
        """Continues what the rows say, by host."""
        self._averages.update(averages)

    def add(self, loads: Mapping[str, vm_pb2.HostLoad], now_s: float) -> dict[str, Record]:
        """Adds a load of each of these hosts to its average; returns what must be written, by host."""
        found = {}
        for host_id, load in loads.items():
            average = self._averages[host_id] = smooth(self._averages.get(host_id, Smooth()), load, now_s)
            if matters(load, average, self._recorded.get(host_id), now_s):
                found[host_id] = Record(load, average, now_s + self._chance(*REFRESH_S))
        return found

    def written(self, records: Mapping[str, Record]) -> None:
        """These are in the rows now."""
        self._recorded.update(records)

    def forget(self, host_ids: Iterable[str]) -> None:
        """For hosts that are watched no longer: their rows may change elsewhere."""
        for host_id in host_ids:
            self._averages.pop(host_id, None)
            self._recorded.pop(host_id, None)


def matters(load: vm_pb2.HostLoad, average: Smooth, recorded: Record | None, now_s: float) -> bool:
    """Whether a host's row must be written: it says nothing yet, is old, or differs notably."""
    if recorded is None or now_s >= recorded.until_s or average.samples <= ENOUGH:
        return True
    if average.vms.keys() != recorded.average.vms.keys():
        return True
    cpus, memory_bytes = max(load.cpus, 1), max(load.memory_total_bytes, 1)
    before = recorded.load
    return (
        abs(load.cpu_used - before.cpu_used) >= _NOTABLE * cpus
        or abs(load.memory_used_bytes - before.memory_used_bytes) >= _NOTABLE * memory_bytes
        or any(
            abs((now or 0.0) - (then or 0.0)) >= _NOTABLE
            for now, then in (
                (average.cpu_pressure, recorded.average.cpu_pressure),
                (average.memory_pressure, recorded.average.memory_pressure),
                (average.io_pressure, recorded.average.io_pressure),
            )
        )
    )
