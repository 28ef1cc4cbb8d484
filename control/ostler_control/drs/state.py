"""Planned placements as arrays, and what the algorithm measures of them. Changes by one move at a time."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property

import numpy as np

from ostler_control.drs.algorithms.base import Algorithm
from ostler_control.drs.imbalance import Bools, Floats, from_moments, imbalance
from ostler_control.drs.model import GroupKind, Snapshot
from ostler_control.drs.rules import usable
from ostler_control.drs.settings import PRESSURES, Settings
from ostler_control.drs.table import Ints, build, number

MIB = 1 << 20
# As many kinds of VM sizes are told apart exactly; more are put into a grid of this many steps for CPU and for memory.
_EXACT_SIZES = 64
_GRID = 8
_MAX_CELLS = 20_000_000


class State:
    """Hosts and VMs in the order of their ids, so that the order of the snapshot does not matter.

    leaving: ids of hosts being emptied: neither measured nor targets.
    """

    def __init__(
        self, snapshot: Snapshot, settings: Settings, algorithm: Algorithm, leaving: Collection[str] = ()
    ) -> None:
        self.settings = settings
        self.algorithm = algorithm
        self.hosts = sorted(snapshot.hosts, key=lambda host: host.id)
        self.vms = sorted(snapshot.vms, key=lambda vm: vm.id)
        self.host_index = {host.id: position for position, host in enumerate(self.hosts)}
        self.leaving = np.array([host.id in leaving for host in self.hosts], dtype=bool)
        self.active = np.array([host.in_service and host.id not in leaving for host in self.hosts], dtype=bool)
        self.at: Ints = np.array([self.host_index[vm.host_id] for vm in self.vms], dtype=np.int64)
        self.origin = self.at.copy()
        self._sizes()
        self.table = build(self.vms, self.hosts, self.at, settings)
        self.allowed: Bools = self.table.allowed & self.active
        self._groups(snapshot)
        self._costs()
        self._gauges()

    def _sizes(self) -> None:
        hosts, vms, settings = self.hosts, self.vms, self.settings
        self.cpu = np.array([vm.cpu_mhz for vm in vms], dtype=float)
        self.memory = np.array([vm.memory_bytes for vm in vms], dtype=float)
        rooms = [usable(host, settings) for host in hosts]
        self.usable_cpu = np.array([room.cpu_mhz for room in rooms], dtype=float)
        self.usable_memory = np.array([room.memory_bytes for room in rooms], dtype=float)
        # A host that has nothing to allocate cannot be measured as a share.
        self.active &= (self.usable_cpu > 0) & (self.usable_memory > 0)
        self.used_cpu = np.array([host.other_cpu_mhz for host in hosts], dtype=float) + self._per_host(self.cpu)
        self.used_memory = np.array([host.other_memory_bytes for host in hosts], dtype=float) + self._per_host(
            self.memory
        )
        self.holds_others = np.array(
            [host.other_cpu_mhz > 0 or host.other_memory_bytes > 0 for host in hosts], dtype=bool
        )
        self.disk = np.array([vm.disk_bytes for vm in vms], dtype=float)
        self.storage_free = np.array([host.storage_free_bytes for host in hosts], dtype=float)
        # What the gauges measure: either what was given, or what is used.
        self.measured = settings.measures
        if self.measured:
            self.load_cpu = np.array([vm.measured_cpu_mhz or 0 for vm in vms], dtype=float)
            self.load_memory = np.array([vm.measured_memory_bytes or 0 for vm in vms], dtype=float)
            self.host_cpu = np.array([host.measured_cpu_mhz or 0 for host in hosts], dtype=float)
            self.host_memory = np.array([host.measured_memory_bytes or 0 for host in hosts], dtype=float)
            self.total_cpu = np.array([host.cpu_mhz - host.reserved_cpu_mhz for host in hosts], dtype=float)
            self.total_memory = np.array([h.memory_bytes - h.reserved_memory_bytes for h in hosts], dtype=float)
            self._pressures()
        else:
            self.load_cpu, self.load_memory = self.cpu, self.memory
            self.host_cpu, self.host_memory = self.used_cpu.copy(), self.used_memory.copy()
            self.total_cpu, self.total_memory = self.usable_cpu, self.usable_memory

    def _pressures(self) -> None:
        """Work that waits is load as well, which no VM takes along: only what was measured afterwards can tell."""
        metric = self.settings.metric
        if metric not in PRESSURES:
            return
        waiting = [getattr(host, metric.replace("-", "_")) or 0.0 for host in self.hosts]
        if self.settings.resource == "cpu":
            self.host_cpu += np.array(waiting) * self.total_cpu
        else:
            self.host_memory += np.array(waiting) * self.total_memory

    def _per_host(self, of_vms: Floats) -> Floats:
        return np.bincount(self.at, weights=of_vms, minlength=len(self.hosts)).astype(float)

    def _groups(self, snapshot: Snapshot) -> None:
        groups = {group.id: group for group in snapshot.groups}
        self.groups = groups
        self.grouped = np.array([bool(vm.groups) for vm in self.vms], dtype=bool)
        # For each group that names hosts, which hosts its VMs may be on.
        self.named: dict[str, Bools] = {
            id: np.array([group.allows_host(host.id) for host in self.hosts], dtype=bool)
            for id, group in groups.items()
            if group.kind.names_hosts
        }
        members: dict[str, list[int]] = {}
        for position, vm in enumerate(self.vms):
            for group in vm.groups:
                members.setdefault(group, []).append(position)
        self.members: dict[str, Ints] = {id: np.array(found, dtype=np.int64) for id, found in members.items()}

    def _costs(self) -> None:
        """Memory is sent again as it is dirtied; a VM that dirties as fast as the link sends converges by being
        slowed, so the sum is cut at ten times its memory."""
        speed = self.settings.migration_speed * MIB
        dirtied = np.array([min(vm.dirty_rate_bytes_per_s / speed, 0.9) for vm in self.vms], dtype=float)
        self.send_bytes = self.memory / (1.0 - dirtied)
        self.all_memory = max(float(self.usable_memory[self.active].sum()), 1.0)
        self.cost = self.send_bytes / self.all_memory
        self.disk_cost = self.disk / self.all_memory

    def _gauges(self) -> None:
        zero = np.zeros(len(self.hosts))
        found = self.algorithm.gauges(self.total_cpu, self.total_memory, self.settings)
        self.count = int(self.active.sum())
        self.per_cpu = np.array([np.where(self.active, gauge.per_cpu, zero) for gauge in found])
        self.per_memory = np.array([np.where(self.active, gauge.per_memory, zero) for gauge in found])
        self.base = np.array([np.where(self.active, gauge.base, zero) for gauge in found])
        values = self._measure()
        # Centred on the mean at the start: sums of squares of a balanced cluster would drown in rounding otherwise.
        self.centre = values[:, self.active].mean(axis=1) if self.count else np.zeros(len(found))
        self._centres = self.centre.tolist()
        # Whether the algorithm measures something else than evenness.
        self.penalized = self.algorithm.penalty(values, self.settings) is not None
        self._recentre()

    def _measure(self) -> Floats:
        found: Floats = self.base + self.per_cpu * self.host_cpu + self.per_memory * self.host_memory
        return found

    def _recentre(self) -> None:
        """`off`: how far each host is from the centre; its sums are what a candidate's O(1) needs."""
        self.off: Floats = np.where(self.active, self._measure() - self.centre[:, None], 0.0)
        self._sum_up()

    def _sum_up(self) -> None:
        # Summed anew each time, which costs little and lets no rounding error grow.
        self.sum: Floats = self.off.sum(axis=1)
        self.squares: Floats = (self.off * self.off).sum(axis=1)
        if self.penalized:
            self.penalties = self._penalty(self.off + self.centre[:, None], self.active)

    def _penalty(self, values: Floats, active: Bools) -> Floats:
        """What the algorithm says each number costs; 0 for hosts that are not measured."""
        found = self.algorithm.penalty(np.where(active, values, 0.0), self.settings)
        assert found is not None
        return np.where(active, found, 0.0)

    @property
    def values(self) -> Floats:
        """For each gauge the number of each host; 0 where it is not measured."""
        return np.where(self.active, self.off + self.centre[:, None], 0.0)

    @property
    def imbalance(self) -> float:
        """What moves are judged by and what is shown: every measured host counts."""
        if not self.count:
            return 0.0
        if self.penalized:
            return float(self.algorithm.combine(list(self.penalties.sum(axis=1) / self.count)))
        found = []
        for total, squares, centre in zip(self.sum.tolist(), self.squares.tolist(), self._centres, strict=True):
            off = total / self.count
            mean = off + centre
            found.append(math.sqrt(max(squares / self.count - off * off, 0.0)) / abs(mean) if mean else 0.0)
        return found[0] if len(found) == 1 else float(self.algorithm.combine([np.array(one) for one in found]))

    def after(self, sums: Floats, squares: Floats) -> Floats:
        """The imbalance for sums of `off` and of its squares, gauges first."""
        if not self.count:
            return np.zeros(sums.shape[1:])
        shape = (-1,) + (1,) * (sums.ndim - 1)
        mean = sums / self.count
        return self.algorithm.combine(
            list(from_moments(squares / self.count - mean * mean, mean + self.centre.reshape(shape)))
        )

    def left(self, vms: Ints) -> tuple[Floats, Floats]:
        """For gauge and VM: the sums without what the VM brings to its host."""
        source = self.at[vms]
        lost = self.per_cpu[:, source] * self.load_cpu[vms] + self.per_memory[:, source] * self.load_memory[vms]
        return self.sum[:, None] - lost, self.squares[:, None] + lost * (lost - 2 * self.off[:, source])

    def after_change(self, a: Ints, b: Ints, lost: Floats, gained: Floats) -> Floats:
        """The imbalance once the numbers of hosts a have fallen by `lost` and those of hosts b have risen by `gained`.
        lost and gained: gauges first; a and b are broadcast against the rest."""
        if not self.penalized:
            squares = self.squares.reshape(-1, *(1 for _ in range(lost.ndim - 1)))
            sums = self.sum.reshape(squares.shape)
            squares = squares + lost * (lost - 2 * self.off[:, a]) + gained * (2 * self.off[:, b] + gained)
            return self.after(sums - lost + gained, squares)
        shape = (-1, *(1 for _ in range(lost.ndim - 1)))
        total = self.penalties.sum(axis=1).reshape(shape)
        for hosts, change in ((a, -lost), (b, gained)):
            values = self.off[:, hosts] + self.centre.reshape(shape) + change
            total = total + self._penalty(values, self.active[hosts]) - self.penalties[:, hosts]
        return self.algorithm.combine(list(total / max(self.count, 1)))

    def change(self, hosts: Ints, cpu: Floats, memory: Floats) -> Floats:
        """By how much this load changes the numbers of these hosts, gauges first."""
        return self.per_cpu[:, hosts] * cpu + self.per_memory[:, hosts] * memory

    def after_every_move(self, vms: Ints) -> Floats:
        """The imbalance after moving each of these VMs to each host."""
        return self.after_moves(vms[:, None], np.arange(len(self.hosts))[None, :])

    def after_moves(self, vms: Ints, hosts: Ints) -> Floats:
        """The imbalance after moving each of these VMs to its host of these; broadcast against each other."""
        cpu, memory, source = self.load_cpu[vms], self.load_memory[vms], self.at[vms]
        return self.after_change(source, hosts, self.change(source, cpu, memory), self.change(hosts, cpu, memory))

    @property
    def judged(self) -> float:
        """What `needs_drs` is asked with: the imbalance of those hosts that the algorithm counts."""
        if not self.algorithm.skips_hosts:  # asked before every move: not to be computed for nothing
            return self.imbalance
        skipped = self.algorithm.skipped(self._full(), self.settings)
        if self.penalized:
            counted = ~skipped & self.active
            means = (self.penalties * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
            return float(self.algorithm.combine(list(means)))
        left = [imbalance(of_gauge[~skip & self.active]) for of_gauge, skip in zip(self.values, skipped, strict=True)]
        return float(self.algorithm.combine([np.array(one) for one in left]))

    def _full(self) -> Floats:
        """For each gauge, the used share of each host."""
        full = []
        for cpu, memory in zip(self.per_cpu, self.per_memory, strict=True):
            by_cpu = bool(cpu.any()) and not memory.any()
            used, total = (self.host_cpu, self.total_cpu) if by_cpu else (self.host_memory, self.total_memory)
            full.append(used / np.maximum(total, 1.0))
        return np.array(full)

    def shares(self) -> tuple[Floats, Floats]:
        """How full each host is, CPU and memory, by what drs.source measures. A host without any counts as full as soon
        as something is there."""
        found = []
        for used, total in ((self.host_cpu, self.total_cpu), (self.host_memory, self.total_memory)):
            found.append(np.where(total > 0, used / np.maximum(total, 1.0), np.where(used > 0, 1.0, 0.0)))
        return found[0], found[1]

    def needs_drs(self) -> bool:
        """Whether the algorithm wants more."""
        return self.algorithm.needs_drs(self.judged, self.settings)

    def gain(self, before: float, after: float) -> float:
        """What the algorithm says of one step."""
        return float(self.algorithm.gain(before, np.array(after)))

    def worth(self, gain: float, cost: float) -> float:
        """What it is worth to the algorithm at this cost."""
        return float(self.algorithm.score(np.array(gain), np.array(cost), self.settings))

    @property
    def free_cpu(self) -> Floats:
        """MHz left on each host."""
        return self.usable_cpu - self.used_cpu

    @property
    def free_memory(self) -> Floats:
        """Bytes left on each host."""
        return self.usable_memory - self.used_memory

    def move(self, vm: int, host: int) -> None:
        """The VM is there now. Moving it back undoes it."""
        source = int(self.at[vm])
        for place, sign in ((source, -1.0), (host, 1.0)):
            self.used_cpu[place] += sign * self.cpu[vm]
            self.used_memory[place] += sign * self.memory[vm]
            self.host_cpu[place] += sign * self.load_cpu[vm]
            self.host_memory[place] += sign * self.load_memory[vm]
            if self.storage_motion(vm, place):
                self.storage_free[place] -= sign * self.disk[vm]
            if self.active[place]:
                self.off[:, place] = (
                    self.base[:, place]
                    + self.per_cpu[:, place] * self.host_cpu[place]
                    + self.per_memory[:, place] * self.host_memory[place]
                    - self.centre
                )
        self.at[vm] = host
        self._sum_up()
        if "kinds" in self.__dict__:
            self.kinds.update((source, host))

    def storage_motion(self, vm: int, host: int) -> bool:
        """Whether its disks must come along."""
        return (
            self.settings.storage_motion
            and host != self.origin[vm]
            and bool(self.table.motion[self.table.row_of[vm], host])
        )

    def cost_of(self, vm: int, host: int) -> float:
        """What it costs to have the VM there, as a share of the cluster's memory; 0 where it was at first."""
        if host == self.origin[vm]:
            return 0.0
        return float(self.cost[vm] + (self.disk_cost[vm] if self.storage_motion(vm, host) else 0.0))

    def cost_changes(self, vms: Ints, hosts: Ints) -> Floats:
        """What moving each of these VMs to its host of these adds to the cost of the plan: below 0 where one goes home.
        The two are broadcast against each other."""
        found: Floats = np.broadcast_to(self._cost_at(vms, hosts), np.broadcast_shapes(vms.shape, hosts.shape))
        moved = self.at[vms] != self.origin[vms]
        if moved.any():
            home = moved & (hosts == self.origin[vms])
            found = np.where(home, 0.0, found) - np.where(moved, self._cost_at(vms, self.at[vms]), 0.0)
        return found

    def _cost_at(self, vms: Ints, hosts: Ints) -> Floats:
        """The same of VMs that have not moved, to other hosts."""
        if not self.settings.storage_motion:
            return self.cost[vms]
        return self.cost[vms] + np.where(self.table.motion[self.table.row_of[vms], hosts], self.disk_cost[vms], 0.0)

    @property
    def planned_cost(self) -> float:
        """What all VMs that are not where they were at first cost together."""
        moved = np.flatnonzero(self.at != self.origin)
        if not self.settings.storage_motion:
            return float(self.cost[moved].sum())
        return sum(self.cost_of(vm, int(self.at[vm])) for vm in moved.tolist())

    def fits(self, vms: Ints, *, preferred: bool = True) -> Bools:
        """For each of these VMs and each host: may it go there now? As `rules.refusal`, but that no kind of host keeps
        a VM that has moved from going home."""
        rows = self.table.row_of[vms]
        found = self.allowed[rows]
        back = np.arange(len(vms)), self.origin[vms]
        found[back] = True
        found &= self.cpu[vms, None] <= self.free_cpu
        found &= self.memory[vms, None] <= self.free_memory
        if self.settings.storage_motion:
            alone = ~self.table.motion[rows]
            alone[back] = True
            found &= alone | (self.disk[vms, None] <= self.storage_free)
        found[np.arange(len(vms)), self.at[vms]] = False
        for position in np.flatnonzero(self.grouped[vms]).tolist():
            vm = int(vms[position])
            for group in self.vms[vm].groups:
                self.group_fits(found[position], vm, group, preferred)
        return found

    def fits_one(self, vm: int, host: int) -> bool:
        """May the VM go there now?"""
        return bool(self.fits(np.array([vm]))[0, host])

    def group_fits(self, row: Bools, vm: int, group_id: str, preferred: bool) -> None:
        """Takes out of the VM's row what this group forbids."""
        group = self.groups[group_id]
        if group.kind.names_hosts:
            if group.strict or preferred:
                row &= self.named[group_id]
            return
        members = self.members[group_id]
        others = members[members != vm]
        if not len(others) or not (group.strict or preferred):
            return
        if group.kind is GroupKind.ANTI_AFFINITY:
            row[self.at[others]] = False
            return
        counts = np.bincount(self.at[others], minlength=len(self.hosts))
        source = self.at[vm]
        # As many mates as it leaves; of a host that is emptied, where most of those are that have left.
        row &= counts >= (counts[~self.leaving].max(initial=0) if self.leaving[source] else counts[source])

    @cached_property
    def kinds(self) -> Kinds:
        """VMs that differ only by where they are, for quick bounds."""
        return Kinds(self)


class Kinds:
    """Which hosts might take a VM of each kind: static rules and capacity, not groups.

    A kind is a row of the table and a step of CPU and of memory; a host takes the kind if it takes its smallest VM.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        steps = self._steps()
        self.of, firsts = number(zip(state.table.row_of.tolist(), steps.tolist(), strict=True))
        self.rows = state.table.row_of[firsts] if firsts else np.zeros(0, dtype=np.int64)
        self.least_cpu = np.full(len(firsts), np.inf)
        self.least_memory = np.full(len(firsts), np.inf)
        np.minimum.at(self.least_cpu, self.of, state.cpu)
        np.minimum.at(self.least_memory, self.of, state.memory)
        self.open = np.zeros((len(firsts), len(state.hosts)), dtype=bool)
        self.update(tuple(range(len(state.hosts))))

    def _steps(self) -> Ints:
        state = self.state
        pairs, exact = np.unique(np.stack([state.cpu, state.memory]), axis=1, return_inverse=True)
        cells = len(state.table.codes) * len(state.hosts)
        if pairs.shape[1] * cells <= max(_MAX_CELLS, cells) and pairs.shape[1] <= _EXACT_SIZES:
            return exact.reshape(-1)
        grid = _GRID if _GRID * _GRID * cells <= _MAX_CELLS else 1
        edges = np.linspace(0, 1, grid + 1)[1:-1]
        by_cpu = np.searchsorted(np.quantile(state.cpu, edges), state.cpu, side="right")
        by_memory = np.searchsorted(np.quantile(state.memory, edges), state.memory, side="right")
        return by_cpu * grid + by_memory

    def update(self, hosts: tuple[int, ...]) -> None:
        """What is left of these hosts has changed."""
        state, which = self.state, np.array(hosts, dtype=np.int64)
        self.open[:, which] = (
            state.allowed[np.ix_(self.rows, which)]
            & (self.least_cpu[:, None] <= state.free_cpu[which])
            & (self.least_memory[:, None] <= state.free_memory[which])
        )
