"""Which hosts could be off, and which of those that are off should be on again.

Hosts are emptied one after the other, those with the least memory in use first, as long as the others stay below
drs.power.off.threshold, keep every rule and the reserve, and have room for the largest VM. Hosts are woken as soon as
the others are above drs.power.on.threshold, lack the reserve, or have no room for the largest VM.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from ostler_control.drs import refusals
from ostler_control.drs.algorithms import algorithm
from ostler_control.drs.model import Host, Mode, Move, Plan, Snapshot
from ostler_control.drs.planner import plan
from ostler_control.drs.reserve import Reserve
from ostler_control.drs.rules import Placements
from ostler_control.drs.settings import Settings
from ostler_control.drs.state import State

# Hosts that are tried to be emptied, the emptiest first: each takes a plan of its own.
_TRIES = 8
_MIN_HOSTS = 2


@dataclass(frozen=True)
class PowerChange:
    """A host that could be switched off, or should be on. reason: for people."""

    host_id: str
    host_name: str
    reason: str


@dataclass(frozen=True)
class PowerPlan:
    """share: how much of CPUs or memory, whichever is more, the hosts in service have allocated, share_after: after
    the changes; moves: what empties the hosts to be switched off, in their order."""

    share: float
    share_after: float
    explanation: str
    switch_off: tuple[PowerChange, ...] = ()
    switch_on: tuple[PowerChange, ...] = ()
    moves: tuple[Move, ...] = ()


def power_plan(snapshot: Snapshot, settings: Settings, switchable: Collection[str]) -> PowerPlan:
    """What to switch. switchable: ids of hosts whose power can be switched. Either hosts are switched on, or off.

    drs.algorithm does not count: what is wanted is few hosts, not evenness.
    """
    settings = dataclasses.replace(settings, algorithm="balanced").of_allocated()
    share = allocated_share(snapshot, settings)
    if need := _need(snapshot, settings):
        return _wake(snapshot, settings, switchable, share, need)
    return _put_to_sleep(snapshot, settings, switchable, share)


def allocated_share(snapshot: Snapshot, settings: Settings) -> float:
    """How much of the CPUs or memory of the hosts in service is allocated, whichever is more; 1.0 without hosts."""
    placements = Placements(snapshot, settings)
    empty = Placements(dataclasses.replace(snapshot, vms=()), settings)
    rooms = [(placements.room(host.id), empty.room(host.id)) for host in snapshot.hosts if host.in_service]
    cpu, all_cpu = sum(room.cpu_mhz for room, _ in rooms), sum(room.cpu_mhz for _, room in rooms)
    memory, all_memory = sum(room.memory_bytes for room, _ in rooms), sum(room.memory_bytes for _, room in rooms)
    if all_cpu <= 0 or all_memory <= 0:
        return 1.0
    return max(1.0 - cpu / all_cpu, 1.0 - memory / all_memory)


def _need(snapshot: Snapshot, settings: Settings) -> str:
    """Why more hosts should be on; "" when they need not."""
    share = allocated_share(snapshot, settings)
    if share > settings.power_on_threshold:
        return f"{share:.0%} is allocated (drs.power.on.threshold {settings.power_on_threshold:g})"
    if (missing := Reserve(snapshot, settings).missing) > 0:
        return f"{missing} protected VMs would find no place if hosts failed (ha.reserve.hosts)"
    if not _largest_fits(snapshot, settings):
        return "no host has room for a VM as large as the largest one"
    return ""


def _largest_fits(snapshot: Snapshot, settings: Settings) -> bool:
    placements = Placements(snapshot, settings)
    rooms = [placements.room(host.id) for host in snapshot.hosts if host.in_service]
    cpu = max((vm.cpu_mhz for vm in snapshot.vms), default=0)
    memory = max((vm.memory_bytes for vm in snapshot.vms), default=0)
    return any(room.cpu_mhz >= cpu and room.memory_bytes >= memory for room in rooms)


def _wake(snapshot: Snapshot, settings: Settings, switchable: Collection[str], share: float, need: str) -> PowerPlan:
    asleep = sorted(
        (host for host in snapshot.hosts if host.asleep and host.id in switchable),
        key=lambda host: (-host.memory_bytes, host.name),
    )
    woken: list[PowerChange] = []
    why = need
    while why and asleep:
        host = asleep.pop(0)
        awake = dataclasses.replace(host, state="up", enabled=True, maintenance=False, asleep=False)
        snapshot = _with_hosts(snapshot, [awake])
        woken.append(PowerChange(host.id, host.name, why))
        why = _need(snapshot, settings)
    told = f"switch on {_names(woken)}: {need}" if woken else f"{need}, and no host is switched off"
    return PowerPlan(share, allocated_share(snapshot, settings), told, switch_on=tuple(woken))


def _put_to_sleep(snapshot: Snapshot, settings: Settings, switchable: Collection[str], share: float) -> PowerPlan:
    in_service = sum(host.in_service for host in snapshot.hosts)
    fewest = max(_MIN_HOSTS, settings.ha_reserve_hosts + 1)
    chosen: list[Host] = []
    moves: tuple[Move, ...] = ()
    after = snapshot
    candidates = _candidates(snapshot, settings, switchable)
    for host in candidates[:_TRIES]:
        if in_service - len(chosen) - 1 < fewest:
            break
        found = _emptied(snapshot, settings, [*chosen, host])
        if found is None:
            continue
        chosen.append(host)
        moves, after = found
    if not chosen:
        if in_service <= fewest:
            why = f"{fewest} hosts stay on in any case"
        elif not switchable:
            why = "no host can be switched (it needs a fence device, and no volumes on storage of its own)"
        else:
            why = "no host can be emptied by the rules" if not candidates else "every host is needed"
        limit = f"drs.power.off.threshold {settings.power_off_threshold:g}"
        return PowerPlan(share, share, f"nothing to switch: {share:.0%} is allocated ({limit}), {why}")
    share_after = allocated_share(after, settings)
    number = {host.id: sum(move.source_id == host.id for move in moves) for host in chosen}
    changes = tuple(
        PowerChange(host.id, host.name, f"after {number[host.id]} moves" if number[host.id] else "it has no VMs")
        for host in chosen
    )
    told = f"{_names(changes)} could be off: then {share_after:.0%} is allocated instead of {share:.0%}"
    return PowerPlan(share, share_after, told, switch_off=changes, moves=moves)


def _candidates(snapshot: Snapshot, settings: Settings, switchable: Collection[str]) -> list[Host]:
    """Hosts all of whose VMs may move, the least memory in use first."""
    state = State(snapshot, settings, algorithm(settings.algorithm))
    stay = {state.vms[vm].host_id for vm in refusals.left_vms(state, Mode.BALANCE)}
    used: defaultdict[str, int] = defaultdict(int)
    for vm in snapshot.vms:
        used[vm.host_id] += vm.memory_bytes
    free_of_others = {state.hosts[place].id for place in np.flatnonzero(~state.holds_others & state.active)}
    fit = [host for host in snapshot.hosts if host.id in switchable and host.id in free_of_others - stay]
    return sorted(fit, key=lambda host: (used[host.id], host.name))


def _emptied(
    snapshot: Snapshot, settings: Settings, hosts: Collection[Host]
) -> tuple[tuple[Move, ...], Snapshot] | None:
    """The moves that empty these hosts, and what is then; None when the others should not hold all VMs."""
    ids = {host.id for host in hosts}
    off = [dataclasses.replace(host, maintenance=True, asleep=True) for host in hosts]
    if allocated_share(_without(snapshot, ids), settings) > settings.power_off_threshold:
        return None
    found = plan(snapshot, settings, Mode.EVACUATE, leaving=ids)
    places = {move.vm_id: move.destination_id for move in found.moves}
    moved = tuple(dataclasses.replace(vm, host_id=places.get(vm.id, vm.host_id)) for vm in snapshot.vms)
    if _breaks(found) or any(vm.host_id in ids for vm in moved):
        return None
    after = _with_hosts(dataclasses.replace(snapshot, vms=moved), off)
    return None if _need(after, settings) else (found.moves, after)


def _without(snapshot: Snapshot, ids: Collection[str]) -> Snapshot:
    """As if the VMs of these hosts were on one of the others: for the sum of what is allocated."""
    rest = tuple(host for host in snapshot.hosts if host.id not in ids)
    other = next((host.id for host in rest if host.in_service), "")
    vms = tuple(dataclasses.replace(vm, host_id=other) if vm.host_id in ids else vm for vm in snapshot.vms)
    return Snapshot(rest, vms, snapshot.groups) if other else snapshot


def _breaks(found: Plan) -> bool:
    """Whether the moves break a rule, be it only a preference."""
    before = {rule.group_id: rule.pairs for rule in found.broken_before}
    return any(rule.pairs > before.get(rule.group_id, 0) for rule in found.broken_after)


def _with_hosts(snapshot: Snapshot, changed: Iterable[Host]) -> Snapshot:
    by_id = {host.id: host for host in changed}
    return dataclasses.replace(snapshot, hosts=tuple(by_id.get(host.id, host) for host in snapshot.hosts))


def _names(changes: Iterable[PowerChange]) -> str:
    return ", ".join(change.host_name for change in changes)
