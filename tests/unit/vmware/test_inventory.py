"""What is read of VMs, and how datastores for a clone are chosen."""

from __future__ import annotations

from typing import Any

import pytest
from ostler_common.errors import NotFoundError, ResourceExhaustedError
from ostler_control.vmware.clone import choose_datastore, clone_bytes
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import Datastore, DiskKind, Power, SourceVm, Tools
from ostler_control.vmware.properties import Properties
from ostler_control.vmware.read_inventory import Places, list_datastores, list_vms, read_vm, vm_from_properties
from pyVmomi import vim as typed_vim

from tests.unit.vmware.conftest import NETWORK
from tests.unit.vmware.exports import find

GIB = 1 << 30
# Their constructors have no annotations.
vim: Any = typed_vim
device = vim.vm.device


def test_a_vms_facts_are_read(connection: Connection) -> None:
    vm = find(connection, "on")
    assert (vm.power, vm.guest_id, vm.firmware, vm.cpus, vm.memory_bytes) == (
        Power.ON,
        "ubuntu64Guest",
        "efi",
        2,
        512 << 20,
    )
    assert [(disk.label, disk.capacity_bytes, disk.unit) for disk in vm.disks] == [
        ("Hard disk 1", 8 << 20, 0),
        ("Hard disk 2", 8 << 20, 1),
    ]
    assert len({disk.key for disk in vm.disks}) == 2
    (nic,) = vm.nics
    assert (nic.model, nic.network) == ("vmxnet3", NETWORK)
    assert len(nic.mac) == 17
    assert (vm.cluster, vm.tools, vm.is_windows) == ("DC0_C0", Tools.NOT_INSTALLED, False)
    assert vm.host.startswith("DC0_C0_H")
    assert read_vm(connection, vm.ref) == vm
    assert find(connection, "windows").is_windows


def test_many_vms_are_read_page_by_page(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostler_control.vmware.properties._MAX_OBJECTS_PER_CALL", 1)
    assert sorted(vm.name for vm in list_vms(connection)) == ["off", "on", "windows"]


def test_a_vm_that_is_gone_is_not_found(connection: Connection) -> None:
    with pytest.raises(NotFoundError) as gone:
        read_vm(connection, "vm-9999")
    assert gone.value.reason == "VCENTER_OBJECT_GONE"


def test_a_hosts_datastores_are_read(connection: Connection) -> None:
    (store,) = list_datastores(connection, find(connection, "on").host_ref)
    assert store.usable
    assert 0 < store.free_bytes < store.capacity_bytes


def vm_with(*devices: Any) -> SourceVm:
    hardware = vim.vm.VirtualHardware(numCPU=1, memoryMB=1024, device=list(devices))
    return vm_from_properties(Properties("vm-1", {"name": "odd", "config.hardware": hardware}), Places({}, {}))


def disk_on(controller: Any, backing: Any) -> Any:
    return device.VirtualDisk(key=2000, controllerKey=controller.key, unitNumber=0, capacityInKB=1024, backing=backing)


def scsi(**more: Any) -> Any:
    return device.ParaVirtualSCSIController(key=1000, busNumber=0, **{"sharedBus": "noSharing"} | more)


def test_a_plain_disk_has_no_peculiarities() -> None:
    controller = scsi()
    backing = device.VirtualDisk.FlatVer2BackingInfo(fileName="[ssd] a/a.vmdk", diskMode="persistent")
    (disk,) = vm_with(controller, disk_on(controller, backing)).disks
    assert (disk.kind, disk.independent, disk.shared, disk.encrypted, disk.has_parent) == (
        DiskKind.FILE,
        False,
        False,
        False,
        False,
    )
    assert disk.address == ("ParaVirtualSCSIController", 0, 0)
    assert disk.capacity_bytes == 1 << 20


@pytest.mark.parametrize(
    ("backing", "kind"),
    [
        (device.VirtualDisk.RawDiskMappingVer1BackingInfo(compatibilityMode="virtualMode"), DiskKind.RDM_VIRTUAL),
        (device.VirtualDisk.RawDiskMappingVer1BackingInfo(compatibilityMode="physicalMode"), DiskKind.RDM_PHYSICAL),
        (device.VirtualDisk.RawDiskVer2BackingInfo(), DiskKind.OTHER),
        (device.VirtualDisk.SparseVer2BackingInfo(), DiskKind.FILE),
    ],
)
def test_what_is_behind_a_disk_is_known(backing: Any, kind: DiskKind) -> None:
    controller = scsi()
    assert vm_with(controller, disk_on(controller, backing)).disks[0].kind is kind


def test_shared_independent_and_encrypted_disks_are_known() -> None:
    flat = device.VirtualDisk.FlatVer2BackingInfo
    bus_shared = scsi(sharedBus="physicalSharing")
    assert vm_with(bus_shared, disk_on(bus_shared, flat())).disks[0].shared
    controller = scsi()
    backing = flat(
        sharing="sharingMultiWriter",
        diskMode="independent_persistent",
        keyId=vim.encryption.CryptoKeyId(keyId="k"),
        parent=flat(),
    )
    (disk,) = vm_with(controller, disk_on(controller, backing)).disks
    assert (disk.shared, disk.independent, disk.encrypted, disk.has_parent) == (True, True, True, True)


def test_a_vm_without_a_host_that_answers_is_not_accessible() -> None:
    vm = vm_from_properties(Properties("vm-1", {"name": "lost"}), Places({}, {}))
    assert not vm.accessible
    assert (vm.disks, vm.memory_bytes) == ((), 0)


def test_devices_of_a_host_and_a_tpm_are_known() -> None:
    vm = vm_with(
        device.VirtualPCIPassthrough(key=13000, deviceInfo=vim.Description(label="GPU", summary="")),
        device.VirtualTPM(key=11000),
    )
    assert vm.passthrough == ("GPU",)
    assert vm.tpm


def store(name: str, free_bytes: int, *, usable: bool = True) -> Datastore:
    return Datastore(f"datastore-{name}", name, free_bytes, 100 * GIB, usable)


def test_a_clone_goes_where_most_is_free() -> None:
    stores = [store("small", 5 * GIB), store("large", 50 * GIB), store("broken", 90 * GIB, usable=False)]
    assert choose_datastore(stores, 10 * GIB).name == "large"


@pytest.mark.parametrize("stores", [[], [store("full", GIB)], [store("broken", 90 * GIB, usable=False)]])
def test_without_room_nothing_is_cloned(stores: list[Datastore]) -> None:
    with pytest.raises(ResourceExhaustedError) as full:
        choose_datastore(stores, 10 * GIB)
    assert full.value.reason == "NO_DATASTORE_SPACE"


def test_a_thin_clone_needs_what_is_used() -> None:
    controller = scsi()
    vm = vm_with(controller, disk_on(controller, device.VirtualDisk.FlatVer2BackingInfo()))
    assert clone_bytes(vm) == 1 << 20, "unknown use: the whole capacity"
