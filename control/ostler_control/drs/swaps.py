"""Two VMs change places where no single move helps: hosts are even but for the sizes of their VMs, or full."""

from __future__ import annotations

import numpy as np

from ostler_control.drs.imbalance import Bools, Floats
from ostler_control.drs.search import EPSILON
from ostler_control.drs.state import State
from ostler_control.drs.steps import Unit
from ostler_control.drs.table import Ints

_EXTREMES = 16  # only the hosts furthest from the mean are looked at, on either side
_TRIES = 64  # pairs of which the groups are asked before giving up


def best_swap(state: State, vms: Ints, floor: float) -> Unit | None:
    """The best swap that gains at least `floor` and scores above 0, its moves in an order that fits."""
    before = state.imbalance
    if not len(vms):
        return None
    on = _by_host(state, vms)
    low, high = _extremes(state)
    candidates: list[tuple[float, float, int, int]] = []
    for a in high:
        partners = [on[b] for b in low if b != a and b in on]
        if a not in on or not partners:
            continue
        ours, theirs = on[a], np.concatenate(partners)
        gain, cost = state.algorithm.gain(before, _after(state, ours, theirs)), _cost(state, ours, theirs)
        score = state.algorithm.score(gain, cost, state.settings)
        score = np.where(_may(state, ours, theirs) & (gain >= floor) & (score > EPSILON), score, -np.inf)
        best = np.argsort(-np.round(score / EPSILON), axis=None, kind="stable")[:_TRIES]
        for i, j in zip(*np.unravel_index(best, score.shape), strict=True):
            if np.isfinite(score[i, j]):
                candidates.append((float(-score[i, j]), float(cost[i, j]), int(ours[i]), int(theirs[j])))
    candidates.sort(key=lambda found: (round(found[0] / EPSILON), found[1], found[2], found[3]))
    for _, _, v, w in candidates[:_TRIES]:
        unit = _in_order(state, v, w)
        if unit:
            return unit
    return None


def _by_host(state: State, vms: Ints) -> dict[int, Ints]:
    order = vms[np.argsort(state.at[vms], kind="stable")]
    hosts, begins = np.unique(state.at[order], return_index=True)
    return dict(zip(hosts.tolist(), np.split(order, begins[1:]), strict=True))


def _extremes(state: State) -> tuple[list[int], list[int]]:
    active = np.flatnonzero(state.active)
    low: dict[int, None] = {}
    high: dict[int, None] = {}
    for off in state.off:
        order = active[np.argsort(off[active], kind="stable")]
        low.update(dict.fromkeys(order[:_EXTREMES].tolist()))
        high.update(dict.fromkeys(order[::-1][:_EXTREMES].tolist()))
    return list(low), list(high)


def _after(state: State, ours: Ints, theirs: Ints) -> Floats:
    """The imbalance after each VM of one host has changed places with each of the others."""
    a, b = int(state.at[ours[0]]), state.at[theirs]
    cpu = state.load_cpu[ours][:, None] - state.load_cpu[theirs]
    memory = state.load_memory[ours][:, None] - state.load_memory[theirs]
    lost = state.per_cpu[:, a, None, None] * cpu + state.per_memory[:, a, None, None] * memory
    gained = state.per_cpu[:, b][:, None, :] * cpu + state.per_memory[:, b][:, None, :] * memory
    off_a, off_b = state.off[:, a, None, None], state.off[:, b][:, None, :]
    squares = state.squares[:, None, None] + lost * (lost - 2 * off_a) + gained * (2 * off_b + gained)
    return state.after(state.sum[:, None, None] - lost + gained, squares)


def _cost(state: State, ours: Ints, theirs: Ints) -> Floats:
    cost = state.cost[ours][:, None] + state.cost[theirs]
    if state.settings.storage_motion:
        a, b = int(state.at[ours[0]]), state.at[theirs]
        motion = state.table.motion
        cost = cost + motion[state.table.row_of[ours]][:, b] * state.disk_cost[ours][:, None]
        cost = cost + motion[state.table.row_of[theirs], a] * state.disk_cost[theirs]
    return cost


def _may(state: State, ours: Ints, theirs: Ints) -> Bools:
    """Kind of host and capacity, in one order or the other; groups are asked later."""
    a, b = int(state.at[ours[0]]), state.at[theirs]
    found: Bools = state.allowed[state.table.row_of[ours]][:, b] & state.allowed[state.table.row_of[theirs], a]
    first, second = np.ones(found.shape, dtype=bool), np.ones(found.shape, dtype=bool)
    for size, free in ((state.cpu, state.free_cpu), (state.memory, state.free_memory)):
        v, w = size[ours][:, None], size[theirs][None, :]
        first &= (v <= free[b]) & (w <= free[a] + v)
        second &= (w <= free[a]) & (v <= free[b] + w)
    return found & (first | second)


def _in_order(state: State, v: int, w: int) -> Unit | None:
    """Both moves in the order that fits; of two that do, the one which is the more even in between."""
    a, b = int(state.at[v]), int(state.at[w])
    found: list[tuple[float, Unit]] = []
    for moves in (((v, b), (w, a)), ((w, a), (v, b))):
        (one, there), (other, back) = moves
        if state.fits(np.array([one]))[0, there]:
            state.move(one, there)
            if state.fits(np.array([other]))[0, back]:
                found.append((round(state.imbalance, 12), Unit(moves, swap=True)))
            state.move(one, int(state.origin[one]))
    return min(found, key=lambda pair: pair[0])[1] if found else None
