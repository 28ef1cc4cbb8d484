"""The best single move, without looking at every pair of VM and host.

Hosts whose numbers change alike with load form a slope class. For a given VM, of all hosts of one class the emptiest
(or fullest) that takes it is best; so one bound a VM and class tells how good the VM's best move can be at most. VMs
are then evaluated exactly, a few rows of VM x all hosts at a time, from the best bound down, until no bound left is
better than the best move found. The result is that of evaluating every pair; only groups, the grid of sizes and
unlike slopes in one class make a bound too optimistic, which costs time and never a better move.

Real fleets have few flavors. Equal VMs of one host (twins) gain the same wherever they go, so only the cheapest twin
that has not moved is a candidate: `representatives`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ostler_control.drs.imbalance import Bools, Floats, from_moments
from ostler_control.drs.state import State
from ostler_control.drs.table import Ints, number

# Scores closer than this are equal: then cost decides, then the names.
EPSILON = 1e-12
_FIRST_CHUNK = 4
_HEAD = 256
_MAX_CELLS = 1_000_000
_EXACT_SLOPES = 16
_COLUMNS = ("vm", "host", "gain", "cost", "score")
# Up to this many pairs it is quicker to look at all of them.
_DENSE_CELLS = 20_000
TOLD = 2  # alternatives shown for a move


@dataclass(frozen=True)
class Choice:
    """A move and what it is worth."""

    vm: int
    host: int
    gain: float
    cost: float
    score: float


class Search:
    """The best moves of a state."""

    def __init__(self, state: State) -> None:
        self.state = state
        slopes = np.concatenate([state.per_cpu, state.per_memory])
        active = np.flatnonzero(state.active)
        keys: Floats = slopes[:, active].T
        classes, firsts = number(row.tobytes() for row in np.ascontiguousarray(keys))
        if len(firsts) > _EXACT_SLOPES:
            with np.errstate(divide="ignore"):
                steps = np.where(keys == 0, 0, np.round(np.log2(np.abs(keys)) * 16))
            classes, firsts = number(row.tobytes() for row in np.ascontiguousarray(steps))
        self.classes = [active[classes == position] for position in range(len(firsts))]
        self.steepest = [
            (
                state.per_cpu[:, c].min(1),
                state.per_cpu[:, c].max(1),
                state.per_memory[:, c].min(1),
                state.per_memory[:, c].max(1),
            )
            for c in self.classes
        ]
        self.rising = slopes.sum() >= 0
        self._twin, self._rank = _twins(state)

    def ordered(self, vms: Ints) -> Ints:
        """These VMs, twins side by side and the cheapest of them first, as `representatives` needs them."""
        found: Ints = vms[np.argsort(self._rank[vms], kind="stable")]
        return found

    def representatives(self, ordered: Ints) -> Ints:
        """The first of each set of twins, of VMs that `ordered` returned and that have not moved. All of them in a
        small cluster, where that is quicker and tells more alternatives."""
        if len(ordered) * len(self.state.hosts) <= _DENSE_CELLS:
            return ordered
        twin = self._twin[ordered]
        first = np.ones(len(twin), dtype=bool)
        np.not_equal(twin[1:], twin[:-1], out=first[1:])
        found: Ints = ordered[first]
        return found

    def best(self, vms: Ints, floor: float = 0.0) -> tuple[Choice, list[Choice]] | None:
        """The best move of any of these VMs that gains at least `floor` and scores above 0, and the next best found
        on the way; None when there is none."""
        state = self.state
        if state.count < 2 or not len(vms):
            return None
        before = state.imbalance
        if len(vms) * len(state.hosts) <= _DENSE_CELLS:
            return _pick([self._exact(vms, before, floor)])
        # There is no bound for a penalty, which may be any function.
        bounds = np.full(len(vms), np.inf) if state.penalized else self._bounds(vms, before, floor)
        hopeful = np.flatnonzero(bounds > EPSILON)
        found: list[_Rows] = []
        best_score = EPSILON
        for chunk in self._chunks(vms, bounds, hopeful):
            if found and bounds[chunk[0]] <= best_score + EPSILON:  # of equal ones, the cheapest came first
                break
            found.append(self._exact(vms[chunk], before, floor))
            best_score = float(found[-1].score.max(initial=best_score))
        return _pick(found)

    def _chunks(self, vms: Ints, bounds: Floats, hopeful: Ints) -> Iterator[Ints]:
        """Positions of the hopeful VMs, the most hopeful first, in chunks that grow."""
        state, parts = self.state, [hopeful]
        if len(hopeful) > _HEAD:  # the others are not even sorted when these are enough
            least = -np.partition(-bounds[hopeful], _HEAD)[_HEAD]
            parts = [hopeful[bounds[hopeful] >= least - EPSILON], hopeful[bounds[hopeful] < least - EPSILON]]
        size, most = _FIRST_CHUNK, max(_MAX_CELLS // len(state.hosts), _FIRST_CHUNK)
        for part in parts:
            order = part[np.lexsort((vms[part], state.cost[vms[part]], -np.round(bounds[part] / EPSILON)))]
            begin = 0
            while begin < len(order):
                yield order[begin : begin + size]
                begin += size
                size = min(size * 2, most)

    def _bounds(self, vms: Ints, before: float, floor: float) -> Floats:
        """The best score that a move of each VM can have; -inf for none."""
        state, lowers = self.state, self.state.algorithm.lowers
        sums, squares = state.left(vms)
        kind = state.kinds.of[vms]
        best = np.full(len(vms), np.inf if lowers else -np.inf)
        for hosts, steepest in zip(self.classes, self.steepest, strict=True):
            best = (np.minimum if lowers else np.maximum)(best, self._bound(vms, kind, sums, squares, hosts, steepest))
        gain = state.algorithm.gain(before, best)
        with np.errstate(invalid="ignore"):
            score = state.algorithm.score(gain, self._least_cost(vms, kind), state.settings)
        return np.where(np.isfinite(best) & (gain >= floor - EPSILON), score, -np.inf)

    def _least_cost(self, vms: Ints, kind: Ints) -> Floats:
        """The least that a move of each VM adds to the cost of the plan."""
        state = self.state
        least = state.cost[vms]
        if state.settings.storage_motion:
            open_without: Bools = state.kinds.open & ~state.table.motion[state.kinds.rows]
            reached = np.asarray(open_without.any(axis=1))
            least = least + np.where(reached[kind], 0.0, state.disk_cost[vms])
        moved = state.at[vms] != state.origin[vms]
        if moved.any():  # at best it goes home
            least = np.where(moved, -(state.cost[vms] + state.disk_cost[vms]), least)
        return least

    def _bound(
        self, vms: Ints, kind: Ints, sums: Floats, squares: Floats, hosts: Ints, steepest: tuple[Floats, ...]
    ) -> Floats:
        """The best imbalance after a move to any host of one class; infinite for none."""
        state, n, lowers = self.state, self.state.count, self.state.algorithm.lowers
        least_cpu, most_cpu, least_memory, most_memory = (slope[:, None] for slope in steepest)
        low = least_cpu * state.load_cpu[vms] + least_memory * state.load_memory[vms]
        high = most_cpu * state.load_cpu[vms] + most_memory * state.load_memory[vms]
        open_ = state.kinds.open[:, hosts]
        # Load lowers what is free: then the fullest host is the one with the least.
        emptiest = lowers == self.rising
        worst = np.inf if emptiest else -np.inf
        pick = np.min if emptiest else np.max
        ends = np.stack([pick(np.where(open_, off, worst), axis=1) for off in state.off[:, hosts]])
        off = ends[:, kind]

        def variance(change: Floats) -> Floats:
            mean = (sums + change) / n
            found: Floats = (squares + change * (2 * off + change)) / n - mean * mean
            return found

        with np.errstate(invalid="ignore"):
            if lowers:
                change = np.clip((sums / n - off) * (n / (n - 1)), low, high)
                extreme, mean = variance(change), (sums + high) / n
            else:
                extreme, mean = np.maximum(variance(low), variance(high)), (sums + low) / n
            after = state.algorithm.combine(list(from_moments(extreme, mean + state.centre[:, None])))
        return np.where(np.isfinite(off).all(axis=0), after, np.inf if lowers else -np.inf)

    def _exact(self, vms: Ints, before: float, floor: float) -> _Rows:
        """The best move of each VM that gains enough."""
        state = self.state
        gain = state.algorithm.gain(before, state.after_every_move(vms))
        cost = state.cost_changes(vms[:, None], np.arange(len(state.hosts)))
        score = state.algorithm.score(gain, cost, state.settings)
        score = np.where((gain >= floor) & (score > EPSILON), score, -np.inf)
        promising = np.flatnonzero(np.isfinite(score).any(axis=1))
        vms, gain, cost, score = vms[promising], gain[promising], cost[promising], score[promising]
        score[~state.fits(vms)] = -np.inf
        rounded = np.round(score / EPSILON)
        ties = rounded == rounded.max(axis=1, initial=-np.inf)[:, None]
        host = np.where(ties, cost, np.inf).argmin(axis=1) if len(vms) else np.zeros(0, dtype=np.int64)
        row = np.arange(len(vms))
        return _Rows(vms, host, gain[row, host], cost[row, host], score[row, host])


def _twins(state: State) -> tuple[Ints, Ints]:
    """For each VM the number of its set of twins, and its rank in the order by twins, cost and position. A VM with
    groups has no twin."""
    columns = [state.origin, state.table.row_of, state.cpu, state.memory, state.load_cpu, state.load_memory, state.disk]
    alone = np.where(state.grouped, np.arange(1, len(state.vms) + 1), 0)
    order = np.lexsort((state.cost, alone, *columns[::-1]))
    differs = np.zeros(len(order), dtype=bool)
    for column in (*columns, alone):
        differs[1:] |= column[order][1:] != column[order][:-1]
    twin, rank = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    twin[order] = np.cumsum(differs)
    rank[order] = np.arange(len(order))
    return twin, rank


@dataclass(frozen=True)
class _Rows:
    """The best move of each of some VMs; a score of -inf is none."""

    vm: Ints
    host: Ints
    gain: Floats
    cost: Floats
    score: Floats


def _pick(found: list[_Rows]) -> tuple[Choice, list[Choice]] | None:
    """The best of all and the next best."""
    if not found:
        return None
    vm, host, gain, cost, score = (
        getattr(found[0], name) if len(found) == 1 else np.concatenate([getattr(rows, name) for rows in found])
        for name in _COLUMNS
    )
    if not len(score) or not np.isfinite(score.max()):
        return None
    order = np.lexsort((host, vm, cost, -np.round(score / EPSILON)))[: 1 + TOLD].tolist()
    choices = [
        Choice(int(vm[one]), int(host[one]), float(gain[one]), float(cost[one]), float(score[one]))
        for one in order
        if np.isfinite(score[one])
    ]
    return choices[0], choices[1:]
