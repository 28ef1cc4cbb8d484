"""Broken affinity and anti-affinity rules are repaired with as few and as cheap moves as can be found."""

from __future__ import annotations

import random

import numpy as np

from ostler_control.drs.chains import make_room
from ostler_control.drs.ordering import any_order
from ostler_control.drs.pairs import BrokenPairs
from ostler_control.drs.search import Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply, undo_all
from ostler_control.drs.table import Ints

_CHUNK = 4
# The second search, for what no single move repairs: VM x host pairs up to which it runs, and its tries.
_MAX_CELLS = 40_000
_TRIES = 400
_TRIES_ONCE_WHOLE = 40
_MAX_UNDONE = 6
_STEPS = 200


def repair(state: State, search: Search, vms: Ints, most: int) -> tuple[list[Unit], End]:
    """First each move repairs the most pairs, strict ones first; of equals the cheapest, then the most even. What is
    still broken then is repaired, in a small cluster, by making room, or by leaving some of these moves out."""
    pairs = BrokenPairs(state)
    units: list[Unit] = []
    while pairs.any and len(units) < most:
        unit = _best(state, pairs, vms[state.at[vms] == state.origin[vms]])
        if unit is None:
            break
        pairs.move(*unit.moves[0])
        units.append(unit)
    if pairs.any and 0 < len(vms) * len(state.hosts) <= _MAX_CELLS:
        units = _Repairer(state, pairs, vms, most).run(units)
    if not pairs.any:
        return units, End.SATISFIED
    return units, End.FULL if len(units) >= most else End.NO_GAIN


def _best(state: State, pairs: BrokenPairs, vms: Ints) -> Unit | None:
    """The best move: evaluated exactly are those VMs only whose bound is better than the best found."""
    strict, preferred = pairs.bounds()
    for keeping in (True, False):  # a preference gives way when a strict rule cannot be repaired otherwise
        hopeful = vms[(strict[vms] + preferred[vms] if keeping else strict[vms]) > 0]
        order = hopeful[np.lexsort((hopeful, state.cost[hopeful], -preferred[hopeful], -strict[hopeful]))]
        best: tuple[tuple[float, ...], int, int] | None = None
        for begin in range(0, len(order), _CHUNK):
            chunk = order[begin : begin + _CHUNK]
            first = int(chunk[0])
            if best and best[0][:3] <= (-strict[first], -preferred[first], state.cost[first]):
                break
            found = _best_of(state, pairs, chunk, keeping)
            if found and (best is None or found < best):
                best = found
        if best:
            _, vm, host = best
            return Unit(((vm, host),), f'repairs the rule of group "{pairs.named(vm)}"')
    return None


def _best_of(state: State, pairs: BrokenPairs, vms: Ints, keeping: bool) -> tuple[tuple[float, ...], int, int] | None:
    """The best move of these VMs: key, VM and host. keeping: whether preferences are kept."""
    fits = state.fits(vms, preferred=keeping)
    cost = state.cost_changes(vms[:, None], np.arange(len(state.hosts)))
    gain = state.algorithm.gain(state.imbalance, state.after_every_move(vms))
    strict, preferred = (np.array(rows) for rows in zip(*(pairs.repaired(vm) for vm in vms.tolist()), strict=True))
    worth = strict + preferred if keeping else strict
    rows, hosts = np.nonzero(fits & (worth > 0))
    if not len(rows):
        return None
    at = (rows, hosts)
    order = np.lexsort((hosts, rows, -np.round(gain[at], 12), np.round(cost[at], 12), -preferred[at], -strict[at]))
    row, host = int(rows[order[0]]), int(hosts[order[0]])
    key = (-strict[row, host], -preferred[row, host], cost[row, host], -float(gain[row, host]))
    return tuple(map(float, key)), int(vms[row]), host


Value = tuple[float, float, float]  # broken strict pairs, broken preferred pairs, cost: less is better


