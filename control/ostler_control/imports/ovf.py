"""Reading an OVF descriptor (DMTF DSP0243) that a stranger may have written.

No document type, so no entities; limits on size, depth and number of elements; a file is named by a plain name, never
by a path. Only descriptors of one VM are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ostler_common import xml_document
from ostler_common.errors import InvalidArgumentError
from ostler_common.xml_document import Element, XmlError, XmlLimits, XmlTooLargeError

MAX_BYTES = 2 << 20
LIMITS = XmlLimits(max_elements=20_000, max_depth=32)
MAX_DISKS, MAX_NICS = 64, 16
# Far above any real VM, and far below what a 64-bit number holds.
_MAX_CPUS, _MAX_BYTES_OF_A_PART = 100_000, 1 << 60

_OVF = "http://schemas.dmtf.org/ovf/envelope/"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}", re.ASCII)
_PLACE = re.compile(r"\d{1,5}", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
# "byte * 2^20", as DSP0004 writes units; old tools write words.
_POWER = re.compile(r"byte(?:\s*\*\s*2\^(\d{1,2}))?", re.ASCII)
_WORDS = {"kilobytes": 10, "megabytes": 20, "gigabytes": 30, "mb": 20, "gb": 30, "kb": 10, "bytes": 0}

# CIM resource types (CIM_ResourceAllocationSettingData.ResourceType).
_CPU, _MEMORY, _NIC, _DISK = "3", "4", "10", "17"


@dataclass(frozen=True)
class OvfDisk:
    """A disk. file_name: "" for one without content; capacity_bytes: what the guest sees; controller: its type in lower
    case ("virtualscsi", "lsilogic"), "" when not told; bus_number, unit: its place there; file_bytes: size of the file,
    0 when not told."""

    file_name: str
    capacity_bytes: int
    controller: str = ""
    bus_number: int = 0
    unit: int = 0
    file_bytes: int = 0


@dataclass(frozen=True)
class OvfNic:
    """A network interface. model: lower case ("vmxnet3"); mac: "" when not given."""

    network: str
    model: str = ""
    mac: str = ""


@dataclass(frozen=True)
class Ovf:
    """A VM as described. os_type: VMware's guest id, "" when not given; firmware: bios or efi; disks: in the order of
    the descriptor's items, which is the order of virt-v2v's output."""

    name: str
    cpus: int
    memory_bytes: int
    os_type: str = ""
    os_description: str = ""
    firmware: str = "bios"
    secure_boot: bool = False
    disks: tuple[OvfDisk, ...] = ()
    nics: tuple[OvfNic, ...] = ()


def parse(data: bytes) -> Ovf:
    """Reads a descriptor. Raises InvalidArgumentError OVF_TOO_LARGE or NOT_AN_OVF."""
    if len(data) > MAX_BYTES:
        raise InvalidArgumentError(f"the OVF descriptor is larger than {MAX_BYTES >> 20} MiB", "OVF_TOO_LARGE")
    try:
        root = xml_document.parse(data, LIMITS)
    except XmlTooLargeError:
        raise InvalidArgumentError("the OVF descriptor has too many elements", "OVF_TOO_LARGE") from None
    except XmlError as error:
        raise _refused(str(error)) from None
    if root.name != "Envelope" or not root.namespace.startswith(_OVF):
        raise _refused("it is no OVF envelope")
    systems = [child for child in root.children if child.name == "VirtualSystem"]
    if len(systems) != 1 or root.child("VirtualSystemCollection") is not None:
        raise _refused("it does not describe exactly one VM")
    system = systems[0]
    hardware = system.child("VirtualHardwareSection")
    if hardware is None:
        raise _refused("it describes no hardware")
    items = [child for child in hardware.children if child.name in ("Item", "StorageItem", "EthernetPortItem")]
    os_section = system.child("OperatingSystemSection")
    config = {child.get("key"): child.get("value") for child in hardware.children if child.name == "Config"}
    boot = {
        child.get("key"): child.get("value")
        for child in hardware.walk()
        if child.name == "Config" and child.get("key").startswith("bootOptions.")
    }
    return Ovf(
        name=(system.text_of("Name") or system.get("id"))[:255],
        cpus=_cpus(items),
        memory_bytes=_memory_bytes(items),
        os_type=os_section.get("osType")[:64] if os_section is not None else "",
        os_description=os_section.text_of("Description")[:255] if os_section is not None else "",
        firmware="efi" if config.get("firmware") == "efi" else "bios",
        secure_boot=boot.get("bootOptions.efiSecureBootEnabled") == "true",
        disks=tuple(_disks(root, items)),
        nics=tuple(_nics(items)),
    )


def _disks(root: Element, items: list[Element]) -> Iterator[OvfDisk]:
    references = root.child("References") or Element("References")
    section = root.child("DiskSection") or Element("DiskSection")
    files = {file.get("id"): file for file in references.children if file.name == "File"}
    disks = {disk.get("diskId"): disk for disk in section.children if disk.name == "Disk"}
    controllers = {item.text_of("InstanceID"): item for item in items if item.text_of("InstanceID")}
    wanted = [item for item in items if item.text_of("ResourceType") == _DISK]
    if len(wanted) > MAX_DISKS:
        raise _refused(f"it has more than {MAX_DISKS} disks")
    for item in wanted:
        resource = item.text_of("HostResource")
        disk = disks.get(resource.rpartition("/")[2])
        if disk is None:
            raise _refused(f"its disk {resource[:80]!r} is not described")
        file = files.get(disk.get("fileRef"))
        controller = controllers.get(item.text_of("Parent")) or Element("Item")
        yield OvfDisk(
            file_name=_file_name(disk, files),
            capacity_bytes=_capacity_bytes(disk),
            controller=controller.text_of("ResourceSubType").lower()[:32],
            bus_number=_small_number(controller.text_of("Address")),
            unit=_small_number(item.text_of("AddressOnParent")),
            file_bytes=_file_bytes(file) if file is not None else 0,
        )


def _file_name(disk: Element, files: dict[str, Element]) -> str:
    reference = disk.get("fileRef")
    if not reference:
        return ""
    file = files.get(reference)
    if file is None:
        raise _refused(f"it names a file {reference[:80]!r} that it does not list")
    name = file.get("href")
    if not _FILE_NAME.fullmatch(name):
        raise _refused(f"the file name {name[:80]!r} is not allowed: letters, digits, dots and dashes, and no path")
    if file.get("compression") not in ("", "identity") or file.get("chunkSize"):
        raise _refused(f"the file {name} is compressed or cut in chunks, which is not supported")
    return name


def _file_bytes(file: Element) -> int:
    size = file.get("size")
    return int(size) if _NUMBER.fullmatch(size) else 0


def _capacity_bytes(disk: Element) -> int:
    capacity = disk.get("capacity")
    if not _NUMBER.fullmatch(capacity):
        raise _refused("a disk's capacity is no number")
    return _in_bytes(int(capacity), disk.get("capacityAllocationUnits") or "byte", "a disk's capacity")


def _cpus(items: list[Element]) -> int:
    cpus = _quantity(items, _CPU, "CPUs", 1)
    if cpus > _MAX_CPUS:
        raise _refused(f"the VM has more than {_MAX_CPUS} CPUs")
    return cpus


def _memory_bytes(items: list[Element]) -> int:
    for item in items:
        if item.text_of("ResourceType") == _MEMORY:
            quantity = _quantity([item], _MEMORY, "memory", 0)
            return _in_bytes(quantity, item.text_of("AllocationUnits") or "byte * 2^20", "the memory")
    raise _refused("it does not say how much memory the VM has")


def _nics(items: list[Element]) -> Iterator[OvfNic]:
    wanted = [item for item in items if item.text_of("ResourceType") == _NIC]
    if len(wanted) > MAX_NICS:
        raise _refused(f"it has more than {MAX_NICS} network interfaces")
    for item in wanted:
        address = item.text_of("Address").lower()
        yield OvfNic(
            network=item.text_of("Connection")[:255],
            model=item.text_of("ResourceSubType").lower()[:32],
            mac=address if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", address, re.ASCII) else "",
        )


def _quantity(items: list[Element], kind: str, what: str, smallest: int) -> int:
    for item in items:
        if item.text_of("ResourceType") == kind:
            text = item.text_of("VirtualQuantity")
            if not _NUMBER.fullmatch(text) or int(text) < smallest:
                raise _refused(f"the number of {what} is no number")
            return int(text)
    raise _refused(f"it does not tell the VM's {what}")


def _small_number(text: str) -> int:
    """A place on a bus; 0 when it is not told."""
    if text and not _PLACE.fullmatch(text):
        raise _refused(f"the place {text[:40]!r} of a disk is no number")
    return int(text or 0)


def _in_bytes(quantity: int, units: str, what: str) -> int:
    size_bytes = quantity << _shift(units)
    if size_bytes > _MAX_BYTES_OF_A_PART:
        raise _refused(f"{what} is larger than {_MAX_BYTES_OF_A_PART >> 50} PiB")
    return size_bytes


def _shift(units: str) -> int:
    words = _WORDS.get(units.strip().lower())
    if words is not None:
        return words
    power = _POWER.fullmatch(units.strip())
    if power is None or int(power[1] or 0) > 50:
        raise _refused(f"the unit {units[:40]!r} is not understood")
    return int(power[1] or 0)


def _refused(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the OVF descriptor cannot be used: {what}", "NOT_AN_OVF")
