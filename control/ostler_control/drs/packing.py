"""VMs are packed on as few hosts as will hold them: whole hosts are emptied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ostler_control.drs.imbalance import Bools
from ostler_control.drs.state import State
from ostler_control.drs.steps import End, Unit, apply, count, undo
from ostler_control.drs.table import Ints

_TRIALS = 60  # sets of hosts that are tried to be emptied together
_SHIFTS = 3  # VMs of hosts that stay in use that may move for one of an emptied host

Kept = dict[int, tuple[str, str]]


def pack(state: State, vms: Ints, most: int, why_not: Mapping[int, str]) -> tuple[list[Unit], End, Kept]:
    """Empties as many hosts as it can with few moves, as long as the algorithm wants and every VM of a host finds a
    place.

    why_not: of VMs that may not move. The third: hosts that could not be emptied, with code and explanation.
    """
    free = np.zeros(len(state.vms), dtype=bool)
    free[vms] = True
    units: list[Unit] = []
    kept: Kept = {}
    for whole in _together(state, free, most):
        if not state.needs_drs():
            return units, End.SATISFIED, kept
        if _pays(state, whole, kept):
            apply(state, whole)
            units.append(whole)
    full = False
    for host in _by_load(state, _in_use(state)):
        if not state.needs_drs():
            return units, End.SATISFIED, kept
        there = np.flatnonzero(state.at == host)
        unit: Unit | None = None
        fixed = [vm for vm in there.tolist() if not free[vm]]
        if not len(there) or state.holds_others[host]:
            kept[host] = ("HOLDS_OTHERS", "it holds what is not a VM of this cluster, so it cannot become free")
        elif (state.at[there] != state.origin[there]).any():
            kept[host] = ("RECEIVES", "VMs of emptied hosts go there")
        elif fixed:
            kept[host] = ("VM_STAYS", f'VM "{state.vms[fixed[0]].name}" stays: {why_not[fixed[0]]}')
        elif len(there) > most - count(units):
            kept[host] = ("TOO_MANY_VMS", f"its {len(there)} VMs are more than the moves that are left")
            full = True
        else:
            unit = _empty(state, host, there, kept)
        if unit:
            apply(state, unit)
            units.append(unit)
    return units, End.FULL if full and units else End.NO_GAIN, kept


def _in_use(state: State) -> list[int]:
    found: list[int] = np.flatnonzero(state.active & (state.used_memory + state.used_cpu > 0)).tolist()
    return found


def _by_load(state: State, hosts: Sequence[int]) -> list[int]:
    """The smallest load first."""
    share = state.used_memory / np.maximum(state.usable_memory, 1) + state.used_cpu / np.maximum(state.usable_cpu, 1)
    return sorted(hosts, key=lambda host: (share[host], host))


def _together(state: State, free: Bools, most: int) -> list[Unit]:
    """Units that empty the largest set of hosts found, of equal ones that with the fewest moves. Leaves the state as it
    is. One host at a time is not enough: the first one's VMs would fill hosts that should be next."""
    number = np.bincount(state.at, minlength=len(state.hosts))
    stuck = np.bincount(state.at[~free], minlength=len(state.hosts)) > 0
    candidates = [h for h in _in_use(state) if number[h] and not stuck[h] and not state.holds_others[h]]
    by_load = _by_load(state, candidates)
    size = state.usable_memory
    orders = (
        sorted(by_load, key=lambda host: number[host]),
        by_load,
        sorted(by_load, key=lambda host: (size[host], number[host])),
    )
    best: list[Unit] = []
    hosts = 0
    trials = _TRIALS
    for order in orders:
        for k in range(_limit(state, order, number, most), max(hosts, 1) - 1, -1):
            trials -= 1
            found = _empty_all(state, order[:k], free, most) if trials >= 0 else None
            if found is None:
                continue
            if k > hosts or _price(state, found) < _price(state, best):
                best, hosts = found, k
            break
    return best


def _price(state: State, units: Sequence[Unit]) -> tuple[int, float]:
    """Moves, then cost."""
    return count(units), round(sum(state.cost_of(*move) for unit in units for move in unit.moves), 12)


def _limit(state: State, order: Sequence[int], number: Ints, most: int) -> int:
    """How many hosts of this order the others could take in, as far as sizes tell."""
    in_use = _in_use(state)
    moves = np.cumsum(number[list(order)])
    found = int(np.searchsorted(moves, most, side="right"))
    for usable, used in ((state.usable_memory, state.used_memory), (state.usable_cpu, state.used_cpu)):
        spare = float(usable[in_use].sum() - used[in_use].sum())
        found = min(found, int(np.searchsorted(np.cumsum(usable[list(order)]), spare, side="right")))
    return min(found, len(in_use) - 1)


