"""Whole hosts are emptied: a few of them to pack a cluster, or those that are asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ostler_control.drs.imbalance import Bools
from ostler_control.drs.model import GroupKind
from ostler_control.drs.search import Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply, count, undo
from ostler_control.drs.table import Ints

_DISPLACED = 32  # VMs that are tried to be moved on to make room for one


def pack(
    state: State, vms: Ints, most: int, why_not: Mapping[int, str]
) -> tuple[list[Unit], End, dict[int, tuple[str, str]]]:
    """Empties hosts, the smallest load first, as long as the algorithm wants and every VM of a host finds a place.

    why_not: of VMs that may not move. The third: hosts that could not be emptied, with code and explanation.
    """
    units: list[Unit] = []
    kept: dict[int, tuple[str, str]] = {}
    free = np.zeros(len(state.vms), dtype=bool)
    free[vms] = True
    occupied = np.flatnonzero(state.active & (state.used_memory + state.used_cpu > 0))
    share = state.used_memory / np.maximum(state.usable_memory, 1) + state.used_cpu / np.maximum(state.usable_cpu, 1)
    full = False
    for host in sorted(occupied.tolist(), key=lambda host: (share[host], host)):
        if not state.needs_drs():
            return units, End.SATISFIED, kept
        there = np.flatnonzero(state.at == host)
        unit = None
        fixed = [vm for vm in there.tolist() if not free[vm]]
        if (state.at[there] != state.origin[there]).any():
            kept[host] = ("RECEIVES", "VMs of emptied hosts go there")
        elif fixed:
            kept[host] = ("VM_STAYS", f'VM "{state.vms[fixed[0]].name}" stays: {why_not[fixed[0]]}')
        elif not len(there):
            kept[host] = ("HOLDS_OTHERS", "it holds only what is not a VM of this cluster")
        elif len(there) > most - count(units):
            kept[host] = ("TOO_MANY_VMS", f"its {len(there)} VMs are more than the moves that are left")
            full = True
        else:
            unit = _empty(state, host, there, kept)
        if unit:
            apply(state, unit)
            units.append(unit)
    return units, End.FULL if full and units else End.NO_GAIN, kept


def _empty(state: State, host: int, there: Ints, kept: dict[int, tuple[str, str]]) -> Unit | None:
    """All VMs of the host to the fullest hosts that take them, the largest first."""
    moves: list[tuple[int, int]] = []
    targets = state.active & (state.used_memory + state.used_cpu > 0)
    targets[host] = False
    for vm in _largest_first(state, there):
        fits = state.fits(np.array([vm]))[0] & targets
        if not fits.any():
            undo(state, Unit(tuple(moves)))
            kept[host] = ("NO_ROOM_ELSEWHERE", f'no other host that is in use takes VM "{state.vms[vm].name}"')
            return None
        moves.append((vm, _fullest(state, vm, fits)))
        state.move(*moves[-1])
    unit = Unit(tuple(moves), f'empties host "{state.hosts[host].name}"')
    undo(state, unit)
    gain, cost = 1.0 / state.count, sum(state.cost_of(vm, target) for vm, target in moves)
    settings = state.settings
    if gain < settings.min_gain or state.worth(gain, cost) <= 0:
        kept[host] = (
            "NOT_WORTH_IT",
            "emptying it costs more than a free host is worth (drs.cost.weight, drs.min.gain)",
        )
        return None
    return unit


def _largest_first(state: State, vms: Ints) -> list[int]:
    return sorted(vms.tolist(), key=lambda vm: (-state.memory[vm], -state.cpu[vm], vm))


def _fullest(state: State, vm: int, fits: Bools) -> int:
    """Best fit, without moving disks if possible."""
    share = state.used_memory / np.maximum(state.usable_memory, 1)
    candidates = np.flatnonzero(fits)
    motion = state.table.motion[state.table.row_of[vm]][candidates]
    order = np.lexsort((candidates, -share[candidates], motion))
    return int(candidates[order[0]])


def evacuate(state: State, search: Search, vms: Ints, movable: Bools) -> tuple[list[Unit], list[int]]:
    """Every one of these VMs to another host, the hardest to place first; and those that find none.

    movable: which VMs elsewhere may be moved on to make room.
    """
    units: list[Unit] = []
    stuck: list[int] = []
    blocks = {vm: _block(state, vm) for vm in vms.tolist()}
    size = {vm: sum(state.memory[mate] for mate in block) for vm, block in blocks.items()}
    for vm in sorted(blocks, key=lambda vm: (-size[vm], blocks[vm][0], -state.memory[vm], vm)):
        unit = _leave(state, search, vm, blocks[vm]) or _displace(state, search, vm, movable)
        if unit is None:
            stuck.append(vm)
            continue
        apply(state, unit)
        units.append(unit)
    return units, stuck


def _block(state: State, vm: int) -> list[int]:
    """The VMs that must stay with this one and leave with it, itself included."""
    found = {vm}
    for group in state.vms[vm].groups:
        rule = state.groups[group]
        if rule.strict and rule.kind is GroupKind.AFFINITY:
            found |= {mate for mate in state.members[group].tolist() if state.leaving[state.at[mate]]}
    return sorted(found)


def _leave(state: State, search: Search, vm: int, block: list[int]) -> Unit | None:
    for preferred in (True, False):
        fits = state.fits(np.array([vm]), preferred=preferred)[0]
        waiting = [mate for mate in block if state.leaving[state.at[mate]]]
        room = fits & (state.cpu[waiting].sum() <= state.free_cpu) & (state.memory[waiting].sum() <= state.free_memory)
        fits = room if room.any() else fits
        if fits.any():
            reason = "leaves a host that is emptied"
            return Unit(((vm, _best(state, search, vm, fits)),), reason if preferred else reason + _UNPREFERRED)
    return None


_UNPREFERRED = "; no other host keeps every preference"


def _best(state: State, search: Search, vm: int, fits: Bools) -> int:
    """The host that the algorithm likes best, without moving disks if possible."""
    if state.algorithm.empties_hosts:
        return _fullest(state, vm, fits)
    candidates = np.flatnonzero(fits)
    gain = state.algorithm.gain(state.imbalance, state.after_every_move(np.array([vm]))[0])[candidates]
    motion = state.table.motion[state.table.row_of[vm]][candidates]
    return int(candidates[np.lexsort((candidates, -np.round(gain, 12), motion))[0]])


def _displace(state: State, search: Search, vm: int, movable: Bools) -> Unit | None:
    """Another VM moves on to make room for this one."""
    hosts = np.flatnonzero(state.allowed[state.table.row_of[vm]])
    lacking = np.maximum(state.memory[vm] - state.free_memory[hosts], 0)
    for host in hosts[np.argsort(lacking, kind="stable")].tolist():
        there = np.flatnonzero((state.at == host) & movable & (state.at == state.origin))
        enough = (state.cpu[there] + state.free_cpu[host] >= state.cpu[vm]) & (
            state.memory[there] + state.free_memory[host] >= state.memory[vm]
        )
        for other in sorted(there[enough].tolist(), key=lambda w: (state.send_bytes[w], w))[:_DISPLACED]:
            fits = state.fits(np.array([other]))[0]
            if not fits.any():
                continue
            target = _best(state, search, other, fits)
            state.move(other, target)
            enters = bool(state.fits(np.array([vm]))[0, host])
            state.move(other, host)
            if enters:
                return Unit(((other, target), (vm, host)), f'makes room for VM "{state.vms[vm].name}", which leaves')
    return None
