"""May this VM go to that host? The one place that says so.

What placement asks of a host it asks here too (`ostler_control.placement.refusal`); DRS adds what only a running VM
has: the CPU it sees, its disks if they cannot be reached from there, and the VMs it keeps together with or apart from.
`table.py` holds the same answers for all pairs at once; it is made by calling `static_refusal`, and a test proves both
equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from ostler_control.drs.model import BrokenRule, Group, GroupKind, Host, Snapshot, Vm
from ostler_control.drs.settings import Settings
from ostler_control.placement import Demand, HostFacts, Refusal
from ostler_control.placement import refusal as placement_refusal
from ostler_control.states import HostState

_PLENTY = 1 << 62


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of a host."""

    cpu_mhz: int = _PLENTY
    memory_bytes: int = _PLENTY
    storage_bytes: int = _PLENTY


def usable(host: Host, settings: Settings) -> Room:
    """What VMs may be given in all, overcommit included."""
    return Room(
        int((host.cpu_mhz - host.reserved_cpu_mhz) * settings.overcommit_cpu),
        int((host.memory_bytes - host.reserved_memory_bytes) * settings.overcommit_memory),
        host.storage_free_bytes,
    )


def storage_motion(vm: Vm, host: Host) -> bool:
    """Whether its disks would have to come along."""
    return not vm.pools <= host.pools


def _placement(vm: Vm, host: Host, room: Room, with_disks: bool) -> Refusal | None:
    demand = Demand(
        name=vm.name,
        cpus=vm.cpu_mhz,
        memory_bytes=vm.memory_bytes,
        volume_encryption=vm.encrypted,
        uefi=vm.uefi,
        hypervisor_type=vm.hypervisor_type,
        bridges=vm.bridges,
        nic_filter=vm.nic_filter,
        tpm=vm.tpm,
        secure_boot=vm.secure_boot,
        pool_choices=() if with_disks else tuple((pool,) for pool in sorted(vm.pools)),
    )
    facts = HostFacts(
        host.id,
        host.name,
        "",
        "",
        host.hypervisor_type,
        HostState(host.state),
        host.enabled,
        host.maintenance,
        host.encryption,
        host.uefi,
        host.bridges,
        room.cpu_mhz,
        room.memory_bytes,
        room.cpu_mhz,
        room.memory_bytes,
        host.pools,
        nic_filter=host.nic_filter,
        tpm=host.tpm,
        secure_boot=host.secure_boot,
    )
    return placement_refusal(demand, facts)


def static_refusal(vm: Vm, host: Host, settings: Settings) -> Refusal | None:
    """What no plan can change: the kind of host."""
    return _of_kind(vm, host, Room(), settings)


def _of_kind(vm: Vm, host: Host, room: Room, settings: Settings) -> Refusal | None:
    if vm.cpu_model and host.cpu_models and vm.cpu_model not in host.cpu_models:
        return Refusal("OTHER_CPU_MODEL", f"it cannot give guests the CPU {vm.cpu_model}")
    return _placement(vm, host, room, settings.storage_motion)


def refusal(
    vm: Vm, host: Host, room: Room, settings: Settings, neighbours: Neighbours | None = None, *, preferred: bool = True
) -> Refusal | None:
    """The first reason why the VM may not go there; None when it fits.

    room: what is left of the host; neighbours: where the VMs of its groups are; preferred: whether preferences bind.
    """
    no = _of_kind(vm, host, room, settings)
    if no:
        return no
    if storage_motion(vm, host) and vm.disk_bytes > room.storage_bytes:
        return Refusal("LACKS_SPACE", "its storage has no room for the disks")
    return neighbours.refusal(vm, host.id, preferred) if neighbours else None


