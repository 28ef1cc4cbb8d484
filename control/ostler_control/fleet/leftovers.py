"""Definitions of VMs on hosts that are not theirs: found in what hosts report, and given to `hosts.definitions`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from ostler_control.fleet.reconcile import HostView, VmRow
from ostler_control.hosts import definitions
from ostler_control.hosts.definitions import Left
from ostler_control.states import VmState

# Hosts are compared several times a second: each definition is not worth a query every time.
_PAUSE_S, _BUSY_PAUSE_S = 60.0, 10.0
_MAX_AT_ONCE = 8


def left_elsewhere(rows: Iterable[VmRow], hosts: Mapping[str, HostView], dirty: Iterable[str]) -> list[Left]:
    """Definitions that do not run, on these dirty hosts, of VMs that are seen where they are recorded, on another.
    Pure."""
    idle = [(host, vm_id) for host_id in sorted(dirty) if (host := hosts[host_id]).heard for vm_id in host.idle]
    if not idle:
        return []
    wanted = {row.vm_id: row for row in rows if _is_at_home(row, hosts.get(row.home))}
    return [
        Left(host.host_id, vm_id, row.name)
        for host, vm_id in idle
        if (row := wanted.get(vm_id)) is not None and host.host_id != row.home
    ]


def left_of_strays(host: HostView, vm_ids: Iterable[str]) -> list[Left]:
    """Definitions that do not run, of VMs without a row, on this host. Pure."""
    stray = [seen for vm_id in sorted(vm_ids) if (seen := host.seen(vm_id)) is not None]
    return [Left(host.host_id, seen.vm_id, seen.name) for seen in stray if seen.vm_id in host.idle]


def _is_at_home(row: VmRow, home: HostView | None) -> bool:
    if not row.quiet or row.seen_on or home is None or not home.heard:
        return False
    seen = home.seen(row.vm_id)
    if seen is None or not seen.managed:
        return False
    return row.state is VmState.STOPPED or (row.state is VmState.RUNNING and seen.power_state.is_executing)


class Leftovers:
    """Has them deleted, a few at a time, and each again only after a while. Its owner calls it from one thread."""

    def __init__(
        self,
        delete: Callable[[Left], object | None] = definitions.delete_left,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delete = delete
        self._clock = clock
        self._next_time: dict[Left, float] = {}

    def delete(self, found: Iterable[Left]) -> None:
        """One that cannot be deleted now, for an operation holds its VM, is tried again sooner than others."""
        now = self._clock()
        self._next_time = {left: due for left, due in self._next_time.items() if due > now}
        due = [left for left in found if left not in self._next_time]
        for left in due[:_MAX_AT_ONCE]:
            begun = self._delete(left) is not None
            self._next_time[left] = now + (_PAUSE_S if begun else _BUSY_PAUSE_S)
