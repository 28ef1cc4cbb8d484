"""Snapshots of VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostler.control.v1 import vm_snapshot_pb2 as pb
from ostler.types.v1 import volume_pb2 as types
from peewee import JOIN

from ostler_control import labels
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.lookups import by_id, name_of, shown_to
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.models import (
    Account,
    Pool,
    Snapshot,
    SnapshotConsistency,
    Vm,
    VmSnapshot,
    VmSnapshotDisk,
    VmSnapshotMemory,
    VmSnapshotSchedule,
)


def vm_snapshots(rows: Sequence[VmSnapshot], caller: Caller) -> list[pb.VmSnapshot]:
    accounts = by_id(Account, (row.account_id for row in rows))
    shown = shown_to(caller)
    disks = _disks(rows)
    snapshots = [disk.snapshot_id for found in disks.values() for disk in found if disk.snapshot_id]
    pools = by_id(Pool, (disk.snapshot.pool_id for found in disks.values() for disk in found if disk.snapshot))
    known = {
        found.snapshot_id: found
        for found in SnapshotConsistency.select().where(SnapshotConsistency.snapshot.in_(snapshots))
    }
    memory = _memory(rows)
    labeled = labels.of_objects(VmSnapshot, [row.id for row in rows])
    messages = []
    for row in rows:
        own = disks.get(row.id, [])
        # All disks are of one moment.
        recorded = next((known[disk.snapshot_id] for disk in own if disk.snapshot_id in known), None)
        messages.append(
            pb.VmSnapshot(
                id=row.id,
                name=row.name,
                account_id=row.account_id,
                account_name=name_of(accounts, row.account_id),
                state=to_enum(pb.VmSnapshot.State, "", row.state),
                state_reason=shown(row.state_reason),
                vm_id=row.vm_id,
                vm_name=row.vm_name,
                online=row.online,
                consistency=to_enum(types.Consistency, "CONSISTENCY_", recorded.consistency if recorded else ""),
                consistency_reason=recorded.reason if recorded else "",
                disks=[_disk(disk, pools) for disk in own],
                create_time=timestamp(row.create_time),
                labels=labeled.get(row.id, {}),
                memory=memory.get(row.id),
            )
        )
    return messages


def vm_snapshot(row: VmSnapshot, caller: Caller) -> pb.VmSnapshot:
    return vm_snapshots([row], caller)[0]


def schedules(rows: Sequence[VmSnapshotSchedule], caller: Caller) -> list[pb.VmSnapshotSchedule]:
    vms = by_id(Vm, (row.vm_id for row in rows))
    shown = shown_to(caller)
    own = labels.of_objects(VmSnapshotSchedule, [row.id for row in rows])
    return [
        pb.VmSnapshotSchedule(
            id=row.id,
            vm_id=row.vm_id,
            vm_name=name_of(vms, row.vm_id),
            interval=to_enum(pb.VmSnapshotSchedule.Interval, "", row.interval),
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


def _disks(rows: Sequence[VmSnapshot]) -> dict[str, list[VmSnapshotDisk]]:
    query = VmSnapshotDisk.select(VmSnapshotDisk, Snapshot).join(Snapshot, JOIN.LEFT_OUTER)
    found: dict[str, list[VmSnapshotDisk]] = {}
    for disk in query.where(VmSnapshotDisk.vm_snapshot.in_([row.id for row in rows])).order_by(VmSnapshotDisk.slot):
        found.setdefault(disk.vm_snapshot_id, []).append(disk)
    return found


def _memory(rows: Sequence[VmSnapshot]) -> dict[str, pb.VmSnapshotMemory]:
    query = VmSnapshotMemory.select(VmSnapshotMemory, Pool).join(Pool)
    found = query.where(VmSnapshotMemory.vm_snapshot.in_([row.id for row in rows]))
    return {
        row.vm_snapshot_id: pb.VmSnapshotMemory(
            pool_name=row.pool.name, size_bytes=row.size_bytes, used_bytes=row.used_bytes
        )
        for row in found
    }


def _disk(row: VmSnapshotDisk, pools: Mapping[str | None, Pool]) -> pb.VmSnapshotDisk:
    message = pb.VmSnapshotDisk(slot=row.slot, root=row.root, volume_id=row.volume_id, volume_name=row.volume_name)
    snapshot = row.snapshot
    if snapshot is not None:
        message.snapshot_id, message.snapshot_name = snapshot.id, snapshot.name
        message.pool_name, message.size_bytes = name_of(pools, snapshot.pool_id), snapshot.size_bytes
        message.encrypt_format = to_enum(types.EncryptFormat, "ENCRYPT_FORMAT_", snapshot.encrypt_format)
    return message
