"""Snapshots of whole VMs: all disks at one moment, each a snapshot of its volume, created and deleted together.

As in `snapshots`, the request functions work within the caller's transaction.
"""

from ostler_control.vm_snapshots.create import NewVmSnapshot, create
from ostler_control.vm_snapshots.delete import delete
from ostler_control.vm_snapshots.revert import revert
from ostler_control.vm_snapshots.schedules import NewSchedule, create_schedule, delete_schedule

__all__ = ["NewSchedule", "NewVmSnapshot", "create", "create_schedule", "delete", "delete_schedule", "revert"]
