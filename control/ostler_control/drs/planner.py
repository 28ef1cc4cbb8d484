"""A snapshot and settings in, a plan out. Pure and deterministic: the same snapshot gives the same plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_control.drs import emptying, leveling, packing, refusals, repair
from ostler_control.drs.algorithms import Algorithm, algorithm
from ostler_control.drs.model import (
    Considered,
    HostLoad,
    LeftOut,
    Mode,
    Move,
    Plan,
    Snapshot,
    Verdict,
)
from ostler_control.drs.reserve import Reserve
from ostler_control.drs.rules import Placements
from ostler_control.drs.search import Choice, Search
from ostler_control.drs.settings import PRESSURES, Settings
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply, undo, undo_all
from ostler_control.drs.table import Ints

# How often others are looked for in place of moves that would not keep the reserve.
_RESERVE_TRIES = 8


def plan(
    snapshot: Snapshot,
    settings: Settings,
    mode: Mode = Mode.BALANCE,
    *,
    leaving: Collection[str] = (),
    sources: Collection[str] | None = None,
    using: Algorithm | None = None,
) -> Plan:
    """What to move where, and why.

    leaving: ids of the hosts to empty (mode EVACUATE); sources: ids of the hosts whose VMs may move, None: all;
    using: the algorithm, by default the one of drs.algorithm.

    Raises FailedPreconditionError (UNKNOWN_ALGORITHM; MEASUREMENTS_MISSING, PRESSURE_MISSING when load is measured),
    NotFoundError (HOST_NOT_FOUND).
    """
    chosen = using or algorithm(settings.algorithm)
    _check(snapshot, settings, leaving)
    state = State(snapshot, settings, chosen, leaving)
    left = refusals.left_vms(state, mode)
    movable_at = [sources is None or host.id in sources for host in state.hosts]
    vms = np.array(
        [vm for vm, host in enumerate(state.at.tolist()) if vm not in left and movable_at[host]], dtype=np.int64
    )
    start = _Start(state)
    units, end, kept = _keeping_reserve(snapshot, state, mode, vms, left)
    return _Report(snapshot, state, start, mode, units, end).plan(left, kept)


Left = dict[int, tuple[str, str]]


def _keeping_reserve(
    snapshot: Snapshot, state: State, mode: Mode, vms: Ints, left: Left
) -> tuple[list[Unit], End, Left]:
    """Units that keep what is free for VMs of failed hosts. VMs whose moves would not are left out, and others are
    looked for; an evacuation is not held back."""
    reserve = Reserve(snapshot, state.settings)
    for tries_left in range(_RESERVE_TRIES, -1, -1):
        units, end, kept = _units(state, mode, vms, left)
        broken = None if mode is Mode.EVACUATE else reserve.first_broken(state, units)
        if broken is None:
            return units, end, kept
        out = {
            vm for unit in (units[broken:] if not tries_left else units[broken : broken + 1]) for vm, _ in unit.moves
        }
        left.update(
            dict.fromkeys(out, ("RESERVED", "too little would stay free for VMs of failed hosts (ha.reserve.hosts)"))
        )
        if not tries_left:
            break
        undo_all(state)
        vms = np.array([vm for vm in vms.tolist() if vm not in out], dtype=np.int64)
    for unit in reversed(units[broken:]):
        undo(state, unit)
    return units[:broken], End.NO_GAIN, kept


def _units(state: State, mode: Mode, vms: Ints, left: Left) -> tuple[list[Unit], End, Left]:
    """What to move, as the mode asks; the state is where that leads. The third: hosts that could not be emptied."""
    most = state.settings.max_migrations
    if state.count < (1 if mode is Mode.EVACUATE else 2):
        return [], End.SATISFIED, {}
    if mode is Mode.EVACUATE:
        return *_evacuate(state, vms, left), {}
    if mode is Mode.REPAIR:
        return *repair.repair(state, Search(state), vms, most), {}
    if state.algorithm.empties_hosts:
        why_not = {vm: explanation for vm, (_, explanation) in left.items()}
        return packing.pack(state, vms, most, why_not)
    if state.needs_drs():
        return *leveling.level(state, Search(state), vms, most), {}
    return [], End.SATISFIED, {}


def _evacuate(state: State, vms: Ints, left: Left) -> tuple[list[Unit], End]:
    movable = np.zeros(len(state.vms), dtype=bool)
    movable[vms] = True
    leavers = vms[state.leaving[state.at[vms]]]
    # Opting out and cooling down hold back balancing, not maintenance; but nobody else is pushed about for it.
    movable[[vm for vm in vms if state.vms[vm].skip or refusals.cooling(state, vm)]] = False
    units, stays = emptying.evacuate(state, leavers, movable)
    reasons = {vm: left.get(vm) or refusals.stuck(state, vm) for vm in set(stays.values())}
    left.update(emptying.why_held(state, stays, reasons))
    held = any(state.leaving[state.at[vm]] for vm in range(len(state.vms)))
    return units, End.NO_GAIN if held else End.SATISFIED


def _check(snapshot: Snapshot, settings: Settings, leaving: Collection[str]) -> None:
    known = {host.id for host in snapshot.hosts}
    for id in leaving:
        if id not in known:
            raise NotFoundError(f'there is no host "{id}" in this cluster', "HOST_NOT_FOUND", {"id": id})
    check_measured(snapshot, settings)


def check_measured(snapshot: Snapshot, settings: Settings) -> None:
    """Raises FailedPreconditionError (MEASUREMENTS_MISSING, PRESSURE_MISSING) when load is to be measured and hosts do
    not report it."""
    if settings.metric in PRESSURES:
        attribute = settings.metric.replace("-", "_")
        silent = [host.name for host in snapshot.hosts if host.in_service and getattr(host, attribute) is None]
        if silent:
            raise FailedPreconditionError(
                f"drs.metric is {settings.metric}, but {len(silent)} hosts do not report it: {', '.join(silent[:5])} "
                "(wait for their agents, boot kernels that lack it with psi=1, or choose another drs.metric)",
                "PRESSURE_MISSING",
                {"hosts": str(len(silent))},
            )
    if settings.measures:
        silent = [
            host.name
            for host in snapshot.hosts
            if host.in_service and (host.measured_cpu_mhz is None or host.measured_memory_bytes is None)
        ]
        if silent:
            raise FailedPreconditionError(
                f"load is to be measured, but {len(silent)} hosts lack samples: {', '.join(silent[:5])} (wait for "
                "their agents to report, or set drs.source to allocated and drs.metric to no pressure)",
                "MEASUREMENTS_MISSING",
                {"hosts": str(len(silent))},
            )


def is_measured(snapshot: Snapshot, settings: Settings) -> bool:
    """Whether hosts report all that is to be measured, if anything is."""
    try:
        check_measured(snapshot, settings)
    except FailedPreconditionError:
        return False
    return True


class _Start:
    """What the report needs to know of the state before anything moved."""

    def __init__(self, state: State) -> None:
        self.imbalance = state.imbalance
        self.judged = state.judged
        self.needed = state.needs_drs()
        self.cpu, self.memory = state.shares()
        self.values = state.values[0].copy()
        self.vms = np.bincount(state.at, minlength=len(state.hosts))
        self.refused = refusals.counts(state) if self.needed else {}


class _Report:
    """Replays the units by the rules alone, so that what is reported was proved, and says why of everything."""

    def __init__(
        self, snapshot: Snapshot, state: State, start: _Start, mode: Mode, units: Sequence[Unit], end: End
    ) -> None:
        self.snapshot, self.state, self.start, self.mode, self.end = snapshot, state, start, mode, end
        self.units = units
        leaving = {host.id for host, is_leaving in zip(state.hosts, state.leaving, strict=True) if is_leaving}
        self.placements = Placements(snapshot, state.settings, leaving)
        self.broken_before = self.placements.neighbours.broken()

    def plan(self, left: dict[int, tuple[str, str]], kept: dict[int, tuple[str, str]]) -> Plan:
        state = self.state
        loads_after = (*state.shares(), state.values[0].copy())
        vms_after = np.bincount(state.at, minlength=len(state.hosts))
        moves = self._moves()
        left_hosts = {position: why for position in range(len(state.hosts)) if (why := self._out_of_service(position))}
        left_hosts.update(kept)
        verdict = self._verdict(moves)
        return Plan(
            mode=self.mode,
            algorithm=state.algorithm.name,
            verdict=verdict,
            explanation=self._explanation(verdict, len(moves)),
            imbalance_before=self.start.imbalance,
            imbalance_after=moves[-1].imbalance_after if moves else self.start.imbalance,
            moves=moves,
            left_vms=tuple(LeftOut(state.vms[vm].id, state.vms[vm].name, *why) for vm, why in sorted(left.items())),
            left_hosts=tuple(
                LeftOut(state.hosts[host].id, state.hosts[host].name, *why) for host, why in sorted(left_hosts.items())
            ),
            refused=self.start.refused,
            broken_before=self.broken_before,
            broken_after=self.placements.neighbours.broken(),
            loads=self._loads(vms_after, *loads_after),
        )

    def _moves(self) -> tuple[Move, ...]:
        state = self.state
        for unit in self.units:
            for vm, _ in unit.moves:
                if state.at[vm] != state.origin[vm]:
                    state.move(vm, int(state.origin[vm]))
        moves: list[Move] = []
        for position, unit in enumerate(self.units):
            together = 0.0
            if len(unit.moves) > 1:
                begin = state.imbalance
                apply(state, unit)
                together = state.gain(begin, state.imbalance)
                undo(state, unit)
            for vm, host in unit.moves:
                needs = self._needs(vm, state.hosts[host].id, moves)
                self._prove(vm, host)
                moves.append(self._move(unit, position, vm, host, together, needs))
        return tuple(moves)

    def _values(self, vm: int, host: int) -> tuple[float, float]:
        values = self.state.values[0]
        return float(values[self.state.at[vm]]), float(values[host])

    def _prove(self, vm: int, host: int) -> None:
        """Every rule holds after this move; anything else is a bug of the search, and no such plan leaves here."""
        vm_id, host_id = self.state.vms[vm].id, self.state.hosts[host].id
        preferred = self.mode is Mode.BALANCE
        no = self.placements.refusal(vm_id, host_id, preferred=preferred)
        if no:
            raise AssertionError(f"planned move of {vm_id} to {host_id} breaks a rule: {no.code}, {no.explanation}")
        self.placements.move(vm_id, host_id)

    def _move(
        self,
        unit: Unit,
        position: int,
        vm: int,
        host: int,
        together: float,
        needs: tuple[int, ...],
    ) -> Move:
        """Makes the move. together: what its unit gains."""
        state = self.state
        before, values = state.imbalance, self._values(vm, host)
        state.move(vm, host)
        after = state.imbalance
        subject, target, source = state.vms[vm], state.hosts[host], state.hosts[int(state.origin[vm])]
        motion = state.storage_motion(vm, host)
        return Move(
            vm_id=subject.id,
            vm_name=subject.name,
            source_id=source.id,
            source_name=source.name,
            destination_id=target.id,
            destination_name=target.name,
            imbalance_before=before,
            imbalance_after=after,
            gain=state.gain(before, after),
            cost=state.cost_of(vm, host),
            cost_bytes=round(state.send_bytes[vm] + (state.disk[vm] if motion else 0)),
            storage_motion=motion,
            reason=self._reason(unit, vm, source.name, target.name, before, after, together, values),
            considered=tuple(self._considered(choice) for choice in unit.considered),
            needs=needs,
            swap=position if unit.swap or unit.tied else None,
        )

    def _reason(
        self,
        unit: Unit,
        vm: int,
        source: str,
        target: str,
        before: float,
        after: float,
        gain: float,
        values: tuple[float, float],
    ) -> str:
        ratio = self.state.settings.metric_use_ratio
        first, second = (f"{value:.1%}" if ratio else f"{value:.4g}" for value in values)
        change = f"imbalance {before:.2%} -> {after:.2%}"
        if unit.swap:
            others = ", ".join(f'"{self.state.vms[other].name}"' for other, _ in unit.moves if other != vm)
            return f"gains {gain:.2%} together with the move of {others}, where no single move helps: {change}"
        if unit.reason:
            return f"{unit.reason}: {change}"
        word = self.state.settings.metric if self.state.settings.metric != "both" else "cpu"
        word = f"{self.state.settings.metric_type} {word}"
        return f'{word}: "{source}" has {first}, "{target}" {second}: {change}'

    def _considered(self, choice: Choice) -> Considered:
        return Considered(self.state.vms[choice.vm].name, self.state.hosts[choice.host].name, choice.gain, choice.cost)

    def _needs(self, vm: int, destination: str, earlier: Sequence[Move]) -> tuple[int, ...]:
        """The earlier moves that must be over before this one: those that make room at its destination, as many as it
        takes, and those of VMs that it keeps together with or apart from."""
        subject, placements = self.state.vms[vm], self.placements
        mates = {self.state.vms[mate].id for group in subject.groups for mate in self.state.members[group].tolist()}
        needed = [
            position
            for position, move in enumerate(earlier)
            if move.vm_id in mates and destination in (move.source_id, move.destination_id)
        ]
        leavers = [
            (position, placements.vms[m.vm_id]) for position, m in enumerate(earlier) if m.source_id == destination
        ]
        room = placements.room(destination)
        cpu_mhz = room.cpu_mhz - sum(leaver.cpu_mhz for _, leaver in leavers)
        memory_bytes = room.memory_bytes - sum(leaver.memory_bytes for _, leaver in leavers)
        for position, leaver in leavers:
            if subject.cpu_mhz <= cpu_mhz and subject.memory_bytes <= memory_bytes:
                break
            needed.append(position)
            cpu_mhz, memory_bytes = cpu_mhz + leaver.cpu_mhz, memory_bytes + leaver.memory_bytes
        return tuple(sorted(set(needed)))

    def _out_of_service(self, position: int) -> tuple[str, str] | None:
        host = self.state.hosts[position]
        if self.state.leaving[position]:
            return "LEAVING", "it is being emptied"
        if host.state != "up":
            return "NOT_UP", f"it is {host.state}"
        if not host.enabled:
            return "DISABLED", "it or its cluster is disabled"
        if host.maintenance:
            return "IN_MAINTENANCE", "it is in maintenance"
        return None if self.state.active[position] else ("NO_CAPACITY", "it has no CPU or memory for VMs")

    def _verdict(self, moves: Sequence[Move]) -> Verdict:
        if moves:
            return Verdict.MOVES
        if self.mode is Mode.REPAIR:
            return Verdict.NOTHING_HELPS if self.broken_before else Verdict.SATISFIED
        if self.mode is Mode.EVACUATE:
            held = any(self.state.leaving[place] for place in self.state.at)
            return Verdict.NOTHING_HELPS if held else Verdict.SATISFIED
        if self.state.count < 2:
            return Verdict.NO_HOSTS
        return Verdict.NOTHING_HELPS if self.start.needed else Verdict.SATISFIED

    def _explanation(self, verdict: Verdict, moves: int) -> str:
        if verdict is Verdict.NO_HOSTS:
            word = "host takes" if self.state.count == 1 else "hosts take"
            return f"{self.state.count} {word} part: there is nowhere to move to"
        number = f"{moves} move{'s' if moves != 1 else ''}"
        if self.mode is Mode.REPAIR:
            return {
                Verdict.SATISFIED: "every rule holds already",
                Verdict.NOTHING_HELPS: "no move that is allowed repairs a broken rule",
            }.get(verdict, f"{number} repair what can be repaired")
        if self.mode is Mode.EVACUATE:
            held = Counter(bool(self.state.leaving[place]) for place in self.state.at)[True]
            if verdict is Verdict.SATISFIED:
                return "it is empty already"
            return f"{number}; " + (f"{held} VMs cannot leave" if held else "then it is empty")
        settings, judged = self.state.settings, f"{self.start.judged:.2%}"
        aim = f"drs.imbalance {settings.imbalance:g}, algorithm {self.state.algorithm.name}"
        if verdict is Verdict.SATISFIED:
            word = "packed" if self.state.algorithm.empties_hosts else "balanced"
            return f"{word} already: imbalance {judged} is enough for {aim}"
        if verdict is Verdict.NOTHING_HELPS:
            return f"nothing that is allowed helps: imbalance {judged} calls for moves ({aim}), but none gains"
        return f"{number}; {self.end.value}"

    def _loads(self, vms_after: object, cpu: object, memory: object, values: object) -> tuple[HostLoad, ...]:
        state, start = self.state, self.start
        columns = (
            state.active,
            start.vms,
            vms_after,
            start.cpu,
            cpu,
            start.memory,
            memory,
            start.values,
            values,
        )
        rows: list[tuple[Any, ...]] = list(zip(*(np.asarray(column).tolist() for column in columns), strict=True))
        return tuple(HostLoad(host.id, host.name, *row) for host, row in zip(state.hosts, rows, strict=True))
