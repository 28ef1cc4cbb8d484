"""Imports from request to end: the simulated vCenter on one side, agents that work in memory on the other."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler.types.v1 import vm_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.hypervisors import Function
from ostler_control import settings, vms, volumes
from ostler_control.database import session, transaction
from ostler_control.imports import sources, sweep, workflow
from ostler_control.imports.facts import find_vm, preflight
from ostler_control.imports.preflight import Severity
from ostler_control.imports.wanted import DiskChoice
from ostler_control.models import (
    ALL,
    DiskOffering,
    Event,
    Host,
    HostFunction,
    ImportSource,
    Nic,
    Operation,
    Passphrase,
    Pool,
    ServiceOffering,
    Vm,
    VmFirmwareState,
    VmImport,
    VmOrigin,
    VmTpm,
    Volume,
)
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.conversion import pool_full
from tests.fakes.vcenter import PASSWORD, USER, FakeVcenter, vcenter
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import GIB, Site, outcome, site_at_work
from tests.unit.imports.vm_imports import MIB, OK, check_nothing_left, clones, new_source, record, refusal, wanted
from tests.unit.vmware.conftest import make_vmdk, vm_spec


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("disks")
    return [make_vmdk(directory / f"disk{number}.vmdk", 8 * MIB, number) for number in range(2)]


@pytest.fixture
def source_site(tmp_path: Path, disks: list[Path]) -> Iterator[FakeVcenter]:
    tmp_path.joinpath("vc").mkdir()
    machines = [
        vm_spec("web 1", disks),
        vm_spec("busy", disks, on=True, firmware="efi"),
        vm_spec("sealed", disks[:1], on=True, firmware="efi") | {"secure_boot": True, "tpm": True},
        vm_spec("windows", disks[:1], on=True, guest="windows9Server64Guest") | {"tools": True},
    ]
    with vcenter(tmp_path / "vc", machines) as running:
        yield running


@pytest.fixture
def working(tmp_path: Path) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
        ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB, encrypt_root=True)
        yield working


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Site:
    return working[0]


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


@pytest.fixture
def source(site: Site, source_site: FakeVcenter) -> ImportSource:
    return sources.create(new_source(source_site), "root", site.keys)


def test_a_vm_is_imported_with_its_disks_and_hardware(
    site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter, disks: list[Path]
) -> None:
    operation = record(site, wanted(site, source, "web 1"))
    assert VmImport.get().claimed_bytes > 16 * MIB
    assert outcome(engine, operation) == OK
    vm = Vm.get_by_id(operation.resource_id)
    assert (vm.name, vm.state, vm.cpus, vm.memory_bytes, vm.firmware) == ("web-1", "running", 2, 512 * MIB, "bios")
    root, data = Volume.select().where(Volume.vm_id == vm.id).order_by(Volume.slot)
    assert (root.name, root.root, root.encrypt_format) == ("web-1-root", True, "luks")
    assert (data.name, data.root, data.encrypt_format) == ("web-1-disk1", False, "none")
    for volume, disk in zip((root, data), disks, strict=True):
        file = site.fleet.pools[volume.pool_id][volume.id]
        assert file.content == hashlib.sha256(disk.read_bytes()).hexdigest(), "each volume has its own disk's data"
    nic = Nic.get()
    assert (nic.network.bridge, nic.model) == ("br0", "virtio")
    assert nic.mac == site.at(vm.host_id).vms[vm.id].spec.nics[0].mac
    origin = VmOrigin.get()
    assert (origin.source_name, origin.source_vm, origin.guest_os) == ("vc1", "web 1", "ubuntu")
    report = Event.get(Event.type == "vm.import.report")
    assert "2 disks of 16 MiB" in report.message
    assert "min" in report.message
    assert clones(site, source) == {}
    assert site.fleet.staging == {}
    assert VmImport.select().count() == 0
    assert [lease["state"] for lease in source_site.leases()] == ["done"]


def test_an_imported_vm_gets_a_tpm_if_one_is_wanted(site: Site, engine: Engine, source: ImportSource) -> None:
    assert outcome(engine, record(site, wanted(site, source, "web 1", tpm=True))) == OK
    vm = Vm.get()
    assert site.at(vm.host_id).tpms[vm.id].passphrase == site.keys.open(VmTpm.get()).reveal()
    assert VmFirmwareState.select().count() == 1, "it follows the VM"


def test_an_imported_vm_keeps_secure_boot_and_loses_its_tpm(site: Site, engine: Engine, source: ImportSource) -> None:
    """By way of a clone, as it runs."""
    with sources.connect(source, site.keys) as connection:
        vm = find_vm(connection, "sealed")
    assert (vm.secure_boot, vm.tpm) == (True, True)
    what = wanted(site, source, "sealed")
    with session():
        found = {finding.code for finding in preflight(what, vm, True).report.findings}
    assert {"SECURE_BOOT_KEYS", "TPM_LOST"} <= found
    operation = record(site, what)
    assert outcome(engine, operation) == OK
    imported = Vm.get_by_id(operation.resource_id)
    spec = site.at(imported.host_id).vms[imported.id].spec
    assert (imported.firmware, spec.firmware) == ("uefi_secure_boot", vm_pb2.FIRMWARE_UEFI_SECURE_BOOT)
    assert (spec.HasField("tpm"), VmTpm.select().count()) == (False, 0)


def test_an_imported_vm_goes_to_a_host_with_secure_boot_and_boots_without_where_there_is_none(
    site: Site, source: ImportSource
) -> None:
    with sources.connect(source, site.keys) as connection:
        vm = find_vm(connection, "sealed")
    what = wanted(site, source, "sealed")
    h2 = site.hosts["h2"].host_id
    lacking = HostFunction.function == Function.SECURE_BOOT
    with transaction():
        HostFunction.delete().where(lacking, HostFunction.host != h2).execute()
        found = preflight(what, vm, True)
        assert found.placement is not None
        assert found.placement.host_id == h2
        HostFunction.delete().where(lacking).execute()
        found = preflight(what, vm, True)
        assert found.placement is not None, "it goes somewhere"
    assert "SECURE_BOOT_OFF" in {finding.code for finding in found.report.findings}
    record(site, what)
    assert Vm.get(Vm.name == "sealed").firmware == "uefi"


def test_an_import_that_fails_leaves_no_key_of_a_tpm(site: Site, engine: Engine, source: ImportSource) -> None:
    for fake in site.hosts.values():
        fake.fail("StartVm", Fault(AbortedError("no", "NO_WAY")))
    assert outcome(engine, record(site, wanted(site, source, "web 1", tpm=True)))[0] == "failed"
    assert Vm.select().count() == VmTpm.select().count() == 0


def test_a_running_vm_is_imported_by_way_of_a_clone(site: Site, engine: Engine, source: ImportSource) -> None:
    operation = record(site, wanted(site, source, "busy", stopped=True, name="copy"))
    assert outcome(engine, operation) == OK
    vm = Vm.get_by_id(operation.resource_id)
    assert (vm.name, vm.state, vm.firmware, vm.host_id) == ("copy", "stopped", "uefi", None)
    assert clones(site, source) == {}
    assert outcome(engine, site.record(lambda: vms.start(vm, "root"))) == OK


def test_a_running_windows_vm_is_refused_or_shut_down(site: Site, engine: Engine, source: ImportSource) -> None:
    error = refusal(site, wanted(site, source, "windows"))
    assert (error.reason, error.metadata["findings"]) == ("IMPORT_REFUSED", "WINDOWS_RUNNING")
    assert "--shutdown" in error.message
    assert outcome(engine, record(site, wanted(site, source, "windows", shutdown=True))) == OK


def test_a_check_tells_all_and_changes_nothing(site: Site, source: ImportSource) -> None:
    what = wanted(site, source, "busy", networks={}, offering=site.plain, staging_pool=site.pools["local1"])
    with sources.connect(source, site.keys) as connection:
        vm = find_vm(connection, "busy")
    with session():
        found = preflight(what, vm, True).report
    errors = {finding.code for finding in found.findings if finding.severity is Severity.ERROR}
    assert errors == {"NIC_NOT_MAPPED", "OFFERING_TOO_SMALL", "NO_STAGING_POOL"}
    assert any("local to one host" in finding.message for finding in found.findings)
    assert refusal(site, what).reason == "IMPORT_REFUSED"
    assert Vm.select().count() == VmImport.select().count() == Operation.select().count() == 0


@pytest.mark.parametrize(
    ("name", "value"), [("quota.vms", 0), ("quota.cpus", 1), ("quota.volumes", 1), ("quota.storage", 0)]
)
def test_an_import_is_held_to_the_accounts_quotas(site: Site, source: ImportSource, name: str, value: int) -> None:
    settings.change(name, str(value), "root", settings.Owner.of(site.account))
    error = refusal(site, wanted(site, source, "web 1"))
    assert error.reason == "QUOTA_EXCEEDED"
    assert Vm.select().count() + Volume.select().count() == 0


def test_one_vm_is_imported_once_at_a_time(site: Site, engine: Engine, source: ImportSource) -> None:
    hold = hold_conversion(site)
    operation = record(site, wanted(site, source, "web 1"))
    error = refusal(site, wanted(site, source, "web 1", name="again"))
    assert error.reason in ("IMPORT_UNDER_WAY", "IMPORT_REFUSED"), "its MAC addresses are taken, too"
    with pytest.raises(FailedPreconditionError) as in_use:
        sources.delete(source, "root")
    assert in_use.value.reason == "SOURCE_IN_USE"
    hold.set()
    assert outcome(engine, operation) == OK
    sources.delete(source, "root")
    assert ImportSource.select().count() == 0
    assert Passphrase.select().where(Passphrase.id == source.passphrase_id).count() == 0


def hold_conversion(site: Site) -> Any:
    """Conversions wait until the event that this returns is set."""
    hold = threading.Event()
    for fake in site.fleet.hosts.values():
        fake.fail("ConvertVm", Fault(hold=hold))
    return hold


@pytest.mark.parametrize("method", ["CreateStaging", "UploadFile", "ConvertVm", "StartVm"])
def test_a_failure_at_a_host_leaves_nothing(
    method: str, site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter
) -> None:
    for fake in site.fleet.hosts.values():
        fake.fail(method, Fault(pool_full()))
    operation = record(site, wanted(site, source, "busy"))
    assert outcome(engine, operation) == ("failed", "POOL_FULL")
    check_nothing_left(site, source, source_site)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"clone_error": "no"}, "VCENTER_NO_RESOURCES"),
        ({"lease_error": "the disk is locked"}, "VCENTER_FAULT"),
        ({"corrupt": {"disk-0.vmdk": 9}}, "DISK_CORRUPT"),
        ({"status": {"disk-1.vmdk": 400}}, "DISK_REFUSED"),
    ],
)
def test_a_failure_at_the_source_leaves_nothing(
    faults: dict[str, Any], reason: str, site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter
) -> None:
    source_site.faults(**faults)
    operation = record(site, wanted(site, source, "busy"))
    assert outcome(engine, operation, 60) == ("failed", reason)
    check_nothing_left(site, source, source_site)


@pytest.mark.parametrize("phase", ["cloning", "exporting", "converting"])
def test_cancelling_leaves_nothing(
    phase: str, site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter
) -> None:
    if phase == "cloning":
        source_site.faults(clone_ms=3000)
    elif phase == "exporting":
        source_site.faults(bytes_per_sec={"disk-0.vmdk": 50_000, "disk-1.vmdk": 50_000})
    else:
        hold_conversion(site)
    operation = record(site, wanted(site, source, "busy"))
    if phase == "converting":
        wait_until(lambda: any("ConvertVm" in fake.calls for fake in site.fleet.hosts.values()))
    else:
        wait_until(lambda: Operation.get_by_id(operation.id).phase == phase)
    engine.cancel(operation.id)
    assert outcome(engine, operation) == ("cancelled", "CANCELLED")
    check_nothing_left(site, source, source_site)


def test_what_could_not_be_deleted_is_swept_later(
    site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter
) -> None:
    source_site.faults(lease_error="the disk is locked", destroy_error="not now")
    for fake in site.fleet.hosts.values():
        fake.fail("DeleteStaging", Fault(UnavailableError("the agent restarts", "RPC")))
    operation = record(site, wanted(site, source, "busy"))
    assert outcome(engine, operation) == ("failed", "VCENTER_FAULT")
    assert list(clones(site, source).values()) == [operation.id]
    assert VmImport.get().id == operation.id, "the staging space stays claimed"
    assert Vm.select().count() == 0
    source_site.faults()
    sweep.sweep(site.keys)
    wait_until(lambda: VmImport.select().count() == 0)
    check_nothing_left(site, source, source_site)


def test_a_conversion_host_that_dies_leaves_a_failed_vm_to_delete(
    site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter
) -> None:
    hold = hold_conversion(site)
    operation = record(site, wanted(site, source, "busy"))
    wait_until(lambda: any("ConvertVm" in fake.calls for fake in site.fleet.hosts.values()))
    (name,) = [fake.name for fake in site.fleet.hosts.values() if "ConvertVm" in fake.calls]
    site.silence(name)
    assert outcome(engine, operation, 60) == ("failed", "HOST_UNREACHABLE")
    vm = Vm.get()
    assert (vm.state, vm.host_id) == ("failed", None), "its volumes may be there, so it is not forgotten"
    assert "not imported" in vm.attention
    assert len(site.fleet.staging) == 1
    sweep.sweep(site.keys)
    wait_until(lambda: VmImport.select().count() == 0)
    assert site.fleet.staging == {}, "another host that reaches the pool has deleted the files"
    hold.set()
    site.revive(name)
    assert outcome(engine, site.record(lambda: vms.delete(vm, "root", force=True))) == OK
    data = Volume.get()
    assert (data.state, data.vm_id) == ("failed", "")
    assert outcome(engine, site.record(lambda: volumes.delete(data, "root"))) == OK
    check_nothing_left(site, source, source_site)


def test_a_source_that_is_gone_for_good_can_be_removed(
    site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter
) -> None:
    source_site.faults(lease_error="the disk is locked", destroy_error="not now")
    assert outcome(engine, record(site, wanted(site, source, "busy"))) == ("failed", "VCENTER_FAULT")
    assert VmImport.select().count() == 1
    sources.delete(source, "root")
    assert ImportSource.select().count() == VmImport.select().count() == Passphrase.select().count() == 0


def test_each_disk_may_have_an_offering_and_a_pool_of_its_own(site: Site, engine: Engine, source: ImportSource) -> None:
    with sources.connect(source, site.keys) as connection:
        first, second = find_vm(connection, "web 1").disks
    choices = {
        first.key: DiskChoice(pool=site.pools["local1"]),
        second.key: DiskChoice(offering=site.disks["encrypted"]),
    }
    what = wanted(site, source, "web 1", disk_offering=None, disks=choices, host=site.host("h1"))
    assert outcome(engine, record(site, what)) == OK
    root, data = Volume.select().order_by(Volume.slot)
    assert (root.pool.name, data.encrypt_format, data.disk_offering) == ("local1", "luks", site.disks["encrypted"])
    assert site.host("h1").id == Vm.get().host_id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda site, keys: {"disk_offering": None}, "REQUIRED"),
        (lambda site, keys: {"disks": {1: DiskChoice()}}, "NO_SUCH_DISK"),
        (lambda site, keys: {"disks": {keys[0]: DiskChoice(offering=site.disks["plain"])}}, "INVALID_DISK"),
        (lambda site, keys: {"disk_offering": DiskOffering.create(name="tiny", size_bytes=MIB)}, "INVALID_SIZE"),
    ],
)
def test_a_bad_choice_for_a_disk_is_refused(
    site: Site, source: ImportSource, change: Callable[[Site, list[int]], dict[str, Any]], reason: str
) -> None:
    with sources.connect(source, site.keys) as connection:
        keys = [disk.key for disk in find_vm(connection, "web 1").disks]
    assert refusal(site, wanted(site, source, "web 1", **change(site, keys))).reason == reason
    assert Vm.select().count() == Volume.select().count() == 0


def test_a_test_boot_has_no_network_and_leaves_the_vm_off(
    site: Site, engine: Engine, source: ImportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "TEST_BOOT_S", 0.5)
    monkeypatch.setattr(workflow, "_TICK_S", 0.1)
    assert outcome(engine, record(site, wanted(site, source, "web 1", test_boot=True))) == OK
    vm = Vm.get()
    assert (vm.state, vm.host_id, Nic.select().count()) == ("stopped", None, 1)
    (booted,) = [fake.vms[vm.id] for fake in site.fleet.hosts.values() if vm.id in fake.vms]
    assert (booted.running, list(booted.spec.nics)) == (False, [])


def test_a_vm_that_does_not_keep_running_fails_its_test_boot(
    site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "_TICK_S", 0.1)
    operation = record(site, wanted(site, source, "web 1", test_boot=True))
    wait_until(lambda: site.fleet.running_on(operation.resource_id))
    for fake in site.fleet.hosts.values():
        if operation.resource_id in fake.vms:
            fake.vms[operation.resource_id].running = False
    assert outcome(engine, operation) == ("failed", "TEST_BOOT_FAILED")
    check_nothing_left(site, source, source_site)


OVF_DISK = """<Item><rasd:AddressOnParent>{unit}</rasd:AddressOnParent>
<rasd:HostResource>ovf:/disk/d{unit}</rasd:HostResource>
<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"""
OVF = (
    """<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"><References>
