"""The rules of `rules.py` that no plan can change, for all VMs and hosts at once.

VMs that ask for the same and hosts that offer the same are asked once: `static_refusal` is called for one pair of each
kind of VM and kind of host, so a fleet of 10,000 hosts and 200,000 VMs costs a few hundred questions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostler_control.drs.imbalance import Bools
from ostler_control.drs.model import Host, Vm
from ostler_control.drs.rules import static_refusal
from ostler_control.drs.settings import Settings

Ints = NDArray[np.int64]


def number(keys: Iterable[Hashable]) -> tuple[Ints, list[int]]:
    """Equal keys get equal numbers, from 0; and the position of the first of each."""
    numbers: dict[Hashable, int] = {}
    firsts: list[int] = []
    found = []
    for position, key in enumerate(keys):
        known = numbers.setdefault(key, len(firsts))
        if known == len(firsts):
            firsts.append(position)
        found.append(known)
    return np.array(found, dtype=np.int64), firsts


@dataclass(frozen=True)
class Table:
    """row_of: the row of each VM; codes: for row and host an index into `words` ("" is yes); motion: for row and host
    whether disks must come along."""

    row_of: Ints
    codes: NDArray[np.int16]
    motion: Bools
    words: list[str]

    @property
    def allowed(self) -> Bools:
        """For row and host, whether nothing static is in the way."""
        found: Bools = self.codes == 0
        return found


def build(vms: Sequence[Vm], hosts: Sequence[Host], at: Ints, settings: Settings) -> Table:
    """Asks `static_refusal` for each kind of pair. at: position of each VM's host; nobody asks about that one."""
    host_kind, _ = number(
        (
            h.hypervisor_type,
            h.state,
            h.enabled,
            h.maintenance,
            h.encryption,
            h.uefi,
            h.bridges,
            h.nic_filter,
            h.tpm,
            h.secure_boot,
            h.cpu_models,
        )
        for h in hosts
    )
    vm_kind, firsts = number(
        (
            vm.hypervisor_type,
            vm.encrypted,
            vm.uefi,
            vm.bridges,
            vm.nic_filter,
            vm.tpm,
            vm.secure_boot,
            vm.cpu_model,
            vm.pools,
        )
        for vm in vms
    )
    reach = _reach(hosts)
    first_at = at[firsts] if firsts else at
    one_place = np.ones(len(firsts), dtype=bool)
    one_place[vm_kind[at != first_at[vm_kind]]] = False
    words = [""]
    rows: dict[bytes, int] = {}
    codes: list[Any] = []
    motion: list[Any] = []
    row_of_kind = []
    for kind, first in enumerate(firsts):
        vm = vms[first]
        reached = np.ones(len(hosts), dtype=bool)
        for pool in vm.pools:
            reached &= reach.get(pool, False)
        if one_place[kind]:
            reached[at[first]] = False  # disks on local storage: so that all such VMs share a row
        # Hosts of one kind that reach the VM's pools answer alike, and so do those that do not.
        kind_and_reach = host_kind * 2 + reached
        code_of = np.zeros(int(kind_and_reach.max(initial=0)) + 1, dtype=np.int16)
        others = np.flatnonzero(np.arange(len(hosts)) != at[first]) if one_place[kind] else np.arange(len(hosts))
        for combination, where in zip(*np.unique(kind_and_reach[others], return_index=True), strict=True):
            refusal = static_refusal(vm, hosts[int(others[where])], settings)
            code = refusal.code if refusal else ""
            if code not in words:
                words.append(code)
            code_of[combination] = words.index(code)
        row, moved = code_of[kind_and_reach], ~reached
        key = row.tobytes() + moved.tobytes()
        if key not in rows:
            rows[key] = len(rows)
            codes.append(row)
            motion.append(moved)
        row_of_kind.append(rows[key])
    shape = (0, len(hosts))
    return Table(
        np.array(row_of_kind, dtype=np.int64)[vm_kind] if len(vms) else np.zeros(0, dtype=np.int64),
        np.array(codes) if codes else np.zeros(shape, dtype=np.int16),
        np.array(motion) if motion else np.zeros(shape, dtype=bool),
        words,
    )


def _reach(hosts: Sequence[Host]) -> dict[str, Bools]:
    """For each pool, which hosts reach it."""
    reach: dict[str, Bools] = {}
    for position, host in enumerate(hosts):
        for pool in host.pools:
            if pool not in reach:
                reach[pool] = np.zeros(len(hosts), dtype=bool)
            reach[pool][position] = True
    return reach
