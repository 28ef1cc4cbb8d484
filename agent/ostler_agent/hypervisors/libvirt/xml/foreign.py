"""Domains that another tool has defined, read under limits: what maps onto a VM of Ostler's, and what does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from ostler_common.disk_names import disk_name

from ostler_agent.hypervisors.foreign import MAX_DISKS, MAX_NICS, ForeignDisk, ForeignNic, Problem
from ostler_agent.hypervisors.libvirt.xml.disks import path_of

NIC_MODELS = ("virtio", "e1000e", "e1000", "rtl8139")
_FORMATS = ("qcow2", "raw")
_SLOTS = {disk_name("vd", slot): slot for slot in range(MAX_DISKS)}
_Q35 = re.compile(r"(pc-)?q35.*")
# Devices that Ostler's own definition has in its own way, or that a guest does not miss.
_KNOWN = frozenset(
    {
        "emulator", "disk", "interface", "controller", "serial", "console", "graphics", "video", "memballoon", "rng",
        "input", "audio", "sound", "channel", "panic", "watchdog", "hub",
    }
)  # fmt: skip
_LOST = {
    "hostdev": ("PASSTHROUGH", "a device of the host that is passed through"),
    "tpm": ("TPM", "a TPM, with what the guest keeps in it"),
    "filesystem": ("FILESYSTEM", "a folder of the host that the guest mounts"),
    "memory": ("MEMORY_DEVICE", "a memory device"),
    "shmem": ("SHARED_MEMORY", "memory that is shared with other VMs"),
    "redirdev": ("USB_REDIRECTION", "a USB device that is redirected"),
    "vsock": ("VSOCK", "a vsock device"),
    "lease": ("LEASE", "a lease of a lock manager"),
    "nvram": ("NVRAM", "an NVRAM device"),
    "smartcard": ("SMARTCARD", "a smartcard"),
    "parallel": ("PARALLEL_PORT", "a parallel port"),
    "crypto": ("CRYPTO", "a crypto device"),
    "iommu": ("IOMMU", "an IOMMU"),
    "pstore": ("PSTORE", "a pstore device"),
}


def is_uefi(domain: Element) -> bool:
    """Whether it boots with UEFI."""
    boot = domain.find("os")
    if boot is None:
        return False
    loader = boot.find("loader")
    return boot.get("firmware") == "efi" or (loader is not None and loader.get("type") == "pflash")


def is_secure_boot(domain: Element) -> bool:
    """Whether its UEFI starts signed programs only."""
    loader = domain.find("os/loader")
    features = domain.findall("os/firmware/feature")
    asked = any(item.get("name") == "secure-boot" and item.get("enabled") == "yes" for item in features)
    return asked or (loader is not None and loader.get("secure") == "yes")


def disks(domain: Element) -> tuple[tuple[ForeignDisk, ...], tuple[Problem, ...]]:
    """The disks that map, and what is wrong with the others."""
    found: list[ForeignDisk] = []
    problems: list[Problem] = []
    items = domain.findall("devices/disk")
    if len(items) > MAX_DISKS:
        problems.append(Problem("TOO_MANY_DISKS", f"it has {len(items)} disks, more than {MAX_DISKS}"))
    for item in items[:MAX_DISKS]:
        result = _disk(item)
        if isinstance(result, ForeignDisk):
            found.append(result)
        elif result is not None:
            problems.append(result)
    return tuple(found), tuple(problems)


def _disk(item: Element) -> ForeignDisk | Problem | None:
    target = item.find("target")
    name, bus = (target.get("dev", "?"), target.get("bus", "")) if target is not None else ("?", "")
    source = item.find("source")
    path = path_of(source)
    if item.get("device") in ("cdrom", "floppy"):
        return Problem("REMOVABLE_MEDIUM", f"{name}: a {item.get('device')}", refuses=False) if path else None
    if item.get("device", "disk") != "disk" or item.get("type") not in ("file", "block") or path is None:
        return Problem("DISK_TYPE", f"disk {name} is neither a file nor a device of the host")
    if bus != "virtio" or name not in _SLOTS:
        return Problem("DISK_BUS", f"disk {name} is on the {bus or 'unknown'} bus; Ostler's VMs have virtio disks")
    if item.find("encryption") is not None or (source is not None and source.find("encryption") is not None):
        return Problem(
            "DISK_ENCRYPTED",
            f"disk {name} is encrypted with a key that only libvirt has; shut the VM down and import the file with its "
            "passphrase (ostler import volume)",
        )
    if item.find("readonly") is not None or item.find("shareable") is not None or item.find("transient") is not None:
        return Problem("DISK_SHARED", f"disk {name} is read-only, shared or transient")
    if item.find("mirror") is not None:
        return Problem("DISK_BUSY", f"disk {name} is being copied; wait until that has ended")
    backing = item.find("backingStore")
    if backing is not None and len(backing):
        return Problem("BACKING_FILE", f"disk {name} has a backing file; merge it first (virsh blockpull)")
    driver = item.find("driver")
    format = driver.get("type", "") if driver is not None else ""
    if format not in _FORMATS:
        return Problem("DISK_FORMAT", f"disk {name} has the format {format or 'unknown'}, not qcow2 or raw")
    return ForeignDisk(_SLOTS[name], Path(path), format)


def nics(domain: Element) -> tuple[tuple[ForeignNic, ...], tuple[Problem, ...]]:
    """The network interfaces that map, and what is wrong with the others."""
    found: list[ForeignNic] = []
    problems: list[Problem] = []
    items = domain.findall("devices/interface")
    if len(items) > MAX_NICS:
        problems.append(Problem("TOO_MANY_NICS", f"it has {len(items)} network interfaces, more than {MAX_NICS}"))
    for item in items[:MAX_NICS]:
        mac, source, model = (item.find(name) for name in ("mac", "source", "model"))
        address = mac.get("address", "") if mac is not None else ""
        bridge = source.get("bridge", "") if source is not None else ""
        kind = model.get("type", "") if model is not None else ""
        if item.get("type") not in ("bridge", "network") or not bridge:
            problems.append(Problem("NIC_TYPE", f"network interface {address} is on no bridge of the host"))
        elif kind not in NIC_MODELS:
            problems.append(Problem("NIC_MODEL", f"network interface {address} is a {kind or 'default'} adapter"))
        else:
            found.append(ForeignNic(address.lower(), bridge, kind))
    return tuple(found), tuple(problems)


def others(domain: Element) -> Iterator[Problem]:
    """What else does not map: it refuses the VM where the guest would not be the same without it."""
    machine = domain.find("os/type")
    if machine is not None and not _Q35.fullmatch(machine.get("machine", "")):
        yield Problem(
            "MACHINE_TYPE",
            f"the machine type {machine.get('machine', '')!r} becomes q35 at its next start",
            refuses=False,
        )
    if is_uefi(domain):
        yield Problem("UEFI_VARIABLES", "its UEFI variables are made anew at its next start", refuses=False)
    for name in ("memoryBacking", "cputune", "numatune", "blkiotune", "iothreads"):
        if domain.find(name) is not None:
            yield Problem("TUNING", f"<{name}> is not kept at its next start", refuses=False)
    for child in domain:
        if child.tag.startswith("{http://libvirt.org/schemas/domain/qemu/"):
            yield Problem("QEMU_ARGUMENTS", "arguments for QEMU are not kept at its next start", refuses=False)
    for device in domain.findall("devices/*"):
        if device.tag in _LOST:
            code, text = _LOST[device.tag]
            yield Problem(code, f"it has {text}")
        elif device.tag not in _KNOWN:
            yield Problem("UNKNOWN_DEVICE", f"it has a device <{device.tag[:40]}>, which Ostler does not know")
