"""Migrations of offerings and templates."""

from __future__ import annotations

import peewee
import pytest
from ostler_common.io_limits import IoLimits
from ostler_control import database
from ostler_control.catalog import disk_io
from ostler_control.models import (
    DiskOfferingIo,
    OfferingDetail,
    ServiceOffering,
    Template,
    TemplateTpm,
    Vm,
    VolumeLimits,
    db,
)
from ostler_control.templates import tpms

from tests.unit.control.migrations.old_rows import OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_fat_provisioning_becomes_thick() -> None:
    up_to("0001_first")
    for name, provisioning in (("old", "fat"), ("other", "sparse")):
        db.execute_sql(
            "INSERT INTO disk_offering (id, create_time, name, size_bytes, encrypt, provisioning, format) "
            "VALUES (?, '2026-01-01', ?, 0, 0, ?, 'raw')",
            (name, name, provisioning),
        )
    database.migrate()
    rows = db.execute_sql("SELECT name, provisioning FROM disk_offering ORDER BY name").fetchall()
    assert rows == [("old", "thick"), ("other", "sparse")]


def test_templates_and_offerings_get_details_for_drivers() -> None:
    up_to("0014_import_plans", OLD_VM)
    assert "0015_driver_details" in database.migrate()
    OfferingDetail.create(service_offering="o", key="kernel", value="/k")
    assert [row.service_offering.name for row in OfferingDetail.select()] == ["small"]
    Vm.delete().where(Vm.id == "v").execute()
    ServiceOffering.delete().where(ServiceOffering.id == "o").execute()
    assert OfferingDetail.select().count() == 0


def test_offerings_and_volumes_get_io_limits() -> None:
    up_to("0021_nic_links")
    db.execute_sql(
        "INSERT INTO disk_offering (id, create_time, name, size_bytes, encrypt, provisioning, format) "
        "VALUES ('d', '2026-01-01', 'old', 0, 0, 'thin', 'raw')"
    )
    assert "0022_io_limits" in database.migrate()
    assert disk_io.of_offerings(["d"]) == {}
    DiskOfferingIo.create(disk_offering="d", iops=500)
    assert disk_io.of_offerings(["d"]) == {"d": disk_io.DiskIo(IoLimits(iops=500))}
    db.execute_sql("DELETE FROM disk_offering")
    assert [model.select().count() for model in (DiskOfferingIo, VolumeLimits)] == [0, 0]


def test_templates_say_whether_their_vms_get_a_tpm() -> None:
    up_to("0041_labels_of_zones_isos_backups")
    old = Template.create(name="old", format="raw", virtual_size_bytes=1, file_size_bytes=1)
    assert "0043_template_tpms" in database.migrate()
    assert not tpms.of_templates([old.id])
    tpms.add(old)
    assert tpms.of_templates([Template.get().id])
    with pytest.raises(peewee.IntegrityError):
        tpms.add(old)
    old.delete_instance()
    assert TemplateTpm.select().count() == 0
