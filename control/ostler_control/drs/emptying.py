"""Every VM is moved off some hosts, as for maintenance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ostler_control.drs.imbalance import Bools
from ostler_control.drs.model import GroupKind
from ostler_control.drs.packing import fullest
from ostler_control.drs.state import State
from ostler_control.drs.steps import Unit, apply, undo
from ostler_control.drs.table import Ints

_MAX_DISPLACED = 8  # VMs that are moved on to make room for one, or for those that stay together
_MAX_HOSTS = 32  # hosts on which room is tried to be made

_LEAVES = "leaves a host that is emptied"
_UNPREFERRED = "; no other host keeps every preference"


def evacuate(state: State, vms: Ints, movable: Bools) -> tuple[list[Unit], dict[int, int]]:
    """Every one of these VMs to another host, the hardest to place first. The second: those that stay, each with the VM
    that holds it, itself or one that it must stay with.

    VMs that must stay together leave together or not at all. movable: which VMs elsewhere may be moved on to make room.
    """
    units: list[Unit] = []
    held: dict[int, int] = {}
    leavers = set(vms.tolist())
    blocks = {_block(state, vm) for vm in leavers}

    def size(block: tuple[int, ...]) -> float:
        return float(sum(state.memory[vm] for vm in block))

    for block in sorted(blocks, key=lambda block: (-size(block), block)):
        holder = next((vm for vm in block if vm not in leavers), None)
        if holder is None:
            unit = _leave(state, block) or _displace(state, block, movable)
            if unit is not None:
                apply(state, unit)
                units.append(unit)
                continue
            holder = _hardest(state, block)
        held.update(dict.fromkeys((vm for vm in block if vm in leavers), holder))
    return units, held


def _block(state: State, vm: int) -> tuple[int, ...]:
    """The VMs that must stay with this one and leave with it, itself included; the largest first."""
    found: set[int] = set()
    waiting = [vm]
    while waiting:
        one = waiting.pop()
        found.add(one)
        for group in state.vms[one].groups:
            rule = state.groups[group]
            if rule.strict and rule.kind is GroupKind.AFFINITY:
                mates = state.members[group].tolist()
                waiting += [mate for mate in mates if mate not in found and state.leaving[state.at[mate]]]
    return tuple(sorted(found, key=lambda one: (-state.memory[one], one)))


def _hardest(state: State, block: tuple[int, ...]) -> int:
    """The VM that fewest hosts take."""
    return min(block, key=lambda vm: (int(state.fits(np.array([vm]), preferred=False).sum()), -state.memory[vm], vm))


def _leave(state: State, block: tuple[int, ...]) -> Unit | None:
    """The whole block to one host that takes it."""
    room = np.ones(len(state.hosts), dtype=bool)
    for size, free in ((state.cpu, state.free_cpu), (state.memory, state.free_memory)):
        room &= size[list(block)].sum() <= free
    for preferred in (True, False):
        fits = state.fits(np.array(block[:1]), preferred=preferred)[0] & room
        for host in _ranked(state, block[0], fits):
            moves = _enter(state, block, host, preferred)
            if moves:
                return Unit(moves, _LEAVES if preferred else _LEAVES + _UNPREFERRED, tied=len(block) > 1)
    return None


def _enter(state: State, block: tuple[int, ...], host: int, preferred: bool) -> tuple[tuple[int, int], ...]:
    """The moves of the block to the host, each of which keeps every rule; none when one does not. Leaves the state as
    it is."""
    moves: list[tuple[int, int]] = []
    for vm in block:
        if not state.fits(np.array([vm]), preferred=preferred)[0, host]:
            undo(state, Unit(tuple(moves)))
            return ()
        moves.append((vm, host))
        state.move(vm, host)
    undo(state, Unit(tuple(moves)))
    return tuple(moves)


def _ranked(state: State, vm: int, fits: Bools) -> list[int]:
    """The hosts that the algorithm likes best first, without moving disks if possible."""
    if not fits.any():
        return []
    candidates = np.flatnonzero(fits)
    if state.algorithm.empties_hosts:
        best = fullest(state, vm, fits)
        return [best, *(host for host in candidates.tolist() if host != best)]
    gain = state.algorithm.gain(state.imbalance, state.after_every_move(np.array([vm]))[0])[candidates]
    motion = state.table.motion[state.table.row_of[vm]][candidates]
    found: list[int] = candidates[np.lexsort((candidates, -np.round(gain, 12), motion))].tolist()
    return found


def _displace(state: State, block: tuple[int, ...], movable: Bools) -> Unit | None:
    """Other VMs move on to make room for the block."""
    memory, cpu = state.memory[list(block)].sum(), state.cpu[list(block)].sum()
    hosts = np.flatnonzero(np.all(state.allowed[state.table.row_of[list(block)]], axis=0))
    lacking = np.maximum(memory - state.free_memory[hosts], 0)
    for host in hosts[np.argsort(lacking, kind="stable")][:_MAX_HOSTS].tolist():
        moves = _clear(state, host, float(cpu), float(memory), movable)
        for one in moves:
            state.move(*one)
        enters = _enter(state, block, host, False) if moves else ()
        undo(state, Unit(tuple(moves)))
        if enters:
            names = ", ".join(f'"{state.vms[vm].name}"' for vm in block)
            return Unit((*moves, *enters), f"leaves a host that is emptied, or makes room for {names}", tied=True)
    return None


def _clear(state: State, host: int, cpu: float, memory: float, movable: Bools) -> list[tuple[int, int]]:
    """Moves of VMs off the host until this much is free; none when that cannot be. Leaves the state as it is."""
    moves: list[tuple[int, int]] = []
    there = np.flatnonzero((state.at == host) & movable & (state.at == state.origin)).tolist()
    while (state.free_memory[host] < memory or state.free_cpu[host] < cpu) and len(moves) < _MAX_DISPLACED:
        missing = memory - state.free_memory[host], cpu - state.free_cpu[host]

        def order(vm: int, missing: tuple[float, float] = missing) -> tuple[bool, float, int]:
            # The cheapest of those that are enough alone, else the largest.
            enough = bool(state.memory[vm] >= missing[0] and state.cpu[vm] >= missing[1])
            return not enough, float(state.send_bytes[vm] if enough else -state.memory[vm]), vm

        for vm in sorted(there, key=order):
            ranked = _ranked(state, vm, state.fits(np.array([vm]))[0])
            if ranked:
                break
        else:
            break
        there.remove(vm)
        moves.append((vm, ranked[0]))
        state.move(*moves[-1])
    cleared = state.free_memory[host] >= memory and state.free_cpu[host] >= cpu
    undo(state, Unit(tuple(moves)))
    return moves if cleared else []


def why_held(
    state: State, held: Mapping[int, int], reasons: Mapping[int, tuple[str, str]]
) -> dict[int, tuple[str, str]]:
    """For each VM that stays, code and explanation. reasons: those of the VMs that hold."""
    found = {}
    for vm, holder in held.items():
        if vm == holder:
            found[vm] = reasons[vm]
        else:
            name, why = state.vms[holder].name, reasons[holder][1]
            found[vm] = ("HELD_BY_GROUP", f'it must stay with VM "{name}", which cannot leave: {why}')
    return found
