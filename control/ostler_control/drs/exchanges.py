"""A few VMs of one host change places with a few of another, where neither a move nor a swap gains: nearly full hosts
whose VMs differ in size need that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from ostler_control.drs.imbalance import Bools, Floats
from ostler_control.drs.search import EPSILON
from ostler_control.drs.state import State
from ostler_control.drs.table import Ints

_MAX_VMS = 400  # in a larger cluster swaps are enough
_EXTREMES = 3  # hosts on either side of the mean, of a cluster with more than twice as many
_MAX_SUBSET = 3
_MAX_SUBSETS = 240  # of one host
_MAX_TWINS = 3


@dataclass(frozen=True)
class _Subsets:
    """Subsets of a host's VMs, the empty one first. has: for subset and VM, 1.0 where it is one of them."""

    vms: Ints
    has: Floats
    fresh: Floats
    cpu: Floats
    memory: Floats
    load_cpu: Floats
    load_memory: Floats

    def moves(self, subset: int, host: int) -> list[tuple[int, int]]:
        """This subset to that host."""
        return [(vm, host) for vm in self.vms[self.has[subset] > 0].tolist()]


def best_exchange(state: State, vms: Ints, left: int) -> tuple[list[tuple[int, int]], int]:
    """The moves of the best exchange between two hosts, in no order, none when none gains; and how many pairs of
    subsets were evaluated.

    left: how many VMs that have not moved it may move. Affinity groups are kept in the end; whether in between is for
    the order to find.
    """
    if len(vms) > _MAX_VMS or state.settings.storage_motion:
        return [], 0
    on = {host: _subsets(state, vms[state.at[vms] == host]) for host in _hosts(state)}
    best: tuple[float, list[tuple[int, int]]] | None = None
    work = 0
    for a, b in combinations(on, 2):
        work += len(on[a].has) * len(on[b].has)
        for score, moves in _of_pair(state, on[a], on[b], a, b, left):
            if best and score <= best[0] + EPSILON:
                break
            if _keeps_groups(state, moves):
                best = score, moves
                break
    return (best[1] if best else []), work


def _hosts(state: State) -> list[int]:
    active = np.flatnonzero(state.active)
    if len(active) <= 2 * _EXTREMES:
        return list(active.tolist())
    order: list[int] = active[np.argsort(state.off[0, active], kind="stable")].tolist()
    return order[:_EXTREMES] + order[-_EXTREMES:]


def _subsets(state: State, vms: Ints) -> _Subsets:
    here = np.array(_few_twins(state, vms), dtype=np.int64)
    found: list[tuple[int, ...]] = [()]
    for size in range(1, _MAX_SUBSET + 1):
        if len(found) + comb(len(here), size) > _MAX_SUBSETS:
            break
        found += combinations(range(len(here)), size)
    has = np.zeros((len(found), len(here)))
    for row, subset in enumerate(found):
        has[row, list(subset)] = 1.0
    columns = (state.at == state.origin, state.cpu, state.memory, state.load_cpu, state.load_memory)
    return _Subsets(here, has, *(has @ column[here].astype(float) for column in columns))


def _few_twins(state: State, vms: Ints) -> list[int]:
    """Of equal VMs the cheapest few."""
    kinds: dict[tuple[object, ...], int] = {}
    found = []
    for vm in sorted(vms.tolist(), key=lambda vm: (state.at[vm] == state.origin[vm], state.cost[vm], vm)):
        alone = vm if state.grouped[vm] else -1
        kind = (
            alone,
            state.table.row_of[vm],
            state.cpu[vm],
            state.memory[vm],
            state.load_cpu[vm],
            state.load_memory[vm],
        )
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= _MAX_TWINS:
            found.append(vm)
    return found


def _of_pair(
    state: State, ours: _Subsets, theirs: _Subsets, a: int, b: int, left: int
) -> Iterator[tuple[float, list[tuple[int, int]]]]:
    """The exchanges between hosts a and b that are worth it, the best first."""
    cpu = ours.load_cpu[:, None] - theirs.load_cpu
    memory = ours.load_memory[:, None] - theirs.load_memory
    first, second = np.array([[a]]), np.array([[b]])
    lost, gained = state.change(first, cpu, memory), state.change(second, cpu, memory)
    gain = state.algorithm.gain(state.imbalance, state.after_change(first, second, lost, gained))
    there = ours.has @ state.cost_changes(ours.vms, np.array(b))
    back = theirs.has @ state.cost_changes(theirs.vms, np.array(a))
    score = state.algorithm.score(gain, there[:, None] + back, state.settings)
    good: Bools = (score > EPSILON) & (ours.fresh[:, None] + theirs.fresh <= left)
    good &= _takes(state, ours, b)[:, None] & _takes(state, theirs, a)
    for size, back_size, free in (
        (ours.cpu, theirs.cpu, state.free_cpu),
        (ours.memory, theirs.memory, state.free_memory),
    ):
        net = size[:, None] - back_size
        good &= (net <= free[b]) & (-net <= free[a])
    rows, columns = np.nonzero(good)
    for one in np.argsort(-score[rows, columns], kind="stable")[:8].tolist():
        row, column = rows[one], columns[one]
        yield float(score[row, column]), ours.moves(row, b) + theirs.moves(column, a)


def _takes(state: State, subsets: _Subsets, host: int) -> Bools:
    """Whether the host is one for each subset, but for its room."""
    refused = ~(state.allowed[state.table.row_of[subsets.vms], host] | (state.origin[subsets.vms] == host))
    found: Bools = subsets.has @ refused.astype(float) == 0
    return found


def _keeps_groups(state: State, moves: list[tuple[int, int]]) -> bool:
    grouped = [(vm, host) for vm, host in moves if state.grouped[vm]]
    if not grouped:
        return True
    back = [(vm, int(state.at[vm])) for vm, _ in moves]
    for vm, host in moves:
        state.move(vm, host)
    good = True
    for vm, host in grouped:
        row = np.ones(len(state.hosts), dtype=bool)
        for group in state.vms[vm].groups:
            state.group_fits(row, vm, group, True)
        good &= bool(row[host])
    for vm, host in back:
        state.move(vm, host)
    return good
