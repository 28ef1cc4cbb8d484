"""Move by move, and swap by swap where no single move helps, towards what the algorithm wants."""

from __future__ import annotations

import dataclasses

from ostler_control.drs.improving import Improver
from ostler_control.drs.search import EPSILON, TOLD, Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply, count, undo_all, unmoved
from ostler_control.drs.swaps import best_swap
from ostler_control.drs.table import Ints


def level(state: State, search: Search, vms: Ints, most: int) -> tuple[list[Unit], End]:
    """Units of at most `most` moves of these VMs, in an order that keeps every rule after every move.

    The plan is worth no less, by the algorithm's own score, than the plain greedy one and than the plan that would be
    made if moves cost nothing.
    """
    units, end = _best_of_both(state, search, vms, most)
    return _with_alternatives(state, search, vms, units), end


def _best_of_both(state: State, search: Search, vms: Ints, most: int) -> tuple[list[Unit], End]:
    """The better of a plan that heeds costs from the start and one that was made without; the state is where it
    leads."""
    start = state.imbalance
    units, end, worth = _planned(state, search, vms, most, start)
    if not state.settings.cost_weight:
        return units, end
    undo_all(state)
    settings = state.settings
    state.settings = dataclasses.replace(settings, cost_weight=0.0)
    free, free_end, _ = _planned(state, search, vms, most, start)
    state.settings = settings
    improver = Improver(state, search, vms, most, start)
    if improver.worth() > worth + EPSILON:
        if improver.affordable:
            free = improver.run(free, free_end is End.SATISFIED)
        return free, free_end
    undo_all(state)
    for unit in units:
        apply(state, unit)
    return units, end


def _planned(state: State, search: Search, vms: Ints, most: int, start: float) -> tuple[list[Unit], End, float]:
    """Greedy, then improved. The third: what it is worth. The state is where the units lead."""
    units, end = _greedy(state, search, vms, most, [])
    improver = Improver(state, search, vms, most, start)
    if improver.affordable and not (end is End.SATISFIED and count(units) < 2):
        if end is End.SATISFIED:
            improver.most = count(units)
        units = improver.run(units, end is End.SATISFIED)
        if end is not End.SATISFIED:
            units, end = _greedy(state, search, vms, most, units)
    return units, end, improver.worth()


def _greedy(state: State, search: Search, vms: Ints, most: int, begun: list[Unit]) -> tuple[list[Unit], End]:
    units = list(begun)
    candidates = search.ordered(vms)
    while True:
        if not state.needs_drs():
            return units, End.SATISFIED
        left = most - count(units)
        if left <= 0:
            return units, End.FULL
        unit = _next(state, search, unmoved(state, candidates), left)
        if unit is None:
            return units, End.NO_GAIN
        apply(state, unit)
        units.append(unit)


def _with_alternatives(state: State, search: Search, vms: Ints, units: list[Unit]) -> list[Unit]:
    """The units, each with the moves that would have been best in its place."""
    if all(unit.considered or unit.swap for unit in units):
        return units
    undo_all(state)
    candidates = search.ordered(vms)
    found = []
    for unit in units:
        best = search.best(search.representatives(unmoved(state, candidates)), state.settings.min_gain)
        choices = [best[0], *best[1]] if best else []
        others = [choice for choice in choices if (choice.vm, choice.host) not in unit.moves]
        found.append(dataclasses.replace(unit, considered=tuple(others[:TOLD])))
        apply(state, unit)
    return found


def _next(state: State, search: Search, vms: Ints, left: int) -> Unit | None:
    floor = state.settings.min_gain
    found = search.best(search.representatives(vms), floor)
    if found:
        choice, others = found
        return Unit(((choice.vm, choice.host),), considered=tuple(others))
    return best_swap(state, vms, floor, left)
