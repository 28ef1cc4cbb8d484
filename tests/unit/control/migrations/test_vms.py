"""Migrations of VMs and their interfaces."""

from __future__ import annotations

import peewee
import pytest
from ostler_control import database
from ostler_control.agents.looks import Look
from ostler_control.hosts import absences
from ostler_control.models import (
    Host,
    HostCpu,
    Iso,
    Kek,
    LateStart,
    Network,
    NetworkAccount,
    Nic,
    NicAddressing,
    NicDown,
    OfferingMaximum,
    Passphrase,
    ServiceOffering,
    Vm,
    VmCpu,
    VmFirmwareState,
    VmIso,
    VmMachine,
    VmMaximum,
    VmSighting,
    VmSnapshot,
    VmSnapshotFirmwareState,
    VmTpm,
)

from tests.unit.control.migrations.old_rows import OLD_NICS, OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_a_sighting_can_be_recorded_of_a_vm_from_before_there_were_any() -> None:
    up_to("0003_setting_scopes", OLD_VM)
    assert "0004_vm_sighting" in database.migrate()
    VmSighting.create(vm="v", host="h")
    assert [row.vm.name for row in VmSighting.select()] == ["web"]
    Host.delete().where(Host.id == "h").execute()
    assert VmSighting.select().count() == 0


def test_interfaces_from_before_networks_get_one_for_each_bridge_of_a_zone() -> None:
    up_to("0009_file_imports", (*OLD_VM, *OLD_NICS))
    assert "0010_networks" in database.migrate()
    networks = {network.name: network for network in Network.select()}
    assert {name: (row.zone_id, row.bridge) for name, row in networks.items()} == {
        "br1": ("z", "br1"),
        "br0-zone": ("z", "br0"),
        "br0-far": ("y", "br0"),
    }
    # Guests from then may rely on sending what they like; only the accounts that were there may use it.
    assert not any(network.spoof_filter or network.all_accounts for network in networks.values())
    assert {row.network.name: row.account_id for row in NetworkAccount.select()} == dict.fromkeys(networks, "a")
    found = {(nic.mac, nic.network.name, nic.position, nic.model) for nic in Nic.select()}
    assert found == {
        ("52:54:00:00:00:01", "br0-zone", 0, "virtio"),
        ("52:54:00:00:00:02", "br1", 1, "e1000"),
        ("52:54:00:00:00:03", "br0-far", 0, "virtio"),
    }
    [kept] = NicAddressing.select()
    assert (kept.nic.mac, kept.addresses) == ("52:54:00:00:00:01", '["192.0.2.7/24"]')


def test_vms_and_offerings_get_maximum_sizes() -> None:
    up_to("0018_event_chain", OLD_VM)
    assert "0019_maximum_sizes" in database.migrate()
    OfferingMaximum.create(service_offering="o", cpus=4, memory_bytes=1 << 34)
    VmMaximum.create(vm="v", cpus=4, memory_bytes=1 << 34)
    assert [row.vm.name for row in VmMaximum.select()] == ["web"]
    Vm.delete().where(Vm.id == "v").execute()
    ServiceOffering.delete().where(ServiceOffering.id == "o").execute()
    assert [model.select().count() for model in (VmMaximum, OfferingMaximum)] == [0, 0]


def test_interfaces_get_links() -> None:
    up_to("0020_kvm_imports", OLD_VM)
    assert "0021_nic_links" in database.migrate()
    network = Network.create(name="lan", zone="z", bridge="br0")
    nic = Nic.create(vm="v", position=0, mac="52:54:00:00:00:01", network=network)
    NicDown.create(nic=nic)
    assert [row.nic.mac for row in NicDown.select()] == ["52:54:00:00:00:01"]
    Vm.delete().where(Vm.id == "v").execute()
    assert NicDown.select().count() == 0


