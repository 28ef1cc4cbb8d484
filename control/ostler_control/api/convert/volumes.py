"""Volumes, snapshots and their schedules."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import snapshot_pb2, volume_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_common.io_limits import to_message

from ostler_control import labels
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.lookups import by_id, name_of, shown_to
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.catalog import disk_io
from ostler_control.keys.versions import versions_of
from ostler_control.models import (
    Account,
    DiskOffering,
    Pool,
    Snapshot,
    SnapshotConsistency,
    SnapshotSchedule,
    Vm,
    VmSnapshot,
    VmSnapshotDisk,
    Volume,
)


def volumes(rows: Sequence[Volume], caller: Caller) -> list[volume_pb2.Volume]:
    accounts = by_id(Account, (row.account_id for row in rows), Account.name)
    pools = by_id(Pool, (row.pool_id for row in rows))
    offerings = by_id(DiskOffering, (row.disk_offering_id for row in rows), DiskOffering.name)
    vms = by_id(Vm, (row.vm_id for row in rows), Vm.name)
    shown = shown_to(caller)
    io = disk_io.of_volumes(rows)
    keys = versions_of(row.passphrase_id for row in rows) if caller.is_admin else {}
    own_labels = labels.of_objects(Volume, [row.id for row in rows])
    return [
        volume_pb2.Volume(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=name_of(accounts, row.account_id),
            state=to_enum(volume_pb2.Volume.State, "", row.state),
            pool_id=row.pool_id,
            pool_name=name_of(pools, row.pool_id),
            disk_offering_name=name_of(offerings, row.disk_offering_id),
            size_bytes=row.size_bytes,
            format=to_enum(types_volume_pb2.DiskFormat, "DISK_FORMAT_", row.format),
            encrypt_format=to_enum(types_volume_pb2.EncryptFormat, "ENCRYPT_FORMAT_", row.encrypt_format),
            provisioning=to_enum(types_volume_pb2.Provisioning, "PROVISIONING_", row.provisioning),
            root=row.root,
            vm_id=row.vm_id,
            vm_name=name_of(vms, row.vm_id),
            slot=row.slot,
            state_reason=shown(row.state_reason),
            create_time=timestamp(row.create_time),
            path=_path(pools[row.pool_id], row.file_id) if caller.is_admin else "",
            labels=own_labels.get(row.id, {}),
            limits=to_message(io[row.id].limits) if io[row.id].limits else None,
            own_limits=io[row.id].limits_are_own,
            key_version=keys.get(row.passphrase_id, ""),
        )
        for row in rows
    ]


def _path(pool: Pool, file_id: str) -> str:
    return f"{pool.path.rstrip('/')}/{file_id}" if pool.path else ""


def volume(row: Volume, caller: Caller) -> volume_pb2.Volume:
    return volumes([row], caller)[0]


def snapshots(rows: Sequence[Snapshot], caller: Caller) -> list[snapshot_pb2.Snapshot]:
    accounts = by_id(Account, (row.account_id for row in rows))
    pools = by_id(Pool, (row.pool_id for row in rows))
    volumes = by_id(Volume, (row.volume_id for row in rows), Volume.name)
    shown = shown_to(caller)
    own = labels.of_objects(Snapshot, [row.id for row in rows])
    known = {
        found.snapshot_id: found
        for found in SnapshotConsistency.select().where(SnapshotConsistency.snapshot.in_([row.id for row in rows]))
    }
    keys = versions_of(row.passphrase_id for row in rows) if caller.is_admin else {}
    parts = VmSnapshotDisk.select(VmSnapshotDisk, VmSnapshot).join(VmSnapshot)
    parts = parts.where(VmSnapshotDisk.snapshot.in_([row.id for row in rows]))
    wholes = {part.snapshot_id: part.vm_snapshot for part in parts}
    return [
        snapshot_pb2.Snapshot(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=name_of(accounts, row.account_id),
            state=to_enum(snapshot_pb2.Snapshot.State, "", row.state),
            state_reason=shown(row.state_reason),
            volume_id=row.volume_id,
            volume_name=name_of(volumes, row.volume_id),
            pool_id=row.pool_id,
            pool_name=name_of(pools, row.pool_id),
            size_bytes=row.size_bytes,
            format=to_enum(types_volume_pb2.DiskFormat, "DISK_FORMAT_", row.format),
            encrypt_format=to_enum(types_volume_pb2.EncryptFormat, "ENCRYPT_FORMAT_", row.encrypt_format),
            schedule_id=row.schedule_id or "",
            online=row.online,
            create_time=timestamp(row.create_time),
            labels=own.get(row.id, {}),
            key_version=keys.get(row.passphrase_id, ""),
            consistency=to_enum(
                types_volume_pb2.Consistency, "CONSISTENCY_", known[row.id].consistency if row.id in known else ""
            ),
            consistency_reason=known[row.id].reason if row.id in known else "",
            vm_snapshot_id=wholes[row.id].id if row.id in wholes else "",
            vm_snapshot_name=wholes[row.id].name if row.id in wholes else "",
        )
        for row in rows
    ]


def snapshot(row: Snapshot, caller: Caller) -> snapshot_pb2.Snapshot:
    return snapshots([row], caller)[0]


def snapshot_schedules(rows: Sequence[SnapshotSchedule], caller: Caller) -> list[snapshot_pb2.SnapshotSchedule]:
    volumes = by_id(Volume, (row.volume_id for row in rows), Volume.name)
    shown = shown_to(caller)
    own = labels.of_objects(SnapshotSchedule, [row.id for row in rows])
    return [
        snapshot_pb2.SnapshotSchedule(
            id=row.id,
            volume_id=row.volume_id,
            volume_name=name_of(volumes, row.volume_id),
            interval=to_enum(snapshot_pb2.SnapshotSchedule.Interval, "", row.interval),
            minute=row.minute,
            hour=row.hour,
            day=row.day,
            keep=row.keep,
            next_time=timestamp(row.next_time),
            last_error=shown(row.last_error),
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]
