"""Move by move, and swap by swap where no single move helps, towards what the algorithm wants."""

from __future__ import annotations

from ostler_control.drs.improving import improve
from ostler_control.drs.search import Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply, count, unmoved
from ostler_control.drs.swaps import best_swap
from ostler_control.drs.table import Ints


def level(state: State, search: Search, vms: Ints, most: int) -> tuple[list[Unit], End]:
    """Units of at most `most` moves of these VMs, in an order that keeps every rule after every move.

    drs.cost.weight 0 asks for the least imbalance that can be had: then the search goes on longer.
    """
    units, end = _greedy(state, search, vms, most, [])
    if units and state.settings.cost_weight == 0:
        # Satisfied: the same number of moves may do better yet. Otherwise more of them may be found as well.
        units = improve(state, search, vms, units, count(units) if end is End.SATISFIED else most)
        if end is not End.SATISFIED:
            units, end = _greedy(state, search, vms, most, units)
    return units, end


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


def _next(state: State, search: Search, vms: Ints, left: int) -> Unit | None:
    floor = state.settings.min_gain
    found = search.best(search.representatives(vms), floor)
    if found:
        choice, others = found
        return Unit(((choice.vm, choice.host),), considered=tuple(others))
    return best_swap(state, vms, floor, left)
