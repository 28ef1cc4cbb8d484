"""Two VMs change places where no single move helps: hosts are even but for the sizes of their VMs, or full."""

from __future__ import annotations

import numpy as np

from ostler_control.drs.imbalance import Bools, Floats
from ostler_control.drs.search import EPSILON
from ostler_control.drs.state import State
from ostler_control.drs.steps import Unit
from ostler_control.drs.table import Ints

_ALL_PAIRS = 200  # up to as many VMs, every pair is looked at
_EXTREMES = 8  # otherwise only the hosts furthest from the mean are, on either side
_TRIES = 64  # pairs of which the groups are asked before giving up


def best_swap(state: State, vms: Ints, floor: float, left: int) -> Unit | None:
    """The best swap that gains at least `floor` and scores above 0, its moves in an order that fits.

    left: how many VMs that have not moved yet it may move.
    """
    if not len(vms) or (left < 2 and (state.at[vms] == state.origin[vms]).all()):
        return None
    found: list[tuple[float, float, int, int]] = []
    for ours, theirs in _pairs(state, vms):
        found += _best_of(state, ours, theirs, floor, left)
    found.sort()
    for _, _, v, w in found[:_TRIES]:
        unit = _in_order(state, v, w)
        if unit:
            return unit
    return None


def _pairs(state: State, vms: Ints) -> list[tuple[Ints, Ints]]:
    """VMs on the one side and VMs on the other."""
    if len(vms) <= _ALL_PAIRS:
        return [(vms, vms)]
    order = vms[np.argsort(state.at[vms], kind="stable")]
    hosts, begins = np.unique(state.at[order], return_index=True)
    on = dict(zip(hosts.tolist(), np.split(order, begins[1:]), strict=True))
    low, high = _extremes(state)
    theirs = [on[host] for host in low if host in on]
    return [(on[host], np.concatenate(theirs)) for host in high if host in on and theirs]


def _extremes(state: State) -> tuple[list[int], list[int]]:
    active = np.flatnonzero(state.active)
    low: dict[int, None] = {}
    high: dict[int, None] = {}
    for off in state.off:
        order = active[np.argsort(off[active], kind="stable")]
        low.update(dict.fromkeys(order[:_EXTREMES].tolist()))
        high.update(dict.fromkeys(order[::-1][:_EXTREMES].tolist()))
    return list(low), list(high)


def _best_of(state: State, ours: Ints, theirs: Ints, floor: float, left: int) -> list[tuple[float, float, int, int]]:
    """The best pairs, as what sorts them: score turned round, cost, and the two VMs."""
    before = state.imbalance
    gain = state.algorithm.gain(before, _after(state, ours, theirs))
    cost = _cost(state, ours, theirs)
    score = state.algorithm.score(gain, cost, state.settings)
    fits = (gain >= floor) & (score > EPSILON)
    if ours is theirs:
        fits &= np.triu(np.ones(fits.shape, dtype=bool), 1)
    if left < 2:
        fresh = (state.at == state.origin).astype(int)
        fits &= fresh[ours][:, None] + fresh[theirs] <= left
    rows, columns = np.nonzero(fits)
    if not len(rows):
        return []
    may = _may(state, ours[rows], theirs[columns])
    rows, columns = rows[may], columns[may]
    keys = -np.round(score[rows, columns] / EPSILON)
    best = np.lexsort((theirs[columns], ours[rows], cost[rows, columns], keys))[:_TRIES]
    return [
        (float(keys[one]), float(cost[rows[one], columns[one]]), int(ours[rows[one]]), int(theirs[columns[one]]))
        for one in best
    ]


def _after(state: State, ours: Ints, theirs: Ints) -> Floats:
    """The imbalance after each VM of the one side has changed places with each of the other."""
    a, b = state.at[ours][:, None], state.at[theirs][None, :]
    cpu = state.load_cpu[ours][:, None] - state.load_cpu[theirs]
    memory = state.load_memory[ours][:, None] - state.load_memory[theirs]
    return state.after_change(a, b, state.change(a, cpu, memory), state.change(b, cpu, memory))


def _cost(state: State, ours: Ints, theirs: Ints) -> Floats:
    a, b = state.at[ours], state.at[theirs]
    return state.cost_changes(ours[:, None], b[None, :]) + state.cost_changes(theirs[None, :], a[:, None])


def _may(state: State, v: Ints, w: Ints) -> Bools:
    """For pairs: kind of host and capacity, in one order or the other; groups are asked later."""
    a, b = state.at[v], state.at[w]
    found: Bools = a != b
    found &= state.allowed[state.table.row_of[v], b] | (b == state.origin[v])
    found &= state.allowed[state.table.row_of[w], a] | (a == state.origin[w])
    first, second = np.ones(found.shape, dtype=bool), np.ones(found.shape, dtype=bool)
    for size, free in ((state.cpu, state.free_cpu), (state.memory, state.free_memory)):
        first &= (size[v] <= free[b]) & (size[w] <= free[a] + size[v])
        second &= (size[w] <= free[a]) & (size[v] <= free[b] + size[w])
    return found & (first | second)


def _in_order(state: State, v: int, w: int) -> Unit | None:
    """Both moves in the order that fits; of two that do, the one which is the more even in between."""
    a, b = int(state.at[v]), int(state.at[w])
    found: list[tuple[float, Unit]] = []
    for moves in (((v, b), (w, a)), ((w, a), (v, b))):
        (one, there), (other, back) = moves
        if state.fits_one(one, there):
            state.move(one, there)
            if state.fits_one(other, back):
                found.append((round(state.imbalance, 12), Unit(moves, swap=True)))
            state.move(one, b if one == w else a)
    return min(found, key=lambda pair: pair[0])[1] if found else None
