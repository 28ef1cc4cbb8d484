"""Migrations that give labels."""

from __future__ import annotations

import peewee
import pytest
from ostler_control import database
from ostler_control.models import (
    Account,
    AccountLabel,
    Backup,
    BackupLabel,
    Cluster,
    ClusterLabel,
    Iso,
    IsoLabel,
    Kek,
    KekLabel,
    NetworkLabel,
    Pool,
    PoolLabel,
    ServiceOffering,
    ServiceOfferingLabel,
    SnapshotLabel,
    Vm,
    VmDescription,
    VmLabel,
    VmSnapshot,
    VmSnapshotLabel,
    Zone,
    ZoneLabel,
)

from tests.unit.control.migrations.old_rows import OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_vms_get_labels_and_descriptions() -> None:
    up_to("0015_driver_details", OLD_VM)
    assert "0016_labels" in database.migrate()
    VmLabel.create(object="v", key="env", value="prod")
    VmDescription.create(vm="v", text="shop")
    assert [row.object.name for row in VmLabel.select()] == ["web"]
    Vm.delete().where(Vm.id == "v").execute()
    assert [model.select().count() for model in (VmLabel, VmDescription)] == [0, 0]


def test_clusters_networks_pools_and_snapshots_get_labels() -> None:
    up_to("0022_io_limits", OLD_VM[:2])
    assert "0023_more_labels" in database.migrate()
    ClusterLabel.create(object="c", key="site", value="berlin")
    assert [row.object.name for row in ClusterLabel.select()] == ["cluster"]
    Cluster.delete().where(Cluster.id == "c").execute()
    assert ClusterLabel.select().count() == 0
    assert [model.select().count() for model in (NetworkLabel, PoolLabel, SnapshotLabel)] == [0, 0, 0]


def test_vm_snapshots_get_labels() -> None:
    up_to("0030_vm_snapshots_schedules")
    old = VmSnapshot.create(name="old", account=Account.create(name="a"), vm_id="v", vm_name="web")
    assert "0030_vm_snapshots_with_labels" in database.migrate()
    VmSnapshotLabel.create(object=old, key="keep", value="yes")
    assert [(row.object.name, row.key) for row in VmSnapshotLabel.select()] == [("old", "keep")]
    VmSnapshot.delete().execute()
    assert VmSnapshotLabel.select().count() == 0


def test_zones_isos_and_backups_get_labels() -> None:
    up_to("0039_backup_firmware_states")
    zone = Zone.create(name="z")
    iso = Iso.create(name="tools", file_size_bytes=1, sha256="0" * 64)
    store = Pool.create(name="p", type="nfs", path="/p", scope="zone", scope_id=zone.id)
    owner = Account.create(name="a")
    backup = Backup.create(name="b", account=owner, vm_id="v", vm_name="web", pool=store, definition="{}")
    assert "0041_labels_of_zones_isos_backups" in database.migrate()
    for table, row in ((ZoneLabel, zone), (IsoLabel, iso), (BackupLabel, backup)):
        table.create(object=row, key="keep", value="yes")
        row.delete_instance()
        assert table.select().count() == 0


def test_more_kinds_get_labels() -> None:
    up_to("0043_template_tpms")
    account = Account.create(name="a")
    offering = ServiceOffering.create(name="small", cpus=1, memory_bytes=1)
    kek = Kek.create(id="k", name="k")
    assert "0044_more_kinds_with_labels" in database.migrate()
    for table, row in ((AccountLabel, account), (ServiceOfferingLabel, offering), (KekLabel, kek)):
        table.create(object=row, key="keep", value="yes")
        with pytest.raises(peewee.IntegrityError):
            table.create(object=row, key="keep", value="no")
        row.delete_instance()
        assert table.select().count() == 0
