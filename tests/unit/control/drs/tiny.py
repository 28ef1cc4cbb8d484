"""Clusters and plans as text.

A line a host: `h1 16: a=4 b=2,web` is a host of 16 GiB with VMs of 4 and 2 GiB, the second in group web. Words after
the size of a host or VM: `off`, `maintenance`, `asleep`, `encryption`; `skip`, `encrypted`, `busy`, `protected`; any
other of a VM is a group.
Every VM has 100 MHz for each GiB, every host twice what that makes. `apart web`, `together! db`: rules of groups, with
! strict. `on! web h1 h2`, `off web h1`: on those hosts, or off them.
"""

from __future__ import annotations

from typing import Any

from ostler_control.drs import Group, GroupKind, Host, Plan, Settings, Snapshot, Vm

GIB = 1 << 30
_KINDS = {
    "apart": GroupKind.ANTI_AFFINITY,
    "together": GroupKind.AFFINITY,
    "on": GroupKind.RUN_ON,
    "off": GroupKind.NOT_RUN_ON,
}


def cluster(text: str) -> Snapshot:
    hosts, vms, groups = [], [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        head, _, tail = line.partition(":")
        if head.split()[0].rstrip("!") in _KINDS:
            word, name, *named = head.split()
            groups.append(Group(name, name, _KINDS[word.rstrip("!")], word.endswith("!"), frozenset(named)))
            continue
        name, size, *words = head.split()
        hosts.append(
            Host(
                name,
                name,
                int(float(size) * 200),
                int(float(size) * GIB),
                maintenance="maintenance" in words or "asleep" in words,
                state="disconnected" if "off" in words else "up",
                encryption="encryption" in words,
                asleep="asleep" in words,
            )
        )
        for vm in tail.split():
            name_and_size, *tags = vm.split(",")
            vm_name, _, vm_size = name_and_size.partition("=")
            vms.append(
                Vm(
                    vm_name,
                    vm_name,
                    name,
                    int(float(vm_size) * 100),
                    int(float(vm_size) * GIB),
                    encrypted="encrypted" in tags,
                    skip="skip" in tags,
                    movable="busy" not in tags,
                    protected="protected" in tags,
                    groups=tuple(tag for tag in tags if tag not in ("encrypted", "skip", "busy", "protected")),
                )
            )
    return Snapshot(tuple(hosts), tuple(vms), tuple(groups))


def moves(plan: Plan) -> str:
    """`a h1>h2, b h1>h3`."""
    return ", ".join(f"{move.vm_name} {move.source_name}>{move.destination_name}" for move in plan.moves)


def perfect(**changes: Any) -> Settings:
    """No imbalance allowed, and moves cost nothing."""
    return Settings(**{"imbalance": 1.0, "cost_weight": 0.0, **changes})
