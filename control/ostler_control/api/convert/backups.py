"""Backups and their stores."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import backup_pb2 as pb
from ostler.types.v1.volume_pb2 import Consistency
from peewee import fn

from ostler_control import labels
from ostler_control.api.convert import fleet
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.lookups import by_id, name_of, shown_to
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.models import (
    Account,
    Backup,
    BackupBoot,
    BackupConsistency,
    BackupDisk,
    BackupFirmwareState,
    BackupIncrement,
    BackupSchedule,
    Pool,
    Vm,
    tuples,
)
from ostler_control.vm_backups.files import Part


def backups(rows: Sequence[Backup], caller: Caller) -> list[pb.Backup]:
    accounts = by_id(Account, (row.account_id for row in rows))
    pools = by_id(Pool, (row.pool_id for row in rows))
    shown = shown_to(caller)
    known = {
        found.backup_id: found
        for found in BackupConsistency.select().where(BackupConsistency.backup.in_([row.id for row in rows]))
    }
    boots = {
        boot.backup_id: boot for boot in BackupBoot.select().where(BackupBoot.backup.in_([row.id for row in rows]))
    }
    states = {
        state.backup_id: state
        for state in BackupFirmwareState.select(
            BackupFirmwareState.backup, BackupFirmwareState.copy_time, BackupFirmwareState.problem
        ).where(BackupFirmwareState.backup.in_([row.id for row in rows]))
    }
    labeled = labels.of_objects(Backup, [row.id for row in rows])
    found_disks = list(
        BackupDisk.select().where(BackupDisk.backup.in_([row.id for row in rows])).order_by(BackupDisk.slot)
    )
    reasons, parents = _chains(found_disks)
    disks: dict[str, list[pb.BackupDisk]] = {}
    for disk in found_disks:
        shown_disk = _disk(disk, parents.get(disk.id), shown(reasons.get(disk.id, "")))
        disks.setdefault(disk.backup_id, []).append(shown_disk)
    return [
        pb.Backup(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=name_of(accounts, row.account_id),
            state=to_enum(pb.Backup.State, "", row.state),
            state_reason=shown(row.state_reason),
            vm_id=row.vm_id,
            vm_name=row.vm_name,
            store_name=name_of(pools, row.pool_id),
            online=row.online,
            stored_bytes=sum(disk.file_size_bytes for disk in disks.get(row.id, [])),
            disks=disks.get(row.id, []),
            verify_time=timestamp(row.verify_time),
            verify_error=shown(row.verify_error),
            create_time=timestamp(row.create_time),
            consistency=to_enum(Consistency, "CONSISTENCY_", known[row.id].consistency if row.id in known else ""),
            consistency_reason=known[row.id].reason if row.id in known else "",
            boot_time=timestamp(boots[row.id].create_time) if row.id in boots else None,
            boot_sign=boots[row.id].sign if row.id in boots else "",
            boot_error=shown(boots[row.id].error) if row.id in boots else "",
            firmware_state_time=timestamp(states[row.id].copy_time) if row.id in states else None,
            firmware_state_problem=shown(states[row.id].problem) if row.id in states else "",
            labels=labeled.get(row.id, {}),
        )
        for row in rows
    ]


def backup(row: Backup, caller: Caller) -> pb.Backup:
    return backups([row], caller)[0]


def _chains(disks: Sequence[BackupDisk]) -> tuple[dict[str, str], dict[str, Backup]]:
    """By a disk's id: why it is full, and the backup that it builds on."""
    rows = list(BackupIncrement.select().where(BackupIncrement.disk.in_([disk.id for disk in disks])))
    above = by_id(BackupDisk, (row.parent_id for row in rows if row.parent_id))
    backups_above = by_id(Backup, (disk.backup_id for disk in above.values()))
    parents = {row.disk_id: backups_above[above[row.parent_id].backup_id] for row in rows if row.parent_id}
    return {row.disk_id: row.full_reason for row in rows}, parents


def _disk(row: BackupDisk, parent: Backup | None, full_reason: str) -> pb.BackupDisk:
    return pb.BackupDisk(
        slot=row.slot,
        root=row.root,
        volume_id=row.volume_id,
        volume_name=row.volume_name,
        size_bytes=row.size_bytes,
        encrypted=row.encrypted,
        file_size_bytes=row.file_size_bytes,
        sha256=row.sha256,
        parent_backup_id=parent.id if parent else "",
        parent_backup_name=parent.name if parent else "",
        full_reason="" if parent else full_reason,
    )


def schedules(rows: Sequence[BackupSchedule], caller: Caller) -> list[pb.BackupSchedule]:
    vms = by_id(Vm, (row.vm_id for row in rows))
    shown = shown_to(caller)
    own = labels.of_objects(BackupSchedule, [row.id for row in rows])
    return [
        pb.BackupSchedule(
            id=row.id,
            vm_id=row.vm_id,
            vm_name=name_of(vms, row.vm_id),
            interval=to_enum(pb.BackupSchedule.Interval, "", row.interval),
            minute=row.minute,
            hour=row.hour,
            day=row.day,
            keep=pb.BackupRetention(
                last=row.keep_last, daily=row.keep_daily, weekly=row.keep_weekly, monthly=row.keep_monthly
            ),
            next_time=timestamp(row.next_time),
            last_error=shown(row.last_error),
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]


def stores(rows: Sequence[Pool]) -> list[pb.BackupStore]:
    """The stores of these pools."""
    counts = Backup.select(Backup.pool, fn.COUNT(Backup.id)).where(Backup.pool.in_([row.id for row in rows]))
    held = dict(tuples(counts.group_by(Backup.pool), tuple[str, int]))
    return [
        pb.BackupStore(
            id=pool.id,
            name=pool.name,
            type=pool.type,
            path=pool.path,
            source=pool.source,
            scope_name=pool.scope_name,
            capacity_bytes=pool.capacity_bytes,
            available_bytes=pool.available_bytes,
            backups=held.get(pool.id, 0),
            labels=pool.labels,
        )
        for pool in fleet.pools(rows)
    ]


def files(part: Part) -> pb.ReadBackupFilesResponse:
    """A part of what was found in a backup."""
    found = part.found
    return pb.ReadBackupFilesResponse(
        phase=found.phase,
        file_systems=found.file_systems,
        files=found.files,
        more=found.more,
        archive=found.archive,
        size_bytes=found.size_bytes,
        data=found.data,
        complete=found.complete,
        sha256=part.sha256,
    )
