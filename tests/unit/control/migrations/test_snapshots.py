"""Migrations of snapshots."""

from __future__ import annotations

import peewee
import pytest
from ostler_control import database
from ostler_control.models import (
    Account,
    Kek,
    Passphrase,
    Pool,
    ScheduledVmSnapshot,
    Snapshot,
    SnapshotConsistency,
    Vm,
    VmSnapshot,
    VmSnapshotDisk,
    VmSnapshotMemory,
    VmSnapshotSchedule,
    now,
)

from tests.unit.control.migrations.old_rows import OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_snapshots_get_what_they_are_as_good_as() -> None:
    up_to("0024_backups")
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    account = Account.create(name="a")
    old = Snapshot.create(name="old", account=account, volume_id="v", pool=pool, size_bytes=1)
    assert "0025_snapshot_consistency" in database.migrate()
    SnapshotConsistency.create(snapshot=old, consistency="crash", reason="no guest agent is connected")
    assert [(row.snapshot.name, row.consistency) for row in SnapshotConsistency.select()] == [("old", "crash")]
    Snapshot.delete().execute()
    assert SnapshotConsistency.select().count() == 0


def test_vms_get_snapshots() -> None:
    up_to("0029_backup_schedules")
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    account = Account.create(name="a")
    old = Snapshot.create(name="old", account=account, volume_id="d", pool=pool, size_bytes=1)
    assert "0030_vm_snapshots" in database.migrate()
    whole = VmSnapshot.create(name="w", account=account, vm_id="v", vm_name="web")
    VmSnapshotDisk.create(vm_snapshot=whole, snapshot=old, slot=0, volume_id="d", volume_name="web-root")
    assert [(row.vm_snapshot.name, row.snapshot_id) for row in VmSnapshotDisk.select()] == [("w", old.id)]
    Snapshot.delete().execute()
    assert [row.snapshot_id for row in VmSnapshotDisk.select()] == [None]
    VmSnapshot.delete().execute()
    assert VmSnapshotDisk.select().count() == 0


def test_vms_get_schedules_of_snapshots() -> None:
    up_to("0030_vm_snapshots", OLD_VM)
    old = VmSnapshot.create(name="old", account="a", vm_id="v", vm_name="web")
    assert "0030_vm_snapshots_schedules" in database.migrate()
    schedule = VmSnapshotSchedule.create(vm="v", interval="daily", keep=7, next_time=now())
    ScheduledVmSnapshot.create(vm_snapshot=old, schedule=schedule)
    rows = ScheduledVmSnapshot.select()
    assert [(row.vm_snapshot.name, row.schedule.vm.name) for row in rows] == [("old", "web")]
    Vm.delete().where(Vm.id == "v").execute()
    counts = [model.select().count() for model in (VmSnapshotSchedule, ScheduledVmSnapshot, VmSnapshot)]
    assert counts == [0, 0, 1]


def test_vm_snapshots_get_memory() -> None:
    up_to("0035_backup_boots")
    old = VmSnapshot.create(name="old", account=Account.create(name="a"), vm_id="v", vm_name="web")
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    Kek.create(id="k", name="k", current=True)
    key = Passphrase.create(kek="k", sealed=b"x", bound_id="m")
    assert "0037_vm_snapshot_memory" in database.migrate()
    VmSnapshotMemory.create(vm_snapshot=old, pool=pool, passphrase=key, size_bytes=1, definition="{}")
    [row] = VmSnapshotMemory.select()
    assert (row.vm_snapshot.name, row.format, row.used_bytes, row.cpus) == ("old", "qcow2", 0, "")
    with pytest.raises(peewee.IntegrityError):
        Passphrase.delete().execute()
    VmSnapshot.delete().execute()
    assert VmSnapshotMemory.select().count() == 0
