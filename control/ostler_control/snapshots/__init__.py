"""Snapshots: whole copies of volumes as they were at one moment, by hand or on a schedule.

The request functions are like those of `volumes`: they work within the caller's transaction.
"""

from ostler_control.snapshots.create import NewSnapshot, create
from ostler_control.snapshots.delete import delete
from ostler_control.snapshots.revert import revert
from ostler_control.snapshots.schedules import NewSchedule, create_schedule, delete_schedule

__all__ = ["NewSchedule", "NewSnapshot", "create", "create_schedule", "delete", "delete_schedule", "revert"]
