"""Settings that limit what an account may own."""

from __future__ import annotations

from ostler_control.settings.kinds import integer
from ostler_control.settings.scopes import PER_ACCOUNT
from ostler_control.settings.setting import Setting

UNLIMITED = -1


def _quota(name: str, unit: str, description: str) -> Setting[int]:
    return Setting(name, integer(UNLIMITED, 1 << 40, unit), str(UNLIMITED), f"{description} -1: no limit.", PER_ACCOUNT)


VMS = _quota("quota.vms", "VMs", "The most VMs that an account may have, running or not.")
CPUS = _quota("quota.cpus", "virtual CPUs", "The most virtual CPUs that the VMs of an account may have together.")
MEMORY = _quota("quota.memory", "MiB", "The most memory that the VMs of an account may have together.")
VOLUMES = _quota("quota.volumes", "volumes", "The most volumes that an account may have, root disks included.")
STORAGE = _quota("quota.storage", "GiB", "The most that the volumes of an account may hold together.")
SNAPSHOTS = _quota("quota.snapshots", "snapshots", "The most snapshots that an account may have.")

SETTINGS = (VMS, CPUS, MEMORY, VOLUMES, STORAGE, SNAPSHOTS)
