"""The capacity that plans leave free for VMs of failed hosts, where ha.reserve.hosts asks for it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from ostler_control.drs.model import Snapshot
from ostler_control.drs.rules import usable
from ostler_control.drs.settings import Settings
from ostler_control.drs.state import State
from ostler_control.drs.steps import Unit
from ostler_control.placement.reserve import Load, Room, shortfall


class Reserve:
    """Asks, move by move, how many protected VMs would find no place if the worst ha.reserve.hosts hosts failed. Hosts
    that are out of service, other than to save power, count as failed already."""

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        out = sum(not host.in_service and not host.asleep for host in snapshot.hosts)
        self._failures = max(settings.ha_reserve_hosts - out, 0)
        self._rooms: dict[str, Room] = {}
        if not self._failures:
            return
        self._vms = {vm.id: vm for vm in snapshot.vms}
        self._host_of = {vm.id: vm.host_id for vm in snapshot.vms}
        loads: defaultdict[str, list[Load]] = defaultdict(list)
        cpu, memory = defaultdict[str, int](int), defaultdict[str, int](int)
        for vm in snapshot.vms:
            cpu[vm.host_id] += vm.cpu_mhz
            memory[vm.host_id] += vm.memory_bytes
            if vm.protected:
                loads[vm.host_id].append(Load(vm.cpu_mhz, vm.memory_bytes))
        for host in snapshot.hosts:
            if host.in_service:
                all_of_it = usable(host, settings)
                self._rooms[host.id] = Room(
                    host.id,
                    host.name,
                    all_of_it.cpu_mhz - host.other_cpu_mhz - cpu[host.id],
                    all_of_it.memory_bytes - host.other_memory_bytes - memory[host.id],
                    tuple(loads[host.id]),
                )

    @property
    def missing(self) -> int:
        """How many protected VMs would find no place."""
        found = shortfall(list(self._rooms.values()), self._failures)
        return found.vms if found else 0

    def move(self, vm_id: str, host_id: str) -> None:
        """The VM is there now."""
        if not self._failures:
            return
        vm = self._vms[vm_id]
        load = Load(vm.cpu_mhz, vm.memory_bytes)
        source = self._rooms.get(self._host_of[vm_id])
        if source is not None:
            protected = list(source.protected)
            if vm.protected:
                protected.remove(load)
            self._change(source, load, -1, protected)
        if (target := self._rooms.get(host_id)) is not None:
            self._change(target, load, 1, [*target.protected, *([load] if vm.protected else [])])
        self._host_of[vm_id] = host_id

    def _change(self, room: Room, load: Load, sign: int, protected: Sequence[Load]) -> None:
        self._rooms[room.host_id] = dataclasses.replace(
            room,
            free_cpus=room.free_cpus - sign * load.cpus,
            free_memory_bytes=room.free_memory_bytes - sign * load.memory_bytes,
            protected=tuple(protected),
        )

    def first_broken(self, state: State, units: Sequence[Unit]) -> int | None:
        """The position of the first unit with a move after which more VMs would find no place than before the plan;
        None when there is none. Leaves this as it is."""
        if not self._failures or not units:
            return None
        rooms, host_of = dict(self._rooms), dict(self._host_of)
        at_start = self.missing
        try:
            for position, unit in enumerate(units):
                for vm, host in unit.moves:
                    self.move(state.vms[vm].id, state.hosts[host].id)
                    if self.missing > at_start:
                        return position
            return None
        finally:
            self._rooms, self._host_of = rooms, host_of