<File ovf:href="vm-disk1.vmdk" ovf:id="f0"/><File ovf:href="vm-disk2.vmdk" ovf:id="f1"/></References><DiskSection>
<Disk ovf:capacity="8388608" ovf:diskId="d0" ovf:fileRef="f0"/>
<Disk ovf:capacity="8388608" ovf:diskId="d1" ovf:fileRef="f1"/>
</DiskSection><VirtualSystem ovf:id="vm"><VirtualHardwareSection>
<Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID>
<rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>
<rasd:ResourceType>6</rasd:ResourceType></Item>"""
    + OVF_DISK.format(unit=1)
    + OVF_DISK.format(unit=0)
    + """
</VirtualHardwareSection></VirtualSystem></Envelope>"""
)


def test_a_host_with_ovftool_downloads_the_disks_itself(
    site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter, disks: list[Path]
) -> None:
    Host.update(capabilities='{"instanceConversion": true, "probes": [{"name": "ovftool", "ok": true}]}').execute()
    data = {"vm-disk1.vmdk": disks[0].read_bytes(), "vm-disk2.vmdk": disks[1].read_bytes()}
    manifest = "".join(f"SHA256({name})= {hashlib.sha256(part).hexdigest()}\n" for name, part in data.items())
    site.fleet.ovftool = {**data, "vm.ovf": OVF.encode(), "vm.mf": manifest.encode()}
    assert outcome(engine, record(site, wanted(site, source, "busy"))) == OK
    (asked,) = site.fleet.exported
    pairs = ":".join(source_site.sha256[index : index + 2] for index in range(0, 64, 2)).upper()
    assert (asked.server, asked.username, asked.password) == (source.address, USER, PASSWORD.encode())
    assert (asked.thumbprint, asked.parallel_threads) == (pairs, 2)
    with sources.connect(source, site.keys) as connection:
        assert asked.vm_moref != find_vm(connection, "busy").ref, "a running VM's clone is exported"
    assert source_site.leases() == []
    contents = [site.fleet.pools[row.pool_id][row.id].content for row in Volume.select().order_by(Volume.slot)]
    assert contents == [hashlib.sha256(part).hexdigest() for part in data.values()]
    assert clones(site, source) == {}


def test_the_control_plane_downloads_when_forced(
    site: Site, engine: Engine, source: ImportSource, source_site: FakeVcenter
) -> None:
    Host.update(capabilities='{"instanceConversion": true, "probes": [{"name": "ovftool", "ok": true}]}').execute()
    what = wanted(site, source, "web 1", force_control_download=True)
    assert outcome(engine, record(site, what)) == OK
    assert site.fleet.exported == []
    assert len(source_site.leases()) == 1


def test_an_upload_that_breaks_begins_again(site: Site, engine: Engine, source: ImportSource) -> None:
    for fake in site.fleet.hosts.values():
        fake.fail("UploadFile", Fault(UnavailableError("the agent restarts", "RPC")))
    assert outcome(engine, record(site, wanted(site, source, "web 1"))) == OK


def test_a_source_is_proved_before_it_is_written_down(site: Site, source_site: FakeVcenter) -> None:
    sources.prove(new_source(source_site))
    with pytest.raises(FailedPreconditionError) as refused:
        sources.prove(new_source(source_site, password="wrong"))
    assert refused.value.reason == "VCENTER_LOGIN_REFUSED"
    for change in ({"name": "-"}, {"address": "a b"}, {"username": ""}, {"username": "x" * 257}):
        with pytest.raises(OstlerError) as bad:
            sources.prove(new_source(source_site, **change))
        assert bad.value.code == "INVALID_ARGUMENT"


def test_the_password_is_sealed_and_in_no_row(site: Site, source: ImportSource) -> None:
    assert site.keys.open(source).reveal() == PASSWORD.encode()
    for model in ALL:
        for row in model.select().dicts():
            assert PASSWORD not in repr(row), model.__name__
    assert site.keys.sweep() == 0, "a source's passphrase is no leftover"


def test_unused_pools_and_hosts_are_told_apart(site: Site, source: ImportSource) -> None:
    Host.update(capabilities="").execute()
    error = refusal(site, wanted(site, source, "web 1"))
    assert error.metadata["findings"] == "NO_CONVERSION_HOST"
    Host.update(capabilities='{"instanceConversion": true}').execute()
    Pool.update(available_bytes=MIB).execute()
    assert "STAGING" in refusal(site, wanted(site, source, "web 1")).metadata["findings"]
