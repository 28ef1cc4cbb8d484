"""Ejection chains: a VM goes where there is no room for it, and others leave from there until everything fits."""

from __future__ import annotations

import random
from collections.abc import Collection

import numpy as np

from ostler_control.drs.imbalance import Bools, Floats
from ostler_control.drs.state import State
from ostler_control.drs.table import Ints

_MAX_LINKS = 5
_CHOICES = 3  # of the best ways on, one is chosen at random


def make_room(state: State, vm: int, may: Collection[int], left: int, dice: random.Random) -> int:
    """Sends the VM to a host that is too full for it, and VMs of that host on to others, until no host is too full.
    Leaves the state as it is when that does not come about. Returns how many evaluations it took.

    may: VMs that may move; left: how many of those that have not moved may.
    """
    hosts = np.flatnonzero(
        _allowed(state, vm) & ((state.cpu[vm] > state.free_cpu) | (state.memory[vm] > state.free_memory))
    )
    if not len(hosts):
        return 1
    made: list[tuple[int, int]] = []
    if _send(state, vm, int(hosts[dice.randrange(len(hosts))]), made, left) is False:
        return 1
    for calls in range(2, 2 + _MAX_LINKS):
        full = np.flatnonzero(state.active & ((state.free_cpu < 0) | (state.free_memory < 0)))
        if not len(full):
            return calls
        sent = {moved for moved, _ in made}
        there = [v for v in np.flatnonzero(state.at == full[0]).tolist() if v in may and v not in sent]
        link = _next_link(state, np.array(there, dtype=np.int64), dice)
        if link is None or _send(state, *link, made, left) is False:
            break
    for moved, back in reversed(made):
        state.move(moved, back)
    return 2 + _MAX_LINKS


def _send(state: State, vm: int, host: int, made: list[tuple[int, int]], left: int) -> bool:
    fresh = sum(state.origin[moved] == back for moved, back in made) + (state.at[vm] == state.origin[vm])
    if fresh > left:
        return False
    made.append((vm, int(state.at[vm])))
    state.move(vm, host)
    return True


def _allowed(state: State, vm: int) -> Bools:
    """Hosts that take the VM but for their room."""
    found: Bools = state.allowed[state.table.row_of[vm]].copy()
    found[state.at[vm]] = False
    for group in state.vms[vm].groups:
        state.group_fits(found, vm, group, True)
    return found


def _next_link(state: State, vms: Ints, dice: random.Random) -> tuple[int, int] | None:
    """Which of these VMs goes on, and where: into room if there is any, and as evenly as can be."""
    if not len(vms):
        return None
    allowed = np.array([_allowed(state, vm) for vm in vms.tolist()])
    over = _overload(state, vms)
    after = state.algorithm.gain(0.0, state.after_every_move(vms))
    # Overload first, then evenness.
    value: Floats = np.where(allowed, after - 10.0 * over, -np.inf)
    order = np.argsort(-value, axis=None, kind="stable")[:_CHOICES]
    order = order[np.isfinite(value.reshape(-1)[order])]
    if not len(order):
        return None
    row, host = divmod(int(order[dice.randrange(len(order))]), len(state.hosts))
    return int(vms[row]), host


def _overload(state: State, vms: Ints) -> Floats:
    """The share of a host by which source and destination together are too full after each move."""
    memory, cpu = np.maximum(state.usable_memory, 1.0), np.maximum(state.usable_cpu, 1.0)
    here = state.at[vms]
    left: Floats = np.maximum(-(state.free_memory[here] + state.memory[vms]) / memory[here], 0.0)
    left += np.maximum(-(state.free_cpu[here] + state.cpu[vms]) / cpu[here], 0.0)
    taken = np.maximum((state.memory[vms][:, None] - state.free_memory) / memory, 0.0)
    taken += np.maximum((state.cpu[vms][:, None] - state.free_cpu) / cpu, 0.0)
    found: Floats = left[:, None] + taken
    return found
