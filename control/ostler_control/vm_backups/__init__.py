"""Backups of VMs: all disks as of one moment, in files of a store, each encrypted under a key of its own.

As in `volumes`, the request functions work within the caller's transaction.
"""

from ostler_control.vm_backups.boot import boot
from ostler_control.vm_backups.create import NewBackup, check_store, create
from ostler_control.vm_backups.delete import delete
from ostler_control.vm_backups.files import WantedFiles, read_files, relay_files
from ostler_control.vm_backups.restore_disk import NewDiskRestore, restore_disk
from ostler_control.vm_backups.restore_over import restore_over
from ostler_control.vm_backups.restore_vm import NewVmRestore, restore_vm
from ostler_control.vm_backups.retention import Retention
from ostler_control.vm_backups.schedules import NewSchedule, create_schedule, delete_schedule
from ostler_control.vm_backups.verify import verify

__all__ = [
    "NewBackup",
    "NewDiskRestore",
    "NewSchedule",
    "NewVmRestore",
    "Retention",
    "WantedFiles",
    "boot",
    "check_store",
    "create",
    "create_schedule",
    "delete",
    "delete_schedule",
    "read_files",
    "relay_files",
    "restore_disk",
    "restore_over",
    "restore_vm",
    "verify",
]
