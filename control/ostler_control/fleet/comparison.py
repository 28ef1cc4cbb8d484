"""Compares what hosts report with the rows of VMs, and records what differs."""

from __future__ import annotations

from collections.abc import Iterable

from ostler_control.fleet import leftovers, store
from ostler_control.fleet.leftovers import Leftovers
from ostler_control.fleet.reconcile import HostView, Seen, reconcile, unmanaged
from ostler_control.hosts import absences


class Comparison:
    """What earlier comparisons have found counts in the next one."""

    def __init__(self) -> None:
        self._strays: set[tuple[str, str]] = set()
        self._leftovers = Leftovers()
        self._written: dict[str, dict[str, Seen]] = {}

    def write(self, dirty: set[str], views: dict[str, HostView]) -> None:
        """Compares the VMs of the dirty hosts, and records the verdicts. Runs in the worker thread."""
        seen_here = {vm_id for host_id in dirty for vm_id in views[host_id].vms or {}}
        # For most of the hosts it is cheaper to read every VM than to name them.
        rows = store.vm_rows(None if len(dirty) > len(views) / 2 else sorted(dirty), seen_here)
        store.apply(reconcile(rows, views, absences.of))
        known = frozenset(row.vm_id for row in rows)
        strays = set()
        left = leftovers.left_elsewhere(rows, views, dirty)
        self._read_written([host_id for host_id in dirty if views[host_id].heard])
        for host_id in sorted(dirty):
            view = views[host_id]
            if not view.heard:
                continue
            found = unmanaged(view, known)
            # A managed VM without a row is mostly one being deleted now: it counts once it is there twice.
            ours = {(host_id, vm_id) for vm_id, seen in found.items() if seen.managed}
            strays |= ours
            found = {
                vm_id: seen for vm_id, seen in found.items() if not seen.managed or (host_id, vm_id) in self._strays
            }
            left += leftovers.left_of_strays(view, [vm_id for vm_id, seen in found.items() if seen.managed])
            if self._written.get(host_id) != found:
                store.set_unmanaged(view, found)
                self._written[host_id] = found
        self._strays = {stray for stray in self._strays if stray[0] not in dirty} | strays
        self._leftovers.delete(left)

    def _read_written(self, host_ids: Iterable[str]) -> None:
        """Hosts that are heard for the first time mostly have nothing recorded: one statement for all of them."""
        if first := [host_id for host_id in host_ids if host_id not in self._written]:
            having = store.having_unmanaged(first)
            self._written.update((host_id, {}) for host_id in first if host_id not in having)

    def forget(self, host_ids: Iterable[str]) -> None:
        """For hosts that are not watched any more."""
        for host_id in host_ids:
            self._written.pop(host_id, None)
