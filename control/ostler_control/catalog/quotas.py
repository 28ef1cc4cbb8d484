"""Quotas: how much an account may own, checked in the transaction that records what it is to own.

What is under way counts, too: a volume that is growing, or is getting a larger file, counts with the larger size.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, fields

from ostler_common.errors import ResourceExhaustedError
from ostler_common.units import format_size
from peewee import Case, fn

from ostler_control import settings
from ostler_control.catalog.row_limits import check_rows
from ostler_control.database import is_sqlite
from ostler_control.models import (
    Account,
    Backup,
    Operation,
    OperationState,
    Snapshot,
    Vm,
    Volume,
    VolumeFile,
    first_tuple,
    tuples,
)
from ostler_control.settings.quotas import CPUS, MEMORY, SNAPSHOTS, STORAGE, UNLIMITED, VMS, VOLUMES


@dataclass(frozen=True)
class Resources:
    """What an account owns, or is about to own."""

    vms: int = 0
    cpus: int = 0
    memory_bytes: int = 0
    volumes: int = 0
    storage_bytes: int = 0
    snapshots: int = 0

    def get(self, resource: str) -> int:
        """One of them by the name of its field."""
        value: int = getattr(self, resource)
        return value


RESOURCES = tuple(field.name for field in fields(Resources))
_SETTINGS = {
    "vms": (VMS, 1),
    "cpus": (CPUS, 1),
    "memory_bytes": (MEMORY, 1 << 20),
    "volumes": (VOLUMES, 1),
    "storage_bytes": (STORAGE, 1 << 30),
    "snapshots": (SNAPSHOTS, 1),
}
_NOUNS = {
    "vms": "VMs",
    "cpus": "virtual CPUs",
    "memory_bytes": "of memory",
    "volumes": "volumes",
    "storage_bytes": "of storage",
    "snapshots": "snapshots and backups",
}


def check_quota(account_id: str, wanted: Resources) -> None:
    """Refuses what would exceed a quota; locks the account's row until the caller's transaction ends.

    The caller records what is wanted in the same transaction, so that concurrent requests never exceed a quota
    together. It locks rows of VMs and volumes before. Raises ResourceExhaustedError QUOTA_EXCEEDED, TOO_MANY_OBJECTS.
    """
    for model, count in ((Vm, wanted.vms), (Volume, wanted.volumes), (Snapshot, wanted.snapshots)):
        if count > 0:
            check_rows(model, account_id)
    limits = find_limits(account_id)
    limited = [resource for resource in RESOURCES if wanted.get(resource) > 0 and resource in limits]
    if not limited:
        return
    _lock(account_id)
    used = find_usage([account_id])[account_id]
    for resource in limited:
        if used.get(resource) + wanted.get(resource) > limits[resource]:
            raise _exceeded(resource, used.get(resource), wanted.get(resource), limits[resource])


def find_limits(account_id: str) -> dict[str, int]:
    """The quotas of an account by resource; resources without one are left out."""
    at = settings.At(account_id=account_id)
    found = settings.in_force([setting for setting, _ in _SETTINGS.values()], at)
    limits = {}
    for (resource, (setting, scale)), one in zip(_SETTINGS.items(), found, strict=True):
        limit = setting.kind.parse(one.value)
        if limit != UNLIMITED:
            limits[resource] = limit * scale
    return limits


def find_usage(account_ids: Collection[str]) -> dict[str, Resources]:
    """What these accounts own, by id."""
    ids = list(account_ids)
    vm_sums = Vm.select(Vm.account, fn.COUNT(Vm.id), fn.SUM(Vm.cpus), fn.SUM(Vm.memory_bytes))
    of_vms = {
        row[0]: row[1:]
        for row in tuples(vm_sums.where(Vm.account.in_(ids)).group_by(Vm.account), tuple[str, int, int, int])
    }
    volume_sums = Volume.select(Volume.account, fn.COUNT(Volume.id), fn.SUM(Volume.size_bytes))
    of_volumes = {
        row[0]: row[1:]
        for row in tuples(volume_sums.where(Volume.account.in_(ids)).group_by(Volume.account), tuple[str, int, int])
    }
    counts = Snapshot.select(Snapshot.account, fn.COUNT(Snapshot.id)).where(Snapshot.account.in_(ids))
    of_snapshots = dict(tuples(counts.group_by(Snapshot.account), tuple[str, int]))
    backups = Backup.select(Backup.account, fn.COUNT(Backup.id)).where(Backup.account.in_(ids))
    for account_id, count in tuples(backups.group_by(Backup.account), tuple[str, int]):
        of_snapshots[account_id] = of_snapshots.get(account_id, 0) + count
    growth = _find_growth(ids)
    found = {}
    for account_id in ids:
        vms, cpus, memory_bytes = of_vms.get(account_id, (0, 0, 0))
        volumes, storage_bytes = of_volumes.get(account_id, (0, 0))
        # PostgreSQL sums integers as decimals.
        found[account_id] = Resources(
            vms,
            int(cpus),
            int(memory_bytes),
            volumes,
            int(storage_bytes) + growth.get(account_id, 0),
            of_snapshots.get(account_id, 0),
        )
    return found


def _find_growth(account_ids: list[str]) -> dict[str, int]:
    """By how much the volumes of these accounts will have grown once all that is under way has ended."""
    growth: dict[str, int] = {}
    larger = Case(None, [(VolumeFile.size_bytes > Volume.size_bytes, VolumeFile.size_bytes - Volume.size_bytes)], 0)
    incoming = (
        Volume.select(Volume.account, fn.SUM(larger))
        .join(VolumeFile, on=(VolumeFile.volume_id == Volume.id))
        .where(Volume.account.in_(account_ids), VolumeFile.role == "incoming")
        .group_by(Volume.account)
    )
    for account_id, size_bytes in tuples(incoming, tuple[str, int]):
        growth[account_id] = int(size_bytes)
    growing = (
        Operation.select(Operation.account_id, Operation.inputs, Volume.size_bytes)
        .join(Volume, on=(Volume.id == Operation.resource_id))
        .where(
            Operation.account_id.in_(account_ids),
            Operation.verb == "volume.grow",
            Operation.state.in_([OperationState.PENDING, OperationState.RUNNING]),
        )
    )
    for account_id, inputs, size_bytes in tuples(growing, tuple[str, str, int]):
        growth[account_id] = growth.get(account_id, 0) + max(0, json.loads(inputs)["size_bytes"] - size_bytes)
    return growth


def _lock(account_id: str) -> None:
    """On SQLite the transaction has the whole database's lock."""
    if not is_sqlite():
        first_tuple(Account.select(Account.id).where(Account.id == account_id).for_update(), tuple[str])


def _exceeded(resource: str, used: int, wanted: int, limit: int) -> ResourceExhaustedError:
    setting, _ = _SETTINGS[resource]

    def shown(amount: int) -> str:
        return format_size(amount) if resource.endswith("_bytes") else str(amount)

    return ResourceExhaustedError(
        f"the account's quota is {shown(limit)} {_NOUNS[resource]}; it has {shown(used)}, and this needs "
        f"{shown(wanted)} more (delete something, or ask an admin to raise {setting.name})",
        "QUOTA_EXCEEDED",
        {"resource": resource, "limit": str(limit), "used": str(used), "wanted": str(wanted)},
    )
