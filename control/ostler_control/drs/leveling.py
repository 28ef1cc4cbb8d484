"""Move by move (and swap by swap) towards what the algorithm wants, then a second look at every choice."""

from __future__ import annotations

import numpy as np

from ostler_control.drs.search import EPSILON, Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply, count, undo
from ostler_control.drs.swaps import best_swap
from ostler_control.drs.table import Ints

# How much a second look may cost, in units x VMs x hosts looked at: clusters of any size are planned in moments.
_POLISH_CELLS = 40_000_000
_POLISH_ROUNDS = 4


def level(state: State, search: Search, vms: Ints, most: int) -> tuple[list[Unit], End]:
    """Units of at most `most` moves of these VMs, in an order that keeps every rule after every move."""
    units, end = _greedy(state, search, vms, most, [])
    if units and len(units) * len(vms) * len(state.hosts) <= _POLISH_CELLS:
        units = _polish(state, search, vms, units)
        if end is not End.FULL and count(units) < most:
            more, end = _greedy(state, search, vms, most, units)
            units = more
    return units, end


def _greedy(state: State, search: Search, vms: Ints, most: int, begun: list[Unit]) -> tuple[list[Unit], End]:
    units = list(begun)
    floor = state.settings.min_gain
    while True:
        if not state.needs_drs():
            return units, End.SATISFIED
        left = most - count(units)
        if left <= 0:
            return units, End.FULL
        unit = _next(state, search, _unmoved(state, vms), left, floor)
        if unit is None:
            return units, End.NO_GAIN
        apply(state, unit)
        units.append(unit)


def _unmoved(state: State, vms: Ints) -> Ints:
    found: Ints = vms[state.at[vms] == state.origin[vms]]
    return found


def _next(state: State, search: Search, vms: Ints, left: int, floor: float) -> Unit | None:
    found = search.best(vms, floor)
    if found:
        choice, others = found
        return Unit(((choice.vm, choice.host),), considered=tuple(others))
    return best_swap(state, vms, floor) if left >= 2 else None


def _polish(state: State, search: Search, vms: Ints, units: list[Unit]) -> list[Unit]:
    """Takes each unit back in turn and puts the best in its place, as long as that brings more.

    Greedy choices are short-sighted: what was best first may stand in the way of something better later. The result is
    never worse than the greedy one, and as feasible in its order.
    """
    original = list(units)
    for _ in range(_POLISH_ROUNDS):
        changed = False
        for position in range(len(units)):
            better = _replace(state, search, vms, units, position)
            if better:
                units, changed = better, True
        if not changed:
            break
    if units == original:
        return units
    for unit in units:
        undo(state, unit)
    ordered = _in_order(state, units)
    if ordered is None:  # every rule holds at the end, but no order keeps them on the way or gains with every step
        for unit in units:
            if any(state.at[vm] != state.origin[vm] for vm, _ in unit.moves):
                undo(state, unit)
        for unit in original:
            apply(state, unit)
        return original
    return ordered


def _replace(state: State, search: Search, vms: Ints, units: list[Unit], position: int) -> list[Unit] | None:
    """The units with a better one in the place of this one, the state changed along; None: this one is best."""
    old = units[position]
    before = _worth(state, units)
    undo(state, old)
    left, new = len(old.moves), []
    floor = state.settings.min_gain
    while left > 0:
        unit = _next(state, search, _unmoved(state, vms), left, floor)
        if unit is None or (len(unit.moves) > left):
            break
        apply(state, unit)
        new.append(unit)
        left -= len(unit.moves)
    candidate = [*units[:position], *units[position + 1 :], *new]
    if new and _worth(state, candidate) > before + 1e3 * EPSILON:
        return candidate
    for unit in reversed(new):
        undo(state, unit)
    apply(state, old)
    return None


def _worth(state: State, units: list[Unit]) -> float:
    """The score of the state against none at all: imbalance removed (or made), less what all moves cost."""
    cost = sum(state.cost_of(vm, host) for unit in units for vm, host in unit.moves)
    return state.worth(state.gain(0.0, state.imbalance), cost)


def _in_order(state: State, units: list[Unit]) -> list[Unit] | None:
    """Makes the units again from the start, the most gainful first that fits: what makes room comes before what needs
    it. None when they cannot all be made so, each with a gain; some may be made then."""
    left, ordered = list(units), []
    while left:
        best = None
        before = state.imbalance
        for position, unit in enumerate(left):
            gain = _try(state, unit, before)
            if gain is not None and (best is None or gain > best[0] + EPSILON):
                best = (gain, position)
        if best is None:
            return None
        unit = left.pop(best[1])
        apply(state, unit)
        ordered.append(unit)
    return ordered


def _try(state: State, unit: Unit, before: float) -> float | None:
    """What the unit gains as the next one; None when a rule forbids it or it is not worth it."""
    made = []
    for vm, host in unit.moves:
        if not state.fits(np.array([vm]))[0, host]:
            break
        state.move(vm, host)
        made.append(vm)
    gain = state.gain(before, state.imbalance)
    cost = sum(state.cost_of(vm, host) for vm, host in unit.moves)
    complete = len(made) == len(unit.moves)
    for vm in reversed(made):
        state.move(vm, int(state.origin[vm]))
    return gain if complete and gain >= state.settings.min_gain and state.worth(gain, cost) > 0 else None