def test_vms_get_iso_images() -> None:
    up_to("0024_backups", OLD_VM)
    assert "0027_isos" in database.migrate()
    VmIso.create(vm="v", iso=Iso.create(name="rescue", file_size_bytes=2048, sha256="0" * 64), drive=0)
    assert [(row.vm.id, row.iso.name, row.boot_first) for row in VmIso.select()] == [("v", "rescue", False)]
    Vm.delete().where(Vm.id == "v").execute()
    assert (VmIso.select().count(), Iso.select().count()) == (0, 1)


def test_vms_keep_machine_types() -> None:
    up_to("0027_isos", OLD_VM)
    assert "0028_machine_types" in database.migrate()
    VmMachine.create(vm="v", machine="pc-q35-7.2")
    assert [(row.vm.id, row.machine) for row in VmMachine.select()] == [("v", "pc-q35-7.2")]
    Vm.delete().where(Vm.id == "v").execute()
    assert VmMachine.select().count() == 0


def test_vms_keep_the_cpu_that_they_started_with() -> None:
    up_to("0033_held_indexes", OLD_VM)
    assert "0034_cpus" in database.migrate()
    VmCpu.create(vm="v", digests="a b")
    assert [(row.vm.id, row.digests) for row in VmCpu.select()] == [("v", "a b")]
    assert HostCpu.select().count() == 0
    Vm.delete().where(Vm.id == "v").execute()
    assert VmCpu.select().count() == 0


def test_vms_get_tpms() -> None:
    up_to("0035_backup_boots", OLD_VM)
    assert "0036_vm_tpms" in database.migrate()
    kek = Kek.create(id="k", name="k", current=True)
    VmTpm.create(vm="v", passphrase=Passphrase.create(kek=kek, sealed=b"s", bound_id="t"))
    assert [(row.name, bytes(row.passphrase.sealed)) for row in VmTpm.select()] == [("web", b"s")]
    with pytest.raises(peewee.IntegrityError):
        Passphrase.delete().execute()
    Vm.delete().where(Vm.id == "v").execute()
    assert VmTpm.select().count() == 0


def test_vms_and_their_snapshots_get_firmware_states() -> None:
    up_to("0036_vm_tpms", OLD_VM)
    old = VmSnapshot.create(name="old", account="a", vm_id="v", vm_name="web")
    assert "0036_vm_tpms_firmware_states" in database.migrate()
    kek = Kek.create(id="k", name="k", current=True)
    first, second = (Passphrase.create(kek=kek, sealed=b"s", bound_id=name) for name in ("f", "s"))
    VmFirmwareState.create(vm="v", passphrase=first, state_id="i", sealed=b"c", sha256="0")
    VmSnapshotFirmwareState.create(vm_snapshot=old, passphrase=second, sealed=b"c")
    assert [(row.name, bytes(row.sealed), row.overwrite) for row in VmFirmwareState.select()] == [("web", b"c", False)]
    assert [row.name for row in VmSnapshotFirmwareState.select()] == ["old"]
    Vm.delete().where(Vm.id == "v").execute()
    VmSnapshot.delete().execute()
    assert [model.select().count() for model in (VmFirmwareState, VmSnapshotFirmwareState)] == [0, 0]


def test_what_hosts_answered_of_vms_can_be_recorded_of_vms_from_before() -> None:
    up_to("0003_setting_scopes", OLD_VM)
    up_to("0044_more_kinds_with_labels")
    assert "0045_vm_absences" in database.migrate()
    for number in (1 << 61, 7):  # the later answer replaces the one before
        absences.record_look("v", "h", Look(1 << 61, number))
    assert absences.of(["v"]) == {("v", "h"): Look(1 << 61, 7)}
    Host.delete().where(Host.id == "h").execute()
    assert absences.of(["v"]) == {}


def test_late_starts_can_be_recorded_of_vms_from_before() -> None:
    up_to("0003_setting_scopes", OLD_VM)
    up_to("0046_host_silence")
    assert "0047_late_start" in database.migrate()
    for job_id in ("a.start", "b.start"):
        LateStart.create(vm="v", host="h", job_id=job_id)
    with pytest.raises(peewee.IntegrityError):
        LateStart.create(vm="v", host="h", job_id="a.start")
    Host.delete().where(Host.id == "h").execute()
    assert LateStart.select().count() == 0
