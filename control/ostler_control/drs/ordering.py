"""An order of moves that keeps every rule after every move."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ostler_control.drs.search import EPSILON
from ostler_control.drs.state import State
from ostler_control.drs.steps import Unit


def in_order(
    state: State, places: Mapping[int, int], start: float, spare: Collection[int] = (), extra: int = 0
) -> list[Unit] | None:
    """Units that lead to these places (VM -> host), which are where the state's VMs are. Moves that only gain together
    are one unit. None when no such order is found. Leaves the state as it is, but for relays.

    start: the imbalance at first; spare: VMs that may relay others; extra: how many relays there may be.
    """
    for vm in places:
        state.move(vm, int(state.origin[vm]))
    for unblocking in (False, True):
        steps = _steps(state, places, spare, extra, unblocking)
        units = _units(state, steps, start) if steps else None
        if units is not None:
            return units
        for vm, _, _ in steps or ():
            state.move(vm, int(state.origin[vm]))
    for vm, host in places.items():
        state.move(vm, host)
    return None


def any_order(state: State, places: Mapping[int, int], *, preferred: bool) -> list[tuple[int, int]] | None:
    """An order of moves that lead to these places, where the state's VMs are; None when none is found. Leaves the state
    as it is. preferred: whether preferences are kept."""
    for vm in places:
        state.move(vm, int(state.origin[vm]))
    steps = None
    for unblocking in (False, True):
        steps = steps or _steps(state, places, (), 0, unblocking, preferred=preferred)
    if steps is None:
        for vm, host in places.items():
            state.move(vm, host)
        return None
    return [(vm, host) for vm, host, _ in steps]


def _steps(
    state: State,
    places: Mapping[int, int],
    spare: Collection[int],
    extra: int,
    unblocking: bool,
    *,
    preferred: bool = True,
) -> list[tuple[int, int, float]] | None:
    """Every move in order with the imbalance after it; None, and nothing moved, when that cannot be. unblocking:
    whether moves and relays away from where others wait to go come first."""
    left = dict(sorted(places.items()))
    steps: list[tuple[int, int, float]] = []
    while left:
        step = _best_step(state, left, unblocking, preferred)
        if step is None and extra > 0:
            relay = _relay(state, left, spare)
            if relay is not None:
                extra -= 1
                left.update(relay)
                continue
        if step is None and unblocking:
            step = _best_step(state, left, False, preferred)
        if step is None:
            for vm, _, _ in steps:
                state.move(vm, int(state.origin[vm]))
            return None
        state.move(*step)
        del left[step[0]]
        steps.append((*step, state.imbalance))
    return steps


def _relay(state: State, left: Mapping[int, int], spare: Collection[int]) -> dict[int, int] | None:
    """Nothing fits where it is to go: one VM goes to a third host instead, whose equal goes in its stead."""
    goals = set(left.values())
    for vm, goal in sorted(
        left.items(), key=lambda item: (state.at[item[0]] not in goals, -state.memory[item[0]], item)
    ):
        fits = state.fits(np.array([vm]))[0]
        for host in np.flatnonzero(fits).tolist():
            for other in np.flatnonzero((state.at == host) & (state.at == state.origin)).tolist():
                if other in spare and other not in left and _equal(state, vm, other):
                    return {vm: host, other: goal}
    return None


def _equal(state: State, vm: int, other: int) -> bool:
    columns = (state.cpu, state.memory, state.load_cpu, state.load_memory, state.table.row_of, state.grouped)
    return all(column[vm] == column[other] for column in columns)


def _units(state: State, steps: list[tuple[int, int, float]], start: float) -> list[Unit] | None:
    """The steps, each with the imbalance after it, cut where what came since the last cut gains and is worth it."""
    cuts: list[list[int]] = []
    pending: list[int] = []
    for number in range(len(steps)):
        pending.append(number)
        if _pays(state, steps, pending, start):
            cuts.append(pending)
            pending = []
    while pending and cuts:  # what does not pay at the end belongs to what came before
        pending = cuts.pop() + pending
        if _pays(state, steps, pending, start):
            cuts.append(pending)
            pending = []
    if pending:
        return None
    return [Unit(tuple(steps[n][:2] for n in cut), swap=len(cut) > 1) for cut in cuts]


def _pays(state: State, steps: list[tuple[int, int, float]], numbers: list[int], start: float) -> bool:
    before = steps[numbers[0] - 1][2] if numbers[0] else start
    gain = state.gain(before, steps[numbers[-1]][2])
    cost = sum(state.cost_of(vm, host) for vm, host, _ in (steps[n] for n in numbers))
    return gain > EPSILON and gain >= state.settings.min_gain and state.worth(gain, cost) > EPSILON


def _best_step(state: State, left: Mapping[int, int], unblocking: bool, preferred: bool) -> tuple[int, int] | None:
    """Of the moves left, the one that fits and gains most, or loses least. unblocking: only from where others go."""
    vms = np.array(list(left), dtype=np.int64)
    hosts = np.array(list(left.values()), dtype=np.int64)
    rows = np.arange(len(vms))
    fits = state.fits(vms, preferred=preferred)[rows, hosts]
    if unblocking:
        fits &= np.isin(state.at[vms], hosts)
    if not fits.any():
        return None
    gain = state.algorithm.gain(0.0, state.after_moves(vms, hosts))
    best = int(np.where(fits, gain, -np.inf).argmax())
    return int(vms[best]), int(hosts[best])
