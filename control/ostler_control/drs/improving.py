"""The least imbalance that so many moves can reach: some moves of a plan are taken back at random and the best ones
made instead, again and again; what is better stays.

Works on where VMs end up: a VM that has moved may be sent elsewhere or home at no further move. Whatever comes out is
put into an order that keeps every rule after every move before it counts. The dice are always thrown alike, and the
work is counted, not timed: the same snapshot gives the same plan.
"""

from __future__ import annotations

import random

import numpy as np

from ostler_control.drs.search import EPSILON, Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import Unit
from ostler_control.drs.swaps import best_swap
from ostler_control.drs.table import Ints

# What may be spent: VM x host pairs looked at, and what a look costs besides, in pairs.
_WORK = 40_000_000
_LOOK = 15_000
_PATIENCE = 200  # tries in a row that bring nothing
_MOST_TAKEN_BACK = 12
# A try may be this much worse than the best so far and still be where the next one starts: a way out of dead ends.
_SLACK = 0.1

Places = dict[int, int]  # VM -> host, of those that have moved


def improve(state: State, search: Search, vms: Ints, units: list[Unit], most: int) -> list[Unit]:
    """Units with at most `most` moves that leave the state no less even than the given ones, which are applied. The
    state changes along."""
    return _Improver(state, search, vms, most).run(units)


class _Improver:
    def __init__(self, state: State, search: Search, vms: Ints, most: int) -> None:
        self.state, self.search, self.most = state, search, most
        keeps_together = {
            member
            for id, members in state.members.items()
            if state.groups[id].kind == "affinity" and len(members) > 1
            for member in members
        }
        # Whether VMs that stay together may move depends on the way there, not on the end alone: they stay as they are.
        self.vms = np.array([vm for vm in vms.tolist() if vm not in keeps_together], dtype=np.int64)
        self.may = frozenset(self.vms.tolist())
        self.work = 0
        self.dice = random.Random(0)

    def run(self, units: list[Unit]) -> list[Unit]:
        state = self.state
        places: Places = {vm: host for unit in units for vm, host in unit.moves}
        best, best_units = self._level(), units
        current, patience = dict(places), 0
        while self.work < _WORK and patience < _PATIENCE and abs(best - self._perfect()) > 1e-9:
            self._kick(current)
            self._descend()
            now = self._places()
            level = self._level()
            if level > best - _SLACK * (abs(best) + 1e-3) and now != current:
                if level > best + 1e3 * EPSILON:
                    ordered = in_order(state, now)
                    if ordered is None:  # good, but there is no way there
                        self._go(now, current)
                        patience += 1
                        continue
                    best, best_units, patience = level, ordered, -1
                current = now
            else:
                self._go(now, current)
            patience += 1
        self._go(current, {vm: host for unit in best_units for vm, host in unit.moves})
        return best_units

    def _level(self) -> float:
        """How good the state is."""
        return self.state.gain(0.0, self.state.imbalance)

    def _perfect(self) -> float:
        return self.state.gain(0.0, 0.0) if self.state.algorithm.lowers else np.inf

    def _places(self) -> Places:
        state = self.state
        return {vm: int(state.at[vm]) for vm in np.flatnonzero(state.at != state.origin).tolist()}

    def _go(self, now: Places, then: Places) -> None:
        for vm in now.keys() - then.keys():
            self.state.move(vm, int(self.state.origin[vm]))
        for vm, host in then.items():
            if self.state.at[vm] != host:
                self.state.move(vm, host)

    def _kick(self, current: Places) -> None:
        """Takes a few moves back; sometimes makes others first that are not the best."""
        state, dice = self.state, self.dice
        movable = [vm for vm in sorted(current) if vm in self.may]
        for vm in dice.sample(movable, min(len(movable), dice.randint(1, _MOST_TAKEN_BACK))):
            state.move(vm, int(state.origin[vm]))
        for _ in range(dice.randint(0, 2)):
            left = self.most - int((state.at != state.origin).sum())
            if left <= 0:
                return
            vm = int(self.vms[dice.randrange(len(self.vms))])
            hosts = np.flatnonzero(state.fits(np.array([vm]))[0])
            if len(hosts):
                # To one of the emptier (or fuller) ones.
                order = hosts[np.argsort(state.off[0, hosts], kind="stable")]
                if state.algorithm.lowers != self.search.rising:
                    order = order[::-1]
                state.move(vm, int(order[int(len(order) * dice.random() ** 2)]))

    def _descend(self) -> None:
        """The best moves, then swaps, until nothing gains."""
        state = self.state
        while True:
            moved = state.at != state.origin
            left = self.most - int(moved.sum())
            vms = self.vms if left > 0 else self.vms[moved[self.vms]]
            self.work += len(vms) * len(state.hosts) + _LOOK
            found = self.search.best(vms)
            if found:
                state.move(found[0].vm, found[0].host)
                continue
            self.work += len(vms) * len(vms) + _LOOK
            unit = best_swap(state, vms, 0.0, left)
            if unit is None:
                return
            for vm, host in unit.moves:
                state.move(vm, host)


def in_order(state: State, places: Places) -> list[Unit] | None:
    """Units that lead to these places, which are where the state's VMs are: each move keeps every rule, and those moves
    are one unit that only gain together. None when no such order is found. Leaves the state as it is."""
    for vm in places:
        state.move(vm, int(state.origin[vm]))
    units: list[Unit] = []
    pending: list[tuple[int, int]] = []
    left = dict(sorted(places.items()))
    begin = state.imbalance
    while left:
        step = _best_step(state, left)
        if step is None:
            break
        state.move(*step)
        del left[step[0]]
        pending.append(step)
        gain = state.gain(begin, state.imbalance)
        if gain > EPSILON and gain >= state.settings.min_gain:
            units.append(Unit(tuple(pending), swap=len(pending) > 1))
            pending, begin = [], state.imbalance
    complete = not left and not pending
    for vm, host in left.items():
        state.move(vm, host)
    return units if complete else None


def _best_step(state: State, left: Places) -> tuple[int, int] | None:
    """Of the moves left, the one that fits and gains most, or loses least."""
    vms = np.array(list(left), dtype=np.int64)
    hosts = np.array(list(left.values()), dtype=np.int64)
    rows = np.arange(len(vms))
    fits = state.fits(vms)[rows, hosts]
    if not fits.any():
        return None
    gain = state.algorithm.gain(0.0, state.after_moves(vms, hosts))
    best = int(np.where(fits, gain, -np.inf).argmax())
    return int(vms[best]), int(hosts[best])
