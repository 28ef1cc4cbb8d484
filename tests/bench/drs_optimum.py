"""The best that any plan of so many moves could do, by HiGHS (`pip install ostler[bench]`).

For hosts of one size the imbalance is least where the sum of squares of their loads is. A square is replaced by its
tangents at half-integers, which is exact because loads are whole GiB; each VM that leaves its host counts as a move.
"""

from __future__ import annotations

import math
from typing import Any, cast

import highspy
from ostler_control.drs import Snapshot

GIB = 1 << 30


def least_imbalance(snapshot: Snapshot, most: int, time_limit_s: float) -> tuple[float, bool]:
    """The least imbalance with at most so many moves, and whether it was proved within the time.

    All hosts must be alike, all VMs of whole GiB, all groups anti-affinity. An unproved answer is the solver's lower
    bound: no plan is better.
    """
    hosts, vms = snapshot.hosts, snapshot.vms
    capacity = (hosts[0].memory_bytes - hosts[0].reserved_memory_bytes) // GIB
    sizes = [vm.memory_bytes // GIB for vm in vms]
    position = {host.id: index for index, host in enumerate(hosts)}
    model = cast(Any, highspy).Highs()  # it has no types
    model.silent()
    model.setOptionValue("time_limit", time_limit_s)
    model.setOptionValue("mip_rel_gap", 0.0)
    model.setOptionValue("threads", 1)
    place = [[model.addBinary() for _ in hosts] for _ in vms]
    squares = [model.addVariable(lb=0) for _ in hosts]
    for row in place:
        model.addConstr(sum(row[1:], row[0]) == 1)
    # The greatest load that could be: what is there now, and as many of the largest VMs as may move.
    for host, square in enumerate(squares):
        load = sum(
            (size * row[host] for size, row in zip(sizes[1:], place[1:], strict=True)), sizes[0] * place[0][host]
        )
        model.addConstr(load <= capacity)
        for k in range(int(capacity)):
            model.addConstr(square >= (2 * k + 1) * load - k * (k + 1))
    stays = sum(
        (row[position[vm.host_id]] for row, vm in zip(place[1:], vms[1:], strict=True)),
        1 * place[0][position[vms[0].host_id]],
    )
    model.addConstr(stays >= len(vms) - most)
    for group in snapshot.groups:
        members = [index for index, vm in enumerate(vms) if group.id in vm.groups]
        for host in range(len(hosts)):
            if len(members) > 1:
                model.addConstr(sum((place[member][host] for member in members[1:]), 1 * place[members[0]][host]) <= 1)
    model.minimize(sum(squares[1:], 1 * squares[0]))
    info = model.getInfo()
    proved = model.getModelStatus() == highspy.HighsModelStatus.kOptimal
    total = sum(sizes)
    least = info.objective_function_value if proved else max(info.mip_dual_bound, total**2 / len(hosts))
    mean = total / len(hosts)
    variance = max(round(least) / len(hosts) - mean * mean, 0.0) if proved else max(least / len(hosts) - mean**2, 0.0)
    return float(math.sqrt(variance) / mean), bool(proved)
