"""From the vSphere API's objects to the values of `inventory`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from pyVmomi import vim

from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import Datastore, Disk, DiskKind, Nic, Power, SourceVm, Tools
from ostler_control.vmware.properties import Managed, Properties, read_all, read_one

_VM_PATHS = (
    "name",
    "config.hardware",
    "config.guestId",
    "config.guestFullName",
    "config.firmware",
    "config.bootOptions",
    "config.template",
    "config.keyId",
    "config.changeTrackingEnabled",
    "config.changeVersion",
    "capability.changeTrackingSupported",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.host",
    "runtime.faultToleranceState",
    "guest.toolsRunningStatus",
    "guest.toolsVersionStatus2",
    "summary.storage",
    "snapshot",
)

_POWER = {"poweredOn": Power.ON, "poweredOff": Power.OFF, "suspended": Power.SUSPENDED}


@dataclasses.dataclass(frozen=True)
class Places:
    """Names by managed object id. hosts: name and cluster."""

    hosts: Mapping[str, tuple[str, str]]
    networks: Mapping[str, str]


def list_vms(connection: Connection) -> Iterator[SourceVm]:
    """All VMs that the user may see, without templates, page by page. Raises an OstlerError."""
    places = _places(connection)
    for found in read_all(connection, vim.VirtualMachine, _VM_PATHS):
        vm = vm_from_properties(found, places)
        if not vm.template:
            yield vm


def read_vm(connection: Connection, ref: str) -> SourceVm:
    """One VM by its managed object id. Raises NotFoundError VCENTER_OBJECT_GONE."""
    return vm_from_properties(read_one(connection, vim.VirtualMachine, ref, _VM_PATHS), _places(connection))


def list_datastores(connection: Connection, host_ref: str) -> tuple[Datastore, ...]:
    """The datastores that a host can use. Raises NotFoundError VCENTER_OBJECT_GONE."""
    mine = {
        str(store._moId)
        for store in read_one(connection, vim.HostSystem, host_ref, ("datastore",)).get("datastore", ())
    }
    found = read_all(connection, vim.Datastore, ("name", "summary"))
    return tuple(_datastore(store) for store in found if store.ref in mine)


def _datastore(found: Properties) -> Datastore:
    summary = found.get("summary")
    mode = str(getattr(summary, "maintenanceMode", None) or "normal")
    return Datastore(
        ref=found.ref,
        name=str(found.get("name", "")),
        free_bytes=int(summary.freeSpace or 0),
        capacity_bytes=int(summary.capacity or 0),
        usable=bool(summary.accessible) and mode == "normal",
    )


def _places(connection: Connection) -> Places:
    clusters = {item.ref: str(item.get("name", "")) for item in read_all(connection, vim.ComputeResource, ("name",))}
    hosts = {}
    for item in read_all(connection, vim.HostSystem, ("name", "parent")):
        parent = item.get("parent")
        in_cluster = isinstance(parent, vim.ClusterComputeResource)
        hosts[item.ref] = (str(item.get("name", "")), clusters.get(str(parent._moId), "") if in_cluster else "")
    networks = {item.ref: str(item.get("name", "")) for item in read_all(connection, vim.Network, ("name",))}
    return Places(hosts, networks)


def vm_from_properties(found: Properties, places: Places) -> SourceVm:
    """One VM, out of what `properties` read; what the server leaves unset has its default."""
    hardware = found.get("config.hardware")
    devices = list(hardware.device) if hardware is not None else []
    host = found.get("runtime.host")
    host_ref = str(host._moId) if host is not None else ""
    host_name, cluster = places.hosts.get(host_ref, ("", ""))
    boot = found.get("config.bootOptions")
    storage = found.get("summary.storage")
    return SourceVm(
        ref=found.ref,
        name=str(found.get("name", "")),
        power=_POWER.get(str(found.get("runtime.powerState")), Power.OFF),
        guest_id=str(found.get("config.guestId") or ""),
        guest_name=str(found.get("config.guestFullName") or ""),
        firmware=str(found.get("config.firmware") or "bios"),
        secure_boot=bool(boot is not None and boot.efiSecureBootEnabled),
        cpus=int(hardware.numCPU) if hardware is not None else 0,
        cores_per_socket=int(hardware.numCoresPerSocket or 1) if hardware is not None else 1,
        memory_bytes=int(hardware.memoryMB) << 20 if hardware is not None else 0,
        disks=tuple(disks_of(devices)),
        nics=tuple(_nics(devices, places)),
        snapshots=_count_snapshots(found.get("snapshot")),
        tools=_tools(found),
        host=host_name,
        host_ref=host_ref,
        cluster=cluster,
        used_bytes=int(storage.committed or 0) if storage is not None else 0,
        template=bool(found.get("config.template")),
        accessible=hardware is not None and str(found.get("runtime.connectionState", "connected")) == "connected",
        encrypted=found.get("config.keyId") is not None,
        tpm=any(isinstance(device, vim.vm.device.VirtualTPM) for device in devices),
        fault_tolerant=str(found.get("runtime.faultToleranceState") or "notConfigured") != "notConfigured",
        passthrough=tuple(_label(d) for d in devices if isinstance(d, vim.vm.device.VirtualPCIPassthrough)),
        change_tracking=bool(found.get("config.changeTrackingEnabled")),
        tracking_supported=found.get("capability.changeTrackingSupported") is not False,
        revision=str(found.get("config.changeVersion") or ""),
    )


def _tools(found: Properties) -> Tools:
    if str(found.get("guest.toolsRunningStatus")) == "guestToolsRunning":
        return Tools.RUNNING
    version = str(found.get("guest.toolsVersionStatus2") or "guestToolsNotInstalled")
    return Tools.NOT_INSTALLED if version == "guestToolsNotInstalled" else Tools.NOT_RUNNING


def _count_snapshots(tree: Managed) -> int:
    left = list(tree.rootSnapshotList) if tree is not None else []
    count = 0
    while left:
        count += 1
        left.extend(left.pop().childSnapshotList)
    return count


def _label(device: Managed) -> str:
    info = device.deviceInfo
    return str(info.label) if info is not None else f"device {device.key}"


def disks_of(devices: list[Managed]) -> Iterator[Disk]:
    """The disks among a VM's or a snapshot's devices."""
    controllers: dict[int | None, Managed] = {
        device.key: device for device in devices if isinstance(device, vim.vm.device.VirtualController)
    }
    for device in devices:
        if not isinstance(device, vim.vm.device.VirtualDisk):
            continue
        backing = device.backing
        controller = controllers.get(device.controllerKey)
        store = getattr(backing, "datastore", None)
        file_name = str(getattr(backing, "fileName", "") or "")
        bus_shared = str(getattr(controller, "sharedBus", None) or "noSharing") != "noSharing"
        multi_writer = str(getattr(backing, "sharing", None) or "sharingNone") != "sharingNone"
        yield Disk(
            key=int(device.key),
            label=_label(device),
            capacity_bytes=_capacity_bytes(device),
            controller=type(controller).__name__.rpartition(".")[2] if controller is not None else "",
            bus_number=int(controller.busNumber) if controller is not None else 0,
            unit=int(device.unitNumber or 0),
            kind=_kind(backing),
            independent=str(getattr(backing, "diskMode", None) or "").startswith("independent"),
            shared=bus_shared or multi_writer,
            encrypted=getattr(backing, "keyId", None) is not None,
            datastore=file_name[1:].partition("]")[0] if store is not None else "",
            file_name=file_name,
            has_parent=getattr(backing, "parent", None) is not None,
            change_id=str(getattr(backing, "changeId", None) or ""),
        )


def _capacity_bytes(disk: Managed) -> int:
    """Old servers tell it in KiB only."""
    return int(disk.capacityInBytes or (disk.capacityInKB or 0) << 10)


def _kind(backing: Managed) -> DiskKind:
    disk = vim.vm.device.VirtualDisk
    if isinstance(backing, (disk.RawDiskMappingVer1BackingInfo, disk.PartitionedRawDiskVer2BackingInfo)):
        physical = str(getattr(backing, "compatibilityMode", None)) == "physicalMode"
        return DiskKind.RDM_PHYSICAL if physical else DiskKind.RDM_VIRTUAL
    if isinstance(backing, vim.vm.device.VirtualDevice.FileBackingInfo):
        return DiskKind.FILE
    return DiskKind.OTHER


def _nics(devices: list[Managed], places: Places) -> Iterator[Nic]:
    for device in devices:
        if not isinstance(device, vim.vm.device.VirtualEthernetCard):
            continue
        connectable = device.connectable
        yield Nic(
            key=int(device.key),
            label=_label(device),
            model=type(device).__name__.rpartition(".")[2].removeprefix("Virtual").lower(),
            mac=str(device.macAddress or "").lower(),
            network=_network(device.backing, places),
            connected=connectable is None or bool(connectable.startConnected),
        )


def _network(backing: Managed, places: Places) -> str:
    port = getattr(backing, "port", None)
    if port is not None:  # a distributed port group
        return places.networks.get(str(port.portgroupKey), str(port.portgroupKey))
    network = getattr(backing, "network", None)
    named = places.networks.get(str(network._moId), "") if network is not None else ""
    return named or str(getattr(backing, "deviceName", "") or "")
