"""The plain way to plan: in every round, every VM on every host that suits it, the imbalance measured anew for each.

What the planner is compared with. Rules are `rules.py`'s; suitable hosts are found once, as the plain way does too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ostler_control.drs import GroupKind, Settings, Snapshot, Vm
from ostler_control.drs.rules import static_refusal, usable


class Reference:
    """Plans move by move; drs.metric memory, used, as a share; balanced; no imbalance allowed."""

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        self.vms = list(snapshot.vms)
        self.hosts = [host for host in snapshot.hosts if host.in_service]
        self.kinds = {group.id: group.kind for group in snapshot.groups}
        self.groups: dict[str, list[Vm]] = {}
        for vm in self.vms:
            for group in vm.groups:
                self.groups.setdefault(group, []).append(vm)
        self.at = {vm.id: vm.host_id for vm in self.vms}
        self.origin = dict(self.at)
        rooms = {host.id: usable(host, settings) for host in self.hosts}
        self.total_cpu = {id: room.cpu_mhz for id, room in rooms.items()}
        self.total_memory = {id: room.memory_bytes for id, room in rooms.items()}
        self.used_cpu = dict.fromkeys(rooms, 0)
        self.used_memory = dict.fromkeys(rooms, 0)
        for vm in self.vms:
            self.used_cpu[vm.host_id] += vm.cpu_mhz
            self.used_memory[vm.host_id] += vm.memory_bytes
        self.suitable = {
            vm.id: [host.id for host in self.hosts if static_refusal(vm, host, settings) is None] for vm in self.vms
        }

    def imbalance(self, changed: dict[str, int] | None = None) -> float:
        used = {**self.used_memory, **changed} if changed else self.used_memory
        values = [used[host.id] / self.total_memory[host.id] for host in self.hosts]
        mean = sum(values) / len(values)
        return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) / mean if mean else 0.0

    def _excluded(self, vm: Vm) -> set[str]:
        out = {self.at[vm.id]}
        for group in vm.groups:
            assert self.kinds[group] is GroupKind.ANTI_AFFINITY
            out |= {self.at[other.id] for other in self.groups[group] if other.id != vm.id}
        return out

    def step(self) -> bool:
        """One move; False when the plan is over."""
        before, best, chosen = self.imbalance(), 0.0, None
        for vm in self.vms:
            source, excluded = self.at[vm.id], self._excluded(vm)
            for host in self.suitable[vm.id]:
                if host in excluded or self.total_cpu[host] - self.used_cpu[host] < vm.cpu_mhz:
                    continue
                if self.total_memory[host] - self.used_memory[host] < vm.memory_bytes:
                    continue
                changed = {
                    source: self.used_memory[source] - vm.memory_bytes,
                    host: self.used_memory[host] + vm.memory_bytes,
                }
                improvement = before - self.imbalance(changed)
                if improvement > best:
                    best, chosen = improvement, (vm, host)
        if chosen is None or chosen[1] == self.origin[chosen[0].id]:
            return False
        vm, host = chosen
        for place, sign in ((self.at[vm.id], -1), (host, 1)):
            self.used_cpu[place] += sign * vm.cpu_mhz
            self.used_memory[place] += sign * vm.memory_bytes
        self.at[vm.id] = host
        return True

    def run(self, most: int) -> Sequence[float]:
        """The imbalance after 0, 1, 2... moves, up to `most`."""
        found = [self.imbalance()]
        while len(found) <= most and self.step():
            found.append(self.imbalance())
        return found
