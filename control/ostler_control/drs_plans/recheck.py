"""Does a planned move still fit the present? By the planner's own rules, against a new snapshot."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from ostler_control.drs import Placements
from ostler_control.drs_plans.snapshot import Present
from ostler_control.models import DrsMove, Vm
from ostler_control.placement.words import in_one_word


class Say(StrEnum):
    """What to do with a move now."""

    GO = "go"
    ROOM = "room"  # it does not fit yet: another move of the plan may make room
    SOON = "soon"  # something passes by itself: another operation on the VM, a host being reached again
    SKIP = "skip"  # it is of another time


@dataclass(frozen=True)
class Check:
    """The answer, and why for people."""

    say: Say
    reason: str = ""


# What other moves of the plan may change.
_ROOM = frozenset({"LACKS_CPUS", "LACKS_MEMORY", "LACKS_SPACE", "ANTI_AFFINITY", "AFFINITY"})
GO = Check(Say.GO)


class Recheck:
    """Asks about moves against one snapshot. rows: the VMs of these moves as they are, by id; leaving: ids of the hosts
    that the plan empties; binding: whether opting out counts."""

    def __init__(self, present: Present, rows: dict[str, Vm], leaving: Collection[str], binding: bool) -> None:
        self._present = present
        self._rows = rows
        self._binding = binding
        self._placements = Placements(present.snapshot, present.settings, leaving)

    def check(self, move: DrsMove) -> Check:
        """Whether this move may begin now."""
        row = self._rows.get(move.vm_id)
        if row is None:
            return Check(Say.SKIP, "the VM is gone")
        if row.host_id == move.destination_id and not row.destination_id:
            return Check(Say.SKIP, "it is there already")
        if row.operation_id or row.state == "migrating":
            return Check(Say.SOON, "something else works on the VM")
        if row.state != "running" or row.power_state not in ("running", "paused", ""):
            return Check(Say.SKIP, f"the VM is {row.state if row.state != 'running' else row.power_state}")
        if row.host_id != move.source_id:
            return Check(Say.SKIP, f"the VM is no longer on {move.source_name}")
        if self._binding and row.drs_skip:
            return Check(Say.SKIP, "the VM has opted out meanwhile")
        source = self._placements.hosts.get(move.source_id)
        target = self._placements.hosts.get(move.destination_id)
        if target is None or source is None or move.vm_id not in self._placements.vms:
            return Check(Say.SKIP, f"host {move.destination_name} is no longer in the cluster")
        for host in (source, target):
            if host.state != "up":
                say = Say.SOON if host.state == "connecting" else Say.SKIP
                return Check(say, f"host {host.name} is {host.state}")
        if not move.storage_motion and not self._placements.vms[move.vm_id].pools <= target.pools:
            return Check(Say.SKIP, f"{target.name} does not reach the storage pool")
        no = self._placements.refusal(move.vm_id, move.destination_id, preferred=False)
        if no is None:
            return GO
        why = f"{target.name}: {in_one_word(no)}"
        return Check(Say.ROOM if no.code in _ROOM else Say.SKIP, why)