class Neighbours:
    """Where the VMs of each group are, as moves are planned.

    leaving: hosts being emptied. A group that must stay together cannot move in one piece; while its host is emptied,
    the members still there do not hold back those that leave.
    """

    def __init__(self, snapshot: Snapshot, leaving: Container[str] = ()) -> None:
        self.groups: Mapping[str, Group] = {group.id: group for group in snapshot.groups}
        self.members: dict[str, list[str]] = defaultdict(list)
        self.host_of: dict[str, str] = {}
        self.leaving = leaving
        for vm in snapshot.vms:
            if vm.groups:
                self.host_of[vm.id] = vm.host_id
            for group in vm.groups:
                self.members[group].append(vm.id)

    def move(self, vm: Vm, host_id: str) -> None:
        """The VM is there now."""
        if vm.groups:
            self.host_of[vm.id] = host_id

    def refusal(self, vm: Vm, host_id: str, preferred: bool = True) -> Refusal | None:
        """Why its groups forbid it to go there. A rule that is broken already must not become more so."""
        for group in map(self.groups.__getitem__, vm.groups):
            if not (group.strict or preferred):
                continue
            if group.kind.names_hosts:
                if not group.allows_host(host_id):
                    word = "only" if group.kind is GroupKind.RUN_ON else "not"
                    return Refusal(_code(group.kind), f'group "{group.name}" runs {word} on the hosts it names')
                continue
            there = [id for id in self.members[group.id] if id != vm.id and self.host_of[id] == host_id]
            if group.kind is GroupKind.ANTI_AFFINITY:
                if there:
                    return Refusal("ANTI_AFFINITY", f'"{there[0]}" of group "{group.name}" is there')
            elif len(there) < self._mates_needed(vm, group):
                return Refusal("AFFINITY", f'it would leave the VMs of group "{group.name}"')
        return None

    def _mates_needed(self, vm: Vm, group: Group) -> int:
        """How many others of the group must be where it goes: as many as it leaves behind."""
        others = Counter(self.host_of[id] for id in self.members[group.id] if id != vm.id)
        source = self.host_of[vm.id]
        if source in self.leaving:
            return max((count for host, count in others.items() if host not in self.leaving), default=0)
        return others[source]

    def broken(self) -> tuple[BrokenRule, ...]:
        """The groups whose rule does not hold, strict ones first."""
        found = [rule for group in self.groups.values() if (rule := self._broken(group))]
        return tuple(sorted(found, key=lambda rule: (not rule.strict, rule.group_name, rule.group_id)))

    def _broken(self, group: Group) -> BrokenRule | None:
        members = self.members[group.id]
        together = Counter(self.host_of[id] for id in members)
        if group.kind.names_hosts:
            wrong = sum(number for host, number in together.items() if not group.allows_host(host))
            word = "off" if group.kind is GroupKind.RUN_ON else "on"
            explanation = f'{wrong} VMs of "{group.name}" are {word} the hosts it names'
            return BrokenRule(group.id, group.name, group.kind, group.strict, wrong, explanation) if wrong else None
        pairs = broken_pairs(group.kind, together.values())
        if not pairs:
            return None
        if group.kind is GroupKind.ANTI_AFFINITY:
            host, count = max(together.items(), key=lambda item: (item[1], item[0]))
            explanation = f'{count} VMs of "{group.name}" share host "{host}"'
        else:
            explanation = f'the {len(members)} VMs of "{group.name}" are on {len(together)} hosts'
        return BrokenRule(group.id, group.name, group.kind, group.strict, pairs, explanation)


def _code(kind: GroupKind) -> str:
    return kind.value.upper().replace("-", "_")


def broken_pairs(kind: GroupKind, counts: Iterable[int]) -> int:
    """Pairs that are together, or apart, against the rule. counts: VMs of the group on each host."""
    sizes = list(counts)
    together = sum(size * (size - 1) // 2 for size in sizes)
    total = sum(sizes)
    return together if kind is GroupKind.ANTI_AFFINITY else total * (total - 1) // 2 - together


class Placements:
    """Who is where, move by move, by the rules alone: what an executor asks before each move, and the planner's own
    proof of its plan. Knows nothing of algorithms."""

    def __init__(self, snapshot: Snapshot, settings: Settings, leaving: Container[str] = ()) -> None:
        self.settings = settings
        self.hosts = {host.id: host for host in snapshot.hosts}
        self.vms = {vm.id: vm for vm in snapshot.vms}
        self.host_of = {vm.id: vm.host_id for vm in snapshot.vms}
        self.neighbours = Neighbours(snapshot, leaving)
        self._cpu_mhz = {host.id: usable(host, settings).cpu_mhz - host.other_cpu_mhz for host in snapshot.hosts}
        self._memory_bytes = {
            host.id: usable(host, settings).memory_bytes - host.other_memory_bytes for host in snapshot.hosts
        }
        self._storage_bytes = {host.id: host.storage_free_bytes for host in snapshot.hosts}
        for vm in snapshot.vms:
            self._cpu_mhz[vm.host_id] -= vm.cpu_mhz
            self._memory_bytes[vm.host_id] -= vm.memory_bytes

    def room(self, host_id: str) -> Room:
        """What is left of a host."""
        return Room(self._cpu_mhz[host_id], self._memory_bytes[host_id], self._storage_bytes[host_id])

    def refusal(self, vm_id: str, host_id: str, *, preferred: bool = True) -> Refusal | None:
        """Why the VM may not go there now; None when it fits. Raises KeyError for an id that is not there."""
        vm, host = self.vms[vm_id], self.hosts[host_id]
        if self.host_of[vm_id] == host_id:
            return Refusal("ALREADY_THERE", "it is there already")
        return refusal(vm, host, self.room(host_id), self.settings, self.neighbours, preferred=preferred)

    def fits(self, vm_id: str, host_id: str) -> bool:
        """Whether every rule holds after this move."""
        return self.refusal(vm_id, host_id) is None

    def move(self, vm_id: str, host_id: str) -> None:
        """The VM is there now."""
        vm, source = self.vms[vm_id], self.host_of[vm_id]
        self._cpu_mhz[source] += vm.cpu_mhz
        self._memory_bytes[source] += vm.memory_bytes
        self._cpu_mhz[host_id] -= vm.cpu_mhz
        self._memory_bytes[host_id] -= vm.memory_bytes
        if storage_motion(vm, self.hosts[host_id]):
            self._storage_bytes[host_id] -= vm.disk_bytes
        self.host_of[vm_id] = host_id
        self.neighbours.move(vm, host_id)
