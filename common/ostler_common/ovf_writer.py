"""Writes OVF descriptors (DMTF DSP0243, version 1) of VMs, with the devices that VMware and others know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

_SIZE_DIGITS = 15  # a fixed number, so that the descriptor's size does not depend on those of its files

# CIM resource types (CIM_ResourceAllocationSettingData.ResourceType).
_CPU, _MEMORY, _SCSI, _NIC, _DISK = 3, 4, 6, 10, 17
_FIRST_NIC = 1000


@dataclass(frozen=True)
class Disk:
    """A disk and its file. file_bytes: size of the file."""

    file_name: str
    capacity_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Machine:
    """A VM. networks: of its interfaces, in order."""

    name: str
    cpus: int
    memory_bytes: int
    uefi: bool
    disks: Sequence[Disk]
    networks: Sequence[str]


def descriptor(machine: Machine) -> bytes:
    """The descriptor, of the same length whatever the sizes of the files are."""
    files = "".join(_file(number, disk) for number, disk in enumerate(machine.disks, 1))
    disks = "".join(_disk(number, disk) for number, disk in enumerate(machine.disks, 1))
    networks = "".join(map(_network, dict.fromkeys(machine.networks)))
    firmware = "efi" if machine.uefi else "bios"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" \
xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" \
xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" \
xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
{files}  </References>
  <DiskSection>
    <Info>Disks</Info>
{disks}  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
{networks}  </NetworkSection>
  <VirtualSystem ovf:id={quoteattr(machine.name)}>
    <Info>A virtual machine</Info>
    <Name>{escape(machine.name)}</Name>
    <OperatingSystemSection ovf:id="101" vmw:osType="otherLinux64Guest">
      <Info>The operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{escape(machine.name)}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{"".join(_items(machine))}      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{firmware}"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
""".encode()


def _file(number: int, disk: Disk) -> str:
    size = f"{disk.file_bytes:0{_SIZE_DIGITS}}"
    return f'    <File ovf:href={quoteattr(disk.file_name)} ovf:id="file{number}" ovf:size="{size}"/>\n'


def _disk(number: int, disk: Disk) -> str:
    return (
        f'    <Disk ovf:capacity="{disk.capacity_bytes}" ovf:capacityAllocationUnits="byte" ovf:diskId="disk{number}" '
        f'ovf:fileRef="file{number}" ovf:format="{_FORMAT}"/>\n'
    )


def _network(name: str) -> str:
    return f"    <Network ovf:name={quoteattr(name)}><Description/></Network>\n"


_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def _items(machine: Machine) -> Iterator[str]:
    yield _item(
        AllocationUnits="hertz * 10^6",
        ElementName=f"{machine.cpus} virtual CPUs",
        InstanceID="1",
        ResourceType=str(_CPU),
        VirtualQuantity=str(machine.cpus),
    )
    mib = machine.memory_bytes >> 20
    yield _item(
        AllocationUnits="byte * 2^20",
        ElementName=f"{mib} MB of memory",
        InstanceID="2",
        ResourceType=str(_MEMORY),
        VirtualQuantity=str(mib),
    )
    yield _item(
        Address="0",
        ElementName="SCSI controller 0",
        InstanceID="3",
        ResourceSubType="VirtualSCSI",
        ResourceType=str(_SCSI),
    )
    for number, _ in enumerate(machine.disks):
        yield _item(
            AddressOnParent=str(number + (number >= _CONTROLLERS_OWN_UNIT)),
            ElementName=f"Hard disk {number + 1}",
            HostResource=f"ovf:/disk/disk{number + 1}",
            InstanceID=str(4 + number),
            Parent="3",
            ResourceType=str(_DISK),
        )
    for number, network in enumerate(machine.networks):
        yield _item(
            AddressOnParent=str(number),
            AutomaticAllocation="true",
            Connection=network,
            ElementName=f"Network adapter {number + 1}",
            InstanceID=str(_FIRST_NIC + number),
            ResourceSubType="VmxNet3",
            ResourceType=str(_NIC),
        )


_CONTROLLERS_OWN_UNIT = 7  # a SCSI controller's own address


def _item(**fields: str) -> str:
    """One item; its fields must be in alphabetical order."""
    inside = "".join(f"        <rasd:{key}>{escape(value)}</rasd:{key}>\n" for key, value in fields.items())
    return f"      <Item>\n{inside}      </Item>\n"
