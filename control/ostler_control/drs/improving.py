"""A better plan of the same size: some moves of a plan are undone at random and the best ones made instead, again and
again; what is better stays.

Better is what the algorithm's score says of the plan as a whole: its gain against its cost, as drs.cost.weight has it.
The search works on where VMs end up: a VM that has moved may be sent elsewhere or home at no further move. Whatever
comes out is put into an order that keeps every rule after every move before it counts. The dice are always thrown
alike, and the work is counted, not timed: the same snapshot gives the same plan.
"""

from __future__ import annotations

import random

import numpy as np

from ostler_control.drs.chains import make_room
from ostler_control.drs.exchanges import best_exchange
from ostler_control.drs.ordering import in_order
from ostler_control.drs.search import EPSILON, Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import Unit
from ostler_control.drs.swaps import best_swap
from ostler_control.drs.table import Ints

# The budget in units of about 13 ns of CPU: what a call costs, a pair of VM and host, and a pair of VMs or subsets.
_WORK = 26_000_000
_CALL = 15_000
_PER_MOVE = 3
_PER_SWAP = 7
_MAX_FRUITLESS = 250  # tries in a row that bring nothing
_MIN_TRIES = 20  # a cluster so large that the budget allows fewer is left as it is
_MAX_UNDONE = 12
# A try may be this much worse than the best so far and still be where the next one starts: a way out of dead ends.
_SLACK = 0.1
_MAX_RELAYS = 3

Places = dict[int, int]  # VM -> host, of those that have moved


class Improver:
    """Improves plans of these VMs with at most `most` moves. start: the imbalance before anything moved."""

    def __init__(self, state: State, search: Search, vms: Ints, most: int, start: float) -> None:
        self.state, self.search, self.most, self.start = state, search, most, start
        keeps_together = {
            member
            for id, members in state.members.items()
            if state.groups[id].kind == "affinity" and len(members) > 1
            for member in members.tolist()
        }
        # Whether VMs that stay together may move depends on the way there, not on the end alone: they stay as they are.
        self.vms = search.ordered(np.array([vm for vm in vms.tolist() if vm not in keeps_together], dtype=np.int64))
        self.may = frozenset(self.vms.tolist())
        self.work = 0
        self._seen: set[frozenset[tuple[int, int]]] = set()
        self.dice = random.Random(0)

    @property
    def affordable(self) -> bool:
        """Whether the cluster is small enough for the search to come to anything."""
        return bool(len(self.vms)) and _PER_MOVE * len(self.vms) * len(self.state.hosts) * _MIN_TRIES <= _WORK

    def run(self, units: list[Unit], satisfied: bool) -> list[Unit]:
        """Units that are worth no less than the given ones, which are applied; the state changes along. satisfied:
        whether the algorithm is satisfied by the given ones and must remain so."""
        state = self.state
        places: Places = {vm: host for unit in units for vm, host in unit.moves}
        best, best_units = self.worth(), units
        current, fruitless = dict(places), 0
        while self.work < _WORK and fruitless < _MAX_FRUITLESS and not self._is_perfect(best):
            if fruitless:
                self._kick(current)
            self._descend(best)
            now, worth = self._places(), self.worth()
            fruitless += 1
            if worth <= best - _SLACK * (abs(best - self._perfect()) + 1e-3) or now == current:
                self._go(now, current)
                continue
            if worth > best + 1e3 * EPSILON and not (satisfied and state.needs_drs()):
                self.work += len(now) * (_PER_MOVE * len(now) * len(state.hosts) // 2 + 2 * _CALL)
                ordered = in_order(state, now, self.start, self.may, min(self.most - len(now), _MAX_RELAYS))
                worth = self.worth()
                if ordered is None or worth <= best + 1e3 * EPSILON:  # good, but there is no way there
                    self._go(self._places(), current)
                    continue
                best, best_units, fruitless = worth, ordered, 0
                now = self._places()
            current = now
        self._go(current, {vm: host for unit in best_units for vm, host in unit.moves})
        return best_units

    def worth(self) -> float:
        """What the moves made so far are worth together."""
        return self.state.worth(self.state.gain(self.start, self.state.imbalance), self.state.planned_cost)

    def _perfect(self) -> float:
        """What no plan is worth more than."""
        return self.state.worth(self.state.gain(self.start, 0.0), 0.0) if self.state.algorithm.lowers else 0.0

    def _is_perfect(self, worth: float) -> bool:
        return self.state.algorithm.lowers and worth > self._perfect() - 1e-9

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
        """Undoes a few moves; sometimes makes others first that are not the best."""
        state, dice = self.state, self.dice
        movable = [vm for vm in sorted(current) if vm in self.may]
        for vm in dice.sample(movable, min(len(movable), dice.randint(0 if movable else 1, _MAX_UNDONE))):
            state.move(vm, int(state.origin[vm]))
        for _ in range(dice.randint(0, 2)):
            left = self.most - int((state.at != state.origin).sum())
            if left <= 0:
                return
            vm = int(self.vms[dice.randrange(len(self.vms))])
            self.work += 2 * _CALL
            if dice.random() < 0.5:
                self.work += make_room(state, vm, self.may, left, dice) * _CALL
                continue
            hosts = np.flatnonzero(state.fits(np.array([vm]))[0])
            if len(hosts):
                # To one of the emptier (or fuller) ones.
                order = hosts[np.argsort(state.off[0, hosts], kind="stable")]
                if state.algorithm.lowers != self.search.rising:
                    order = order[::-1]
                state.move(vm, int(order[int(len(order) * dice.random() ** 2)]))

    def _descend(self, best: float) -> None:
        """The best moves, then swaps, until nothing gains; then, where the best plan so far is near, exchanges."""
        state = self.state
        gauges = len(state.off)
        while self.work < _WORK:
            moved = state.at != state.origin
            left = self.most - int(moved.sum())
            had = self.vms[moved[self.vms]]
            fresh = self.search.representatives(self.vms[~moved[self.vms]]) if left > 0 else self.vms[:0]
            candidates = np.concatenate([fresh, had])
            self.work += _PER_MOVE * gauges * len(candidates) * len(state.hosts) + _CALL
            found = self.search.best(candidates)
            if found:
                state.move(found[0].vm, found[0].host)
                continue
            vms = self.vms if left > 0 else had
            self.work += _PER_SWAP * gauges * min(len(vms), 200) ** 2 + 3 * _CALL
            unit = best_swap(state, vms, 0.0, left)
            moves = unit.moves if unit else self._exchange(best, vms, left)
            if not moves:
                return
            for vm, host in moves:
                state.move(vm, host)

    def _exchange(self, best: float, vms: Ints, left: int) -> list[tuple[int, int]]:
        seen = frozenset(self._places().items())
        if seen in self._seen or self.worth() < best - 1e3 * EPSILON:
            return []
        self._seen.add(seen)
        moves, pairs = best_exchange(self.state, vms, left)
        self.work += _PER_SWAP * len(self.state.off) * pairs + 20 * _CALL
        return moves