def _empty_all(state: State, hosts: Sequence[int], free: Bools, most: int) -> list[Unit] | None:
    """A unit for each of these hosts, or one for all of them where VMs of other hosts must move first; None when they
    cannot all be emptied. The largest VMs are placed first."""
    targets = np.zeros(len(state.hosts), dtype=bool)
    targets[_in_use(state)] = True
    targets[list(hosts)] = False
    moves: list[tuple[int, int]] = []
    shifts: list[tuple[int, int]] = []
    complete = True
    for vm in _largest_first(state, np.flatnonzero(np.isin(state.at, list(hosts)))):
        fits = state.fits(np.array([vm]))[0] & targets
        if not fits.any():
            shift = _shift(state, vm, targets, free, shifts)
            complete = shift is not None and len(shifts) < _SHIFTS * len(hosts)
            if shift is None or not complete:
                complete = False
                break
            shifts.append(shift[0])
            state.move(*shift[0])
            moves.append((vm, shift[1]))
        else:
            moves.append((vm, fullest(state, vm, fits)))
        state.move(*moves[-1])
    undo(state, Unit((*shifts, *moves)))
    if not complete or len(moves) + len(shifts) > most:
        return None
    ordered = _by_load(state, hosts)
    if shifts:
        names = ", ".join(f'"{state.hosts[host].name}"' for host in ordered)
        return [Unit((*shifts, *moves), f"empties hosts {names}")]
    return [
        Unit(tuple(move for move in moves if state.at[move[0]] == host), f'empties host "{state.hosts[host].name}"')
        for host in ordered
    ]


def _shift(
    state: State, vm: int, targets: Bools, free: Bools, shifts: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], int] | None:
    """A VM of a host that stays in use, where it goes, and the host where that makes room for `vm`.

    All such moves come first of all, so none goes to a host that another left.
    """
    left = {int(state.origin[moved]) for moved, _ in shifts}
    entered = {host for _, host in shifts}
    open_ = targets & state.allowed[state.table.row_of[vm]]
    for host in np.flatnonzero(open_).tolist():
        if host in entered:
            continue
        there = np.flatnonzero((state.at == host) & (state.at == state.origin) & ~state.grouped & free)
        enough = (state.cpu[there] + state.free_cpu[host] >= state.cpu[vm]) & (
            state.memory[there] + state.free_memory[host] >= state.memory[vm]
        )
        for other in sorted(there[enough].tolist(), key=lambda w: (state.memory[w], w))[:4]:
            fits = state.fits(np.array([other]))[0] & targets
            fits[list(left)] = False
            if not fits.any():
                continue
            goal = fullest(state, other, fits)
            state.move(other, goal)
            enters = bool(state.fits(np.array([vm]))[0, host])
            state.move(other, host)
            if enters:
                return (other, goal), host
    return None


def _empty(state: State, host: int, there: Ints, kept: dict[int, tuple[str, str]]) -> Unit | None:
    """All VMs of the host to the fullest hosts that take them, the largest first."""
    moves: list[tuple[int, int]] = []
    targets = state.active & (state.used_memory + state.used_cpu > 0)
    targets[host] = False
    for vm in _largest_first(state, there):
        fits = state.fits(np.array([vm]))[0] & targets
        if not fits.any():
            undo(state, Unit(tuple(moves)))
            kept[host] = ("NO_ROOM_ELSEWHERE", f'no other host that is in use takes VM "{state.vms[vm].name}"')
            return None
        moves.append((vm, fullest(state, vm, fits)))
        state.move(*moves[-1])
    unit = Unit(tuple(moves), f'empties host "{state.hosts[host].name}"')
    undo(state, unit)
    return unit if _pays(state, unit, kept) else None


def _pays(state: State, unit: Unit, kept: Kept) -> bool:
    """Whether the hosts that become free are worth the moves."""
    hosts = {int(state.at[vm]) for vm, _ in unit.moves} - {target for _, target in unit.moves}
    gain, cost = len(hosts) / state.count, sum(state.cost_of(vm, target) for vm, target in unit.moves)
    settings = state.settings
    if gain >= settings.min_gain and state.worth(gain, cost) > 0:
        return True
    for host in hosts:
        kept[host] = (
            "NOT_WORTH_IT",
            "emptying it costs more than a free host is worth (drs.cost.weight, drs.min.gain)",
        )
    return False


def _largest_first(state: State, vms: Ints) -> list[int]:
    return sorted(vms.tolist(), key=lambda vm: (-state.memory[vm], -state.cpu[vm], vm))


def fullest(state: State, vm: int, fits: Bools) -> int:
    """Best fit, without moving disks if possible."""
    share = state.used_memory / np.maximum(state.usable_memory, 1)
    candidates = np.flatnonzero(fits)
    motion = state.table.motion[state.table.row_of[vm]][candidates]
    order = np.lexsort((candidates, -share[candidates], motion))
    return int(candidates[order[0]])
