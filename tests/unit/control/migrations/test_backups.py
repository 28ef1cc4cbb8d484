"""Migrations of backups."""

from __future__ import annotations

import peewee
import pytest
from ostler_control import database
from ostler_control.models import (
    Account,
    Backup,
    BackupBoot,
    BackupConsistency,
    BackupDisk,
    BackupFirmwareState,
    BackupIncrement,
    BackupSchedule,
    BackupSpool,
    BackupStore,
    BackupTpm,
    Kek,
    Passphrase,
    Pool,
    ScheduledBackup,
    StoreBucket,
    Vm,
    now,
)

from tests.unit.control.migrations.old_rows import OLD_IMPORT, OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_vms_have_backups() -> None:
    up_to("0020_kvm_imports", (*OLD_VM, *OLD_IMPORT))
    assert "0024_backups" in database.migrate()
    pool = Pool.create(name="store", type="nfs", scope="zone", scope_id="z")
    BackupStore.create(pool=pool)
    backup = Backup.create(name="b", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
    BackupDisk.create(
        backup=backup, slot=0, volume_id="d", volume_name="web-root", pool=pool, passphrase="k", size_bytes=1,
        volume_pool_id="p", volume_format="qcow2", provisioning="thin",
    )  # fmt: skip
    assert [(row.name, row.backup.state) for row in BackupDisk.select()] == [("b:0", "creating")]
    Backup.delete().execute()
    Pool.delete().where(Pool.id == pool.id).execute()
    assert [model.select().count() for model in (BackupDisk, BackupStore)] == [0, 0]


def test_backups_get_what_they_are_as_good_as() -> None:
    up_to("0025_snapshot_consistency")
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    account = Account.create(name="a")
    old = Backup.create(name="old", account=account, vm_id="v", vm_name="web", pool=pool, definition="{}")
    assert "0026_backup_consistency" in database.migrate()
    BackupConsistency.create(backup=old, consistency="application")
    assert [(row.backup.name, row.reason) for row in BackupConsistency.select()] == [("old", "")]
    Backup.delete().execute()
    assert BackupConsistency.select().count() == 0


def test_vms_get_schedules_of_backups() -> None:
    up_to("0028_machine_types", OLD_VM)
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    old = Backup.create(name="old", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
    assert "0029_backup_schedules" in database.migrate()
    schedule = BackupSchedule.create(vm="v", interval="daily", keep_daily=7, next_time=now())
    ScheduledBackup.create(backup=old, schedule=schedule)
    assert [(row.backup.name, row.schedule.vm.name) for row in ScheduledBackup.select()] == [("old", "web")]
    Vm.delete().where(Vm.id == "v").execute()
    assert [model.select().count() for model in (BackupSchedule, ScheduledBackup, Backup)] == [0, 0, 1]


def test_disks_of_backups_get_what_they_build_on() -> None:
    up_to("0030_vm_snapshots", OLD_VM)
    kek = Kek.create(name="k", current=True)
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    old = Backup.create(name="old", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
    first, second = (
        BackupDisk.create(
            backup=old, slot=slot, volume_id="d", volume_name="d", pool=pool, size_bytes=1, volume_pool_id="p",
            volume_format="qcow2", provisioning="thin",
            passphrase=Passphrase.create(kek=kek, sealed=b"", bound_id=f"{slot}"),
        )
        for slot in range(2)
    )  # fmt: skip
    assert "0034_backup_increments" in database.migrate()
    BackupIncrement.create(disk=second, parent=first)
    with pytest.raises(peewee.IntegrityError):
        BackupDisk.delete().where(BackupDisk.id == first.id).execute()
    BackupDisk.delete().where(BackupDisk.id == second.id).execute()
    assert BackupIncrement.select().count() == 0


def test_backups_get_boots() -> None:
    up_to("0034_backup_increments")
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    account = Account.create(name="a")
    old = Backup.create(name="old", account=account, vm_id="v", vm_name="web", pool=pool, definition="{}")
    assert "0035_backup_boots" in database.migrate()
    BackupBoot.create(backup=old, sign="console")
    assert [(row.backup.name, row.sign, row.error) for row in BackupBoot.select()] == [("old", "console", "")]
    Backup.delete().execute()
    assert BackupBoot.select().count() == 0


def test_backups_get_firmware_states_and_tpms() -> None:
    up_to("0037_vm_snapshot_memory", OLD_VM)
    pool = Pool.create(name="store", type="nfs", scope="zone", scope_id="z", shared=True)
    old = Backup.create(name="old", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
    assert "0039_backup_firmware_states" in database.migrate()
    kek = Kek.create(id="k", name="k", current=True)
    first, second = (Passphrase.create(kek=kek, sealed=b"s", bound_id=name) for name in ("f", "s"))
    BackupFirmwareState.create(backup=old, passphrase=first, sealed=b"c", copy_time=now())
    BackupTpm.create(backup=old, passphrase=second)
    assert [(row.name, bytes(row.sealed), row.problem) for row in BackupFirmwareState.select()] == [("old", b"c", "")]
    with pytest.raises(peewee.IntegrityError):
        Passphrase.delete().execute()
    Backup.delete().execute()
    assert [model.select().count() for model in (BackupFirmwareState, BackupTpm)] == [0, 0]


def test_stores_get_buckets() -> None:
    up_to("0037_vm_snapshot_memory")
    pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
    account = Account.create(name="a")
    old = Backup.create(name="old", account=account, vm_id="v", vm_name="web", pool=pool, definition="{}")
    assert "0040_s3_stores" in database.migrate()
    kek = Kek.create(id="k", name="k", current=True)
    key = Passphrase.create(kek=kek, sealed=b"s", bound_id="b")
    StoreBucket.create(pool=pool, endpoint="https://s", bucket="b", region="r", access_key="a", passphrase=key)
    BackupSpool.create(backup=old, host_id="h")
    assert [(row.name, row.prefix, row.ca_pem) for row in StoreBucket.select()] == [("p", "", "")]
    with pytest.raises(peewee.IntegrityError):
        Passphrase.delete().execute()
    Backup.delete().execute()
    Pool.delete().execute()
    assert (BackupSpool.select().count(), StoreBucket.select().count()) == (0, 0)
