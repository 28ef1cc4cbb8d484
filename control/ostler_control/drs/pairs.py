"""How many pairs of VMs break the rules of their groups, kept up to date move by move."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ostler_control.drs.imbalance import Floats
from ostler_control.drs.model import GroupKind
from ostler_control.drs.rules import broken_pairs
from ostler_control.drs.state import State
from ostler_control.drs.table import Ints


class BrokenPairs:
    """Of the groups of a state. `move` moves a VM in both; after other moves of the state, `recount`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._counts: dict[str, Ints] = {}
        self._pairs: dict[str, int] = {}
        self.recount()

    def recount(self, groups: Iterable[str] | None = None) -> None:
        """Counts these groups anew, by default all."""
        state = self.state
        for id in state.members if groups is None else groups:
            counts = np.bincount(state.at[state.members[id]], minlength=len(state.hosts))
            self._counts[id] = counts
            if id in state.named:
                self._pairs[id] = int(counts[~state.named[id]].sum())
                continue
            self._pairs[id] = broken_pairs(state.groups[id].kind, counts[counts > 0].tolist())

    def move(self, vm: int, host: int) -> None:
        """The VM is there now."""
        self.state.move(vm, host)
        self.recount(self.state.vms[vm].groups)

    @property
    def any(self) -> bool:
        """Whether any rule is broken."""
        return any(self._pairs.values())

    def count(self) -> tuple[int, int]:
        """Broken pairs of strict and of preferred rules."""
        found = {True: 0, False: 0}
        for id, pairs in self._pairs.items():
            found[self.state.groups[id].strict] += pairs
        return found[True], found[False]

    def members_of_broken(self) -> list[int]:
        """VMs of groups whose rule is broken."""
        found = {int(vm) for id, pairs in self._pairs.items() if pairs for vm in self.state.members[id]}
        return sorted(found)

    def named(self, vm: int) -> str:
        """Name of the first broken group of the VM, or of its first one."""
        groups = self.state.vms[vm].groups
        broken = [id for id in groups if self._pairs[id]]
        return self.state.groups[(broken or groups)[0]].name

    def repaired(self, vm: int) -> tuple[Floats, Floats]:
        """Pairs repaired by moving the VM to each host: strict ones, preferred ones. Below 0: broken."""
        state = self.state
        found = {True: np.zeros(len(state.hosts)), False: np.zeros(len(state.hosts))}
        here = state.at[vm]
        for id in state.vms[vm].groups:
            group, counts = state.groups[id], self._counts[id]
            if id in state.named:
                found[group.strict] += state.named[id].astype(float) - float(state.named[id][here])
                continue
            change = counts - (counts[here] - 1)
            change[here] = 0
            found[group.strict] += change if group.kind is GroupKind.AFFINITY else -change
        return found[True], found[False]

    def bounds(self) -> tuple[Floats, Floats]:
        """For every VM the most pairs that a move of it can repair: strict ones, preferred ones."""
        state = self.state
        found = {True: np.zeros(len(state.vms)), False: np.zeros(len(state.vms))}
        for id, pairs in self._pairs.items():
            if not pairs:
                continue
            group, counts, members = state.groups[id], self._counts[id], state.members[id]
            if id in state.named:
                np.add.at(found[group.strict], members, (~state.named[id][state.at[members]]).astype(float))
                continue
            mates = counts[state.at[members]] - 1
            most = counts.max() - mates if group.kind is GroupKind.AFFINITY else mates
            np.add.at(found[group.strict], members, np.maximum(most, 0))
        return found[True], found[False]
