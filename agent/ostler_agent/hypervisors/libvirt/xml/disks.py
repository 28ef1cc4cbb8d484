"""Disks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from uuid import UUID
from xml.etree.ElementTree import Element

from ostler_common.disk_names import disk_name
from ostler_common.io_limits import IoLimits

from ostler_agent.hypervisors.libvirt.xml import metadata
from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import DiskSpec

SERIAL_LENGTH = 20  # virtio-blk's limit


@dataclass(frozen=True)
class DiskFile:
    """A volume's file or device. direct_io: whether it supports I/O without the page cache."""

    path: Path
    direct_io: bool = True
    device: bool = False


def target(slot: int) -> str:
    """The device's name: vda for slot 0, vdaa for slot 26."""
    return disk_name("vd", slot)


def serial(volume_id: str) -> str:
    """The serial number, which a guest sees as /dev/disk/by-id/virtio-SERIAL: the beginning of the volume's UUID."""
    return volume_id.replace("-", "")[:SERIAL_LENGTH]


def disk(spec: DiskSpec, file: DiskFile, boot_order: int = 0) -> Element:
    """One disk. QEMU itself opens LUKS, with the passphrase from the libvirt secret with the key's UUID.

    boot_order: its position, 0: the VM does not boot from it.
    """
    volume = spec.volume
    source = element("source", encryption(volume.key.key_id) if volume.key else None)
    item = element(
        "disk",
        # Bypassing the host's page cache saves memory and makes live migration safe on shared storage.
        element(
            "driver",
            name="qemu",
            type=volume.format.value,
            cache="none" if file.direct_io else "writeback",
            discard="ignore" if spec.ignore_discard else "unmap",
            # A guest whose write fails waits instead of losing data (see `stalls`). A failed read is reported to it.
            error_policy="stop",
            rerror_policy="report",
        ),
        source,
        element("backingStore"),  # nothing behind it, whatever its header says
        element("target", dev=target(spec.slot), bus="virtio"),
        _iotune(spec.limits),
        element("serial", serial(spec.serial or volume.volume_id)),
        element("boot", order=str(boot_order)) if boot_order else None,
        type="file",
        device="disk",
    )
    set_path(item, source, file.path, device=file.device)
    return item


def _iotune(limits: IoLimits) -> Element | None:
    """I/O limits, of reads and writes together (https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms)."""
    if not limits:
        return None
    values = {
        "total_bytes_sec": limits.bytes_per_s,
        "total_iops_sec": limits.iops,
        "total_bytes_sec_max": limits.burst_bytes_per_s,
        "total_iops_sec_max": limits.burst_iops,
        "total_bytes_sec_max_length": limits.burst_s if limits.burst_bytes_per_s else 0,
        "total_iops_sec_max_length": limits.burst_s if limits.burst_iops else 0,
    }
    return element("iotune", *(element(name, str(value)) for name, value in values.items() if value))


def path_of(source: Element | None) -> str | None:
    """The path of the file or device in a disk's source, if any."""
    return None if source is None else source.get("file") or source.get("dev")


def set_path(disk: Element, source: Element, path: Path, *, device: bool) -> None:
    """Sets the path of the file or device in a disk's source."""
    for name in ("file", "dev"):
        source.attrib.pop(name, None)
    disk.set("type", "block" if device else "file")
    source.set("dev" if device else "file", str(path))


def encryption(key_id: str) -> Element:
    """The encryption element: the libvirt secret with the key's UUID opens LUKS."""
    return element("encryption", element("secret", type="passphrase", uuid=key_id), format="luks")


@dataclass(frozen=True)
class Mirror:
    """A disk's mirror. ready: it is identical to the disk."""

    volume_id: str | None
    path: str
    key_id: str | None
    ready: bool


@dataclass(frozen=True)
class AttachedDisk:
    """A disk of a domain. volume_id: None if its file's name is not a UUID; alias, mirror: only in a running domain."""

    volume_id: str | None
    path: str
    target: str
    key_id: str | None
    alias: str | None
    mirror: Mirror | None = None

    @property
    def volume_ids(self) -> set[str | None]:
        """The volumes that the disk has open."""
        return {self.volume_id} | ({self.mirror.volume_id} if self.mirror else set())

    @property
    def key_ids(self) -> set[str]:
        """The keys with which they are open."""
        return {key_id for key_id in (self.key_id, self.mirror.key_id if self.mirror else None) if key_id}


def attached_disks(domain: Element) -> list[AttachedDisk]:
    """The disks of a domain that are files or devices of the host."""
    found = []
    names = metadata.old_names(domain)
    for item in domain.findall("devices/disk[@device='disk']"):
        source = item.find("source")
        path = path_of(source)
        if path is None:
            continue
        alias = item.find("alias")
        found.append(
            AttachedDisk(
                volume_id=names.get(path) or volume_of(path),
                path=path,
                target=_get(item.find("target"), "dev") or "",
                key_id=_key_of(source) or _key_of(item),
                alias=_get(alias, "name"),
                mirror=_mirror(item.find("mirror")),
            )
        )
    return found


def _mirror(item: Element | None) -> Mirror | None:
    source = item.find("source") if item is not None else None
    path = path_of(source)
    if item is None or path is None:
        return None
    return Mirror(volume_of(path), path, _key_of(source), item.get("ready") == "yes")


def _key_of(item: Element | None) -> str | None:
    return None if item is None else _get(item.find("encryption/secret"), "uuid")


def volume_of(path: str) -> str | None:
    """The UUID of the volume with this path, from the file's name; a device has a link of that name (see pools)."""
    name = PurePath(path).name
    try:
        return name if str(UUID(name)) == name else None
    except ValueError:
        return None


def _get(item: Element | None, name: str) -> str | None:
    return None if item is None else item.get(name)
