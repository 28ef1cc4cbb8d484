"""Domains of another host, whose disks are to be copied: what maps onto a VM of Ostler's, and what does not. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ostler_common.scaled_size import parse_scaled_size

from ostler_agent.hypervisors.foreign import MAX_DISKS, MAX_NICS, Problem
from ostler_agent.hypervisors.libvirt.xml import foreign
from ostler_agent.hypervisors.libvirt.xml.disks import path_of
from ostler_agent.spec import DiskFormat, PowerState

MAX_TEXT = 255
_MAX_PROBLEMS = 100
_MAX_CPUS, _MAX_MEMORY_BYTES = 4096, 64 << 40
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_TARGET = re.compile(r"[a-z]{1,8}[0-9]{0,4}", re.ASCII)
_OS_IDS = "{http://libosinfo.org/xmlns/libvirt/domain/1.0}"


@dataclass(frozen=True)
class RemoteDisk:
    """A disk. target: its name in the definition ("vda"); path: of its file on its host; luks: libvirt opens it with a
    passphrase."""

    target: str
    path: str
    format: DiskFormat
    luks: bool = False


@dataclass(frozen=True)
class RemoteNic:
    """A network interface. mac: "" for none; network: libvirt's network or the bridge; model: "" for the default."""

    mac: str
    network: str
    model: str


@dataclass(frozen=True)
class Definition:
    """A domain's definition. os_id: libosinfo's ("http://debian.org/debian/12"), "" when it says none."""

    cpus: int
    memory_bytes: int
    uefi: bool
    secure_boot: bool
    os_id: str
    disks: tuple[RemoteDisk, ...]
    nics: tuple[RemoteNic, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class RemoteVm:
    """A VM of another host. capacities: of its disks, by target, bytes; 0 for one that libvirt cannot read."""

    vm_id: str
    name: str
    power_state: PowerState
    definition: Definition | None
    capacities: dict[str, int]
    problems: tuple[Problem, ...]


def describe(domain: Element) -> Definition:
    """Reads a definition. Nothing in it is trusted, and no path in it is opened here."""
    problems: list[Problem] = []
    disks = [disk for item in _limited(domain, "disk", MAX_DISKS, problems) for disk in _disk(item, problems)]
    nics = [_nic(item, problems) for item in _limited(domain, "interface", MAX_NICS, problems)]
    # The source keeps its VM and its devices: a copy without them is an import that the operator decides on.
    problems += [Problem(problem.code, plain(problem.text), refuses=False) for problem in foreign.others(domain)]
    return Definition(
        cpus=_cpus(domain, problems),
        memory_bytes=_memory(domain, problems),
        uefi=foreign.is_uefi(domain),
        secure_boot=foreign.is_secure_boot(domain),
        os_id=_os_id(domain),
        disks=tuple(disks),
        nics=tuple(nics),
        problems=tuple(problems[:_MAX_PROBLEMS]),
    )


def _limited(domain: Element, tag: str, maximum: int, problems: list[Problem]) -> list[Element]:
    items = domain.findall(f"devices/{tag}")
    if len(items) > maximum:
        problems.append(
            Problem(f"TOO_MANY_{tag.upper()}S", f"it has {len(items)} elements <{tag}>, more than {maximum}")
        )
    return items[:maximum]


def _cpus(domain: Element, problems: list[Problem]) -> int:
    text = (domain.findtext("vcpu") or "1").strip()
    if text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= _MAX_CPUS:
        return int(text)
    problems.append(Problem("CPUS", f"its number of CPUs cannot be read: {text[:20]!r}"))
    return 1


def _memory(domain: Element, problems: list[Problem]) -> int:
    memory = domain.find("memory")
    try:
        size_bytes = parse_scaled_size(memory.text or "", memory.get("unit")) if memory is not None else 0
    except ValueError:
        size_bytes = 0
    if 0 < size_bytes <= _MAX_MEMORY_BYTES:
        return size_bytes
    problems.append(Problem("MEMORY", "its memory size cannot be read"))
    return 1 << 30


def _os_id(domain: Element) -> str:
    item = domain.find(f"metadata/{_OS_IDS}libosinfo/{_OS_IDS}os")
    return plain(item.get("id", "")) if item is not None else ""


def _disk(item: Element, problems: list[Problem]) -> list[RemoteDisk]:
    """The disk, if an import can copy it."""
    target = item.find("target")
    name, bus = (target.get("dev", ""), target.get("bus", "")) if target is not None else ("", "")
    shown = plain(name) or "?"
    path = path_of(item.find("source"))
    kind = item.get("device", "disk")
    if kind in ("cdrom", "floppy"):
        if path:
            problems.append(Problem("REMOVABLE_MEDIUM", f"{shown}: a {kind}", refuses=False))
        return []
    refusal = _refusal(item, kind, name, path)
    if refusal is not None:
        code, text = refusal
        problems.append(Problem(code, f"disk {shown} {text}"))
        return []
    if bus != "virtio":
        text = (
            f"disk {shown} is on the {plain(bus) or 'unknown'} bus here and on virtio then: the guest needs its driver"
        )
        problems.append(Problem("DISK_BUS", text, refuses=False))
    return [RemoteDisk(name, str(path), DiskFormat(_format(item)), _has_encryption(item))]


def _refusal(item: Element, kind: str, name: str, path: str | None) -> tuple[str, str] | None:
    if kind != "disk" or item.get("type") != "file" or path is None or not _TARGET.fullmatch(name):
        return "DISK_TYPE", "is no file; copy it into one, or move it there first"
    if _format(item) not in tuple(DiskFormat):
        return "DISK_FORMAT", f"has the format {plain(_format(item)) or 'unknown'}, not qcow2 or raw"
    if item.find("shareable") is not None or item.find("transient") is not None:
        return "DISK_SHARED", "is shared or transient"
    if item.find("mirror") is not None:
        return "DISK_BUSY", "is being copied by libvirt; wait until that has ended"
    return None


def _format(item: Element) -> str:
    driver = item.find("driver")
    return driver.get("type", "") if driver is not None else ""


def _has_encryption(item: Element) -> bool:
    return item.find("encryption") is not None or item.find("source/encryption") is not None


def _nic(item: Element, problems: list[Problem]) -> RemoteNic:
    mac, source, model = (item.find(name) for name in ("mac", "source", "model"))
    address = mac.get("address", "").lower() if mac is not None else ""
    network = ""
    if source is not None:
        network = source.get("network") or source.get("bridge") or source.get("dev") or ""
    if item.get("type") not in ("network", "bridge", "direct"):
        text = f"network interface {plain(address)} is of type {plain(item.get('type', '')) or 'unknown'}"
        problems.append(Problem("NIC_TYPE", f"{text}; it becomes one on a bridge", refuses=False))
    for tag in ("filterref", "bandwidth", "virtualport", "vlan"):
        if item.find(tag) is not None:
            problems.append(
                Problem("NIC_OPTION", f"network interface {plain(address)}: <{tag}> is not kept", refuses=False)
            )
    return RemoteNic(
        mac=address if _MAC.fullmatch(address) else "",
        network=plain(network) or "none",
        model=plain(model.get("type", "")) if model is not None else "",
    )


def plain(text: str) -> str:
    """A text of a stranger's as it may be shown: printable, and short."""
    return "".join(character for character in text if character.isprintable())[:MAX_TEXT]
