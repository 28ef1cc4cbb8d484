"""Broken affinity and anti-affinity rules are mended with as few and as cheap moves as can be found."""

from __future__ import annotations

import numpy as np

from ostler_control.drs.imbalance import Floats
from ostler_control.drs.model import GroupKind
from ostler_control.drs.rules import broken_pairs
from ostler_control.drs.search import Search
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply
from ostler_control.drs.table import Ints


def repair(state: State, search: Search, vms: Ints, most: int) -> tuple[list[Unit], End]:
    """Each move mends the most pairs, strict ones first; of equals the cheapest, then the most even."""
    units: list[Unit] = []
    while True:
        broken = [group for group in state.groups if _broken(state, group)]
        if not broken:
            return units, End.SATISFIED
        if len(units) >= most:
            return units, End.FULL
        members = {vm for group in broken for vm in state.members[group]}
        candidates = vms[np.isin(vms, list(members)) & (state.at[vms] == state.origin[vms])]
        unit = _best(state, search, candidates)
        if unit is None:
            return units, End.NO_GAIN
        apply(state, unit)
        units.append(unit)


def _broken(state: State, group: str) -> bool:
    counts = np.bincount(state.at[state.members.get(group, [])], minlength=1)
    return broken_pairs(state.groups[group].kind, counts.tolist()) > 0


def _best(state: State, search: Search, vms: Ints) -> Unit | None:
    for preferred in (True, False):  # a preference gives way when a strict rule cannot be mended otherwise
        best: tuple[tuple[float, ...], int, int, str] | None = None
        fits = state.fits(vms, preferred=preferred)
        after = state.after_every_move(vms) if len(vms) else np.zeros(fits.shape)
        for row, vm in enumerate(vms.tolist()):
            strict, wished, group = _mended(state, vm)
            worth = strict if not preferred else strict + wished
            for host in np.flatnonzero(fits[row] & (worth > 0)).tolist():
                gain = float(state.algorithm.gain(state.imbalance, after[row, host]))
                key = (-strict[host], -wished[host], round(state.cost_of(vm, host), 12), -round(gain, 12))
                if best is None or key < best[0]:
                    best = (key, vm, host, group)
        if best:
            return Unit(((best[1], best[2]),), f'mends the rule of group "{best[3]}"')
    return None


def _mended(state: State, vm: int) -> tuple[Floats, Floats, str]:
    """Pairs mended by moving the VM to each host: strict ones, preferred ones; and the first group concerned."""
    found = {True: np.zeros(len(state.hosts)), False: np.zeros(len(state.hosts))}
    named = ""
    for id in state.vms[vm].groups:
        group = state.groups[id]
        others = [other for other in state.members[id] if other != vm]
        counts = np.bincount(state.at[others], minlength=len(state.hosts)).astype(float)
        change = counts - counts[state.at[vm]]
        found[group.strict] += change if group.kind is GroupKind.AFFINITY else -change
        if not named and _broken(state, id):
            named = group.name
    return found[True], found[False], named
