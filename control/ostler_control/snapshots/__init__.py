"""Snapshots: full copies of volumes at one moment, on request or on a schedule.

As in `volumes`, the request functions work within the caller's transaction.
"""

from ostler_control.snapshots.create import NewSnapshot, create
from ostler_control.snapshots.delete import delete
from ostler_control.snapshots.forget import forget
from ostler_control.snapshots.revert import revert
from ostler_control.snapshots.schedules import NewSchedule, create_schedule, delete_schedule

__all__ = ["NewSchedule", "NewSnapshot", "create", "create_schedule", "delete", "delete_schedule", "forget", "revert"]