class _Repairer:
    """Undoes moves at random, makes room by chains, and repairs again; keeps what is better and can be ordered."""

    def __init__(self, state: State, pairs: BrokenPairs, vms: Ints, most: int) -> None:
        self.state, self.pairs, self.vms, self.most = state, pairs, vms, most
        self.may = frozenset(vms.tolist())
        self.dice = random.Random(0)

    def run(self, units: list[Unit]) -> list[Unit]:
        """Units at least as good as these, which are applied; the state changes along."""
        best, steps = self._value(), [unit.moves[0] for unit in units]
        current = dict(steps)
        better = False
        since = 0
        for _ in range(_TRIES):
            if since >= (_TRIES_ONCE_WHOLE if best[:2] == (0, 0) else _TRIES):
                break
            since += 1
            self._kick()
            self._descend()
            self._send_home()
            value = self._value()
            if value >= best:
                if value[:2] > best[:2]:
                    self._go(current)
                else:
                    current = self._places()
                continue
            ordered = self._ordered(value)
            if ordered is None:
                self._go(current)
                continue
            best, steps, better, since = value, ordered, True, 0
            current = dict(steps)
        self._go({})
        if better:
            units = []
        for vm, host in steps if better else ():
            units.append(Unit(((vm, host),), self._reason(vm, host)))
            self.pairs.move(vm, host)
        if not better:
            for unit in units:
                apply(self.state, unit)
            self.pairs.recount()
        return units

    def _ordered(self, value: Value) -> list[tuple[int, int]] | None:
        places = self._places()
        found = any_order(self.state, places, preferred=True) or any_order(self.state, places, preferred=False)
        self.pairs.recount()
        return found

    def _value(self) -> Value:
        return (*self.pairs.count(), round(self.state.planned_cost, 12))

    def _places(self) -> dict[int, int]:
        return {vm: int(self.state.at[vm]) for vm in np.flatnonzero(self.state.at != self.state.origin).tolist()}

    def _go(self, places: dict[int, int]) -> None:
        undo_all(self.state)
        for vm, host in places.items():
            self.state.move(vm, host)
        self.pairs.recount()

    def _left(self) -> int:
        return self.most - int((self.state.at != self.state.origin).sum())

    def _kick(self) -> None:
        state, dice = self.state, self.dice
        moved = np.flatnonzero(state.at != state.origin).tolist()
        for vm in dice.sample(moved, min(len(moved), dice.randint(0, _MAX_UNDONE))):
            state.move(vm, int(state.origin[vm]))
        self.pairs.recount()
        broken = [vm for vm in self.pairs.members_of_broken() if vm in self.may]
        for _ in range(dice.randint(1, 3)):
            vm = dice.choice(broken if broken and dice.random() < 0.7 else self.vms.tolist())
            if self._left() <= 0 and state.at[vm] == state.origin[vm]:
                continue
            if dice.random() < 0.6:
                make_room(state, vm, self.may, self._left(), dice)
            else:
                hosts = np.flatnonzero(state.fits(np.array([vm]), preferred=False)[0])
                if len(hosts):
                    state.move(vm, int(hosts[dice.randrange(len(hosts))]))
        self.pairs.recount()

    def _descend(self) -> None:
        for _ in range(_STEPS):
            fresh = self.state.at == self.state.origin
            members = [vm for vm in self.pairs.members_of_broken() if vm in self.may]
            if self._left() <= 0:
                members = [vm for vm in members if not fresh[vm]]
            if not members:
                return
            vms = np.array(members, dtype=np.int64)
            found = _best_of(self.state, self.pairs, vms, True) or _best_of(self.state, self.pairs, vms, False)
            if found is None:
                return
            self.pairs.move(found[1], found[2])

    def _send_home(self) -> None:
        """Moves that repair nothing are not made."""
        state = self.state
        for vm in sorted(self._places(), key=lambda vm: (-state.cost[vm], vm)):
            home = int(state.origin[vm])
            strict, preferred = self.pairs.repaired(vm)
            if (strict[home], preferred[home]) >= (0, 0) and state.fits(np.array([vm]), preferred=False)[0, home]:
                self.pairs.move(vm, home)

    def _reason(self, vm: int, host: int) -> str:
        strict, preferred = self.pairs.repaired(vm)
        if strict[host] + preferred[host] > 0:
            return f'repairs the rule of group "{self.pairs.named(vm)}"'
        return "makes room for a move that repairs a rule"
