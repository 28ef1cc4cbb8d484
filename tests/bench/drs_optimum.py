"""The best that any plan of so many moves could do, by HiGHS (`pip install ostler[bench]`).

For hosts of one size the imbalance is least where the sum of squares of their loads is. A square is replaced by its
tangents at half-integers, which is exact because loads are whole multiples of what all VM sizes share. Equal VMs of one
host are one integer for each destination: few flavors make small models. Whether the moves can be put in an order is
not asked, so the answer may be a little better than any plan.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import highspy
from ostler_control.drs import Settings, Snapshot
from ostler_control.drs.algorithms import algorithm
from ostler_control.drs.state import State

_ROUNDS = 3


@dataclass(frozen=True)
class Best:
    """imbalance and cost of the best end; proved: whether the solver proved it, otherwise it is a bound that no plan
    beats."""

    imbalance: float
    cost: float
    proved: bool


def least_imbalance(snapshot: Snapshot, most: int, time_limit_s: float) -> tuple[float, bool]:
    """The least imbalance with at most so many moves, and whether it was proved within the time.

    All hosts must be alike, all groups anti-affinity.
    """
    found = _Model(snapshot, most, time_limit_s, costs=False).solve(1.0, 0.0)
    return found.imbalance, found.proved


def least_total(snapshot: Snapshot, most: int, weight: float, time_limit_s: float, start: float) -> Best:
    """The least imbalance + weight x cost found by descending along tangents of the root. start: an imbalance that can
    be reached, from which it sets out."""
    model = _Model(snapshot, most, time_limit_s, costs=True)
    best: Best | None = None
    at = max(start, 1e-3)
    for _ in range(_ROUNDS):
        # d imbalance / d squares at this imbalance.
        slope = 1.0 / (2.0 * at * model.mean * model.mean * len(snapshot.hosts))
        found = model.solve(slope, weight)
        if best is None or found.imbalance + weight * found.cost < best.imbalance + weight * best.cost - 1e-12:
            best = found
        elif abs(found.imbalance - at) < 1e-9:
            break
        at = max(found.imbalance, 1e-3)
    assert best is not None
    return best


class _Model:
    def __init__(self, snapshot: Snapshot, most: int, time_limit_s: float, *, costs: bool) -> None:
        hosts, vms = snapshot.hosts, snapshot.vms
        self.hosts = len(hosts)
        state = State(snapshot, Settings(), algorithm("balanced"))
        cost_of = {vm.id: float(cost) if costs else 0.0 for vm, cost in zip(state.vms, state.cost, strict=True)}
        self.unit = unit = math.gcd(*(vm.memory_bytes for vm in vms))
        usable = (hosts[0].memory_bytes - hosts[0].reserved_memory_bytes) // unit
        position = {host.id: index for index, host in enumerate(hosts)}
        kinds = Counter(
            (position[vm.host_id], vm.memory_bytes // unit, vm.cpu_mhz, round(cost_of[vm.id], 12), vm.groups)
            for vm in vms
        )
        self.model = model = cast(Any, highspy).Highs()  # it has no types
        model.silent()
        model.setOptionValue("time_limit", time_limit_s)
        model.setOptionValue("mip_rel_gap", 0.0)
        model.setOptionValue("mip_abs_gap", 1e-9)
        model.setOptionValue("threads", 1)
        load: list[Any] = [0] * self.hosts
        cpu: list[Any] = [0] * self.hosts
        members: dict[tuple[str, int], Any] = {}
        moved: Any = 0
        cost: Any = 0
        for (source, size, mhz, price, groups), number in kinds.items():
            row = [model.addVariable(lb=0, ub=number, type=highspy.HighsVarType.kInteger) for _ in hosts]
            model.addConstr(sum(row[1:], 1 * row[0]) == number)
            moved = moved + number - row[source]
            cost = cost + price * number - price * row[source]
            for host, here in enumerate(row):
                load[host] = load[host] + size * here
                cpu[host] = cpu[host] + mhz * here
                for group in groups:
                    members[group, host] = members.get((group, host), 0) + here
        model.addConstr(moved <= most)
        for together in members.values():
            model.addConstr(together <= 1)
        self.squares = [model.addVariable(lb=0) for _ in hosts]
        for host, square in enumerate(self.squares):
            model.addConstr(load[host] <= usable)
            model.addConstr(cpu[host] <= hosts[0].cpu_mhz - hosts[0].reserved_cpu_mhz)
            for k in range(int(usable)):
                model.addConstr(square >= (2 * k + 1) * load[host] - k * (k + 1))
        self.cost = cost
        self.total = sum(vm.memory_bytes // unit for vm in vms)
        self.mean = self.total / self.hosts

    def solve(self, slope: float, weight: float) -> Best:
        """Least slope x squares + weight x cost."""
        model = self.model
        squares = sum(self.squares[1:], 1 * self.squares[0])
        model.minimize(slope * squares + weight * self.cost if weight else squares)
        proved = model.getModelStatus() == highspy.HighsModelStatus.kOptimal
        cost = 0.0
        if weight:
            cost = float(model.val(self.cost))
            found = sum(round(model.val(square)) for square in self.squares)
        else:
            info = model.getInfo()
            found = round(info.objective_function_value) if proved else info.mip_dual_bound
        variance = max(max(found, self.total**2 / self.hosts) / self.hosts - self.mean**2, 0.0)
        return Best(float(math.sqrt(variance) / self.mean), cost, bool(proved))


def fewest_hosts(snapshot: Snapshot, time_limit_s: float) -> tuple[int, int] | None:
    """How many hosts can be free of VMs at most, and the fewest moves to that; None when it was not proved in time.

    Only CPUs and memory are looked at. Hosts that hold others cannot be free.
    """
    hosts = snapshot.hosts
    unit = math.gcd(*(vm.memory_bytes for vm in snapshot.vms))
    position = {host.id: index for index, host in enumerate(hosts)}
    kinds = Counter((position[vm.host_id], vm.memory_bytes // unit, vm.cpu_mhz) for vm in snapshot.vms)
    model = cast(Any, highspy).Highs()
    model.silent()
    for name, value in (("time_limit", time_limit_s), ("threads", 1), ("mip_rel_gap", 0.0)):
        model.setOptionValue(name, value)
    used = [model.addBinary() for _ in hosts]
    load: list[Any] = [0] * len(hosts)
    cpu: list[Any] = [0] * len(hosts)
    moves: Any = 0
    for (source, size, mhz), number in kinds.items():
        row = [model.addVariable(lb=0, ub=number, type=highspy.HighsVarType.kInteger) for _ in hosts]
        model.addConstr(sum(row[1:], 1 * row[0]) == number)
        moves = moves + number - row[source]
        for host, here in enumerate(row):
            load[host] = load[host] + size * here
            cpu[host] = cpu[host] + mhz * here
    for index, one in enumerate(hosts):
        if one.other_memory_bytes:
            model.addConstr(used[index] >= 1)
        free_bytes = one.memory_bytes - one.reserved_memory_bytes - one.other_memory_bytes
        model.addConstr(load[index] <= (free_bytes // unit) * used[index])
        model.addConstr(cpu[index] <= (one.cpu_mhz - one.reserved_cpu_mhz - one.other_cpu_mhz) * used[index])
    each = len(snapshot.vms) + 1
    model.minimize(each * sum(used[1:], 1 * used[0]) + moves)
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    count, least = divmod(round(model.getInfo().objective_function_value), each)
    return len(hosts) - count, least
