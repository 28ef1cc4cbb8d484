"""Migrations of imports."""

from __future__ import annotations

import pytest
from ostler_control import database
from ostler_control.models import (
    ImportDiskPassphrase,
    ImportFile,
    ImportPlan,
    ImportPlanVm,
    ImportSource,
    KvmSource,
    KvmTlsSource,
    VmImport,
    WarmImport,
)

from tests.unit.control.migrations.old_rows import OLD_IMPORT, OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_imports_under_way_keep_their_source_and_files_when_others_need_none() -> None:
    up_to("0008_affinity_hosts", OLD_IMPORT)
    assert "0009_file_imports" in database.migrate()
    [kept] = VmImport.select()
    assert (kept.id, kept.source_id, kept.pool_id, kept.claimed_bytes) == ("i", "s", "p", 5)
    assert [file.name for file in ImportFile.select()] == ["disk.vmdk"]
    VmImport.create(source=None, source_ref="web.ovf", vm_id="w", pool="p", host_id="h", claimed_bytes=1)
    VmImport.delete().execute()
    assert ImportFile.select().count() == 0


def test_imports_under_way_are_cold() -> None:
    up_to("0008_affinity_hosts", OLD_IMPORT)
    up_to("0010_networks")
    assert "0011_warm_imports" in database.migrate()
    assert (VmImport.select().count(), WarmImport.select().count()) == (1, 0)
    WarmImport.create(vm_import="i")
    VmImport.delete().execute()
    assert WarmImport.select().count() == 0


def test_import_plans_are_kept_with_their_vms() -> None:
    up_to("0013_pinned_tokens")
    assert "0014_import_plans" in database.migrate()
    limits = {"max_vms": 4, "max_per_esxi_host": 2, "max_per_vcenter": 8, "max_per_conversion_host": 2}
    plan = ImportPlan.create(name="w", source_id="s", source_name="vc1", user="ada", document="", **limits)
    ImportPlanVm.create(plan=plan, position=0, source_vm="web", spec="{}")
    assert [row.state for row in ImportPlan.select()] == ["ready"]
    assert [row.state for row in ImportPlanVm.select()] == ["waiting"]
    ImportPlan.delete().execute()
    assert ImportPlanVm.select().count() == 0


def test_import_sources_may_be_kvm_hosts() -> None:
    up_to("0019_maximum_sizes", (*OLD_VM, *OLD_IMPORT))
    assert "0020_kvm_imports" in database.migrate()
    KvmSource.create(source="s", known_hosts="old1 ssh-ed25519 AAAA")
    ImportDiskPassphrase.create(vm_import="i", disk_key=1, passphrase="k")
    assert [row.source.name for row in KvmSource.select()] == ["vc1"]
    VmImport.delete().where(VmImport.id == "i").execute()
    ImportSource.delete().where(ImportSource.id == "s").execute()
    assert [model.select().count() for model in (KvmSource, ImportDiskPassphrase)] == [0, 0]


def test_kvm_hosts_may_be_reached_through_tls() -> None:
    up_to("0020_kvm_imports", (*OLD_VM, *OLD_IMPORT))
    assert "0021_kvm_tls" in database.migrate()
    KvmTlsSource.create(source="s", client_certificate="-----BEGIN CERTIFICATE-----")
    assert [row.source.name for row in KvmTlsSource.select()] == ["vc1"]
    VmImport.delete().where(VmImport.id == "i").execute()
    ImportSource.delete().where(ImportSource.id == "s").execute()
    assert KvmTlsSource.select().count() == 0
