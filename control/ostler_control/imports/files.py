"""From files to a VM that can be imported: an OVF descriptor, or images with nothing but themselves. Pure.

Descriptions come from strangers: what they name is only ever looked up among the files that were announced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, bad_field

from ostler_control.imports.ovf import Ovf
from ostler_control.imports.preflight import MAX_DISKS, MAX_NICS
from ostler_control.imports.wanted import SourceFile
from ostler_control.vmware.inventory import Disk, Nic, Power, SourceVm

MAX_FILES = 256
# As virt-v2v and qemu-img read them; anything else has no name that a staging directory takes.
SUFFIXES = (".vmdk", ".qcow2", ".raw", ".img", ".vhdx", ".vdi")
_MAX_BYTES = 64 << 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Announced:
    """A file that the caller has. sha256: hex, "" when unknown; capacity_bytes: of the disk in it, 0 when unknown."""

    name: str
    size_bytes: int
    sha256: str = ""
    capacity_bytes: int = 0


@dataclass(frozen=True)
class Machine:
    """What images do not say of their VM. guest_id: as in an OVF, "" when unknown; networks: one for each network
    interface."""

    name: str
    firmware: str
    cpus: int
    memory_bytes: int
    guest_id: str = ""
    networks: tuple[str, ...] = ()


def check_announced(files: Sequence[Announced], field: str = "files") -> None:
    """Raises InvalidArgumentError for what no file may be."""
    if len(files) > MAX_FILES or len({file.name for file in files}) < len(files):
        raise bad_field(field, f"must be at most {MAX_FILES}, each with another name", "INVALID_FILES")
    for number, file in enumerate(files):
        path = f"{field}[{number}]"
        if not _NAME.fullmatch(file.name):
            raise bad_field(
                f"{path}.name", "must be letters, digits, dots, dashes and spaces, and no path", "INVALID_FILE_NAME"
            )
        if not 0 < file.size_bytes <= _MAX_BYTES or not 0 <= file.capacity_bytes <= _MAX_BYTES:
            raise bad_field(f"{path}.size_bytes", f"must be 1 to {_MAX_BYTES}", "INVALID_SIZE")
        if file.sha256 and not _SHA256.fullmatch(file.sha256):
            raise bad_field(f"{path}.sha256", "must be 64 lower-case hex digits", "INVALID_DIGEST")


def of_descriptor(
    ovf: Ovf, files: Sequence[Announced], new_mac: Callable[[], str], *, new_macs: bool = False
) -> tuple[SourceVm, Mapping[int, SourceFile]]:
    """The VM that a descriptor describes, and the file of each of its disks.

    new_mac: makes an address, for interfaces without one and, with new_macs, for all. Raises InvalidArgumentError
    NOT_AN_OVF; FailedPreconditionError OVF_FILE_MISSING, OVF_EMPTY_DISK, NOT_AN_IMAGE.
    """
    announced = {file.name: file for file in files}
    used: dict[int, SourceFile] = {}
    for key, disk in enumerate(ovf.disks, start=1):
        if not disk.file_name:
            raise FailedPreconditionError(
                f"disk {key} of {ovf.name} has no file: it is empty (remove it, and add a volume afterwards)",
                "OVF_EMPTY_DISK",
            )
        if disk.file_name not in announced:
            raise FailedPreconditionError(
                f"the descriptor names {disk.file_name}, which is not among the files",
                "OVF_FILE_MISSING",
                {"file": disk.file_name},
            )
        used[key] = _source_file(key, announced[disk.file_name])
    if len({file.name for file in used.values()}) < len(used):
        raise InvalidArgumentError("the OVF descriptor cannot be used: two disks have one file", "NOT_AN_OVF")
    disks = tuple(
        Disk(key, f"disk {key} ({disk.file_name})", disk.capacity_bytes) for key, disk in enumerate(ovf.disks, start=1)
    )
    nics = tuple(
        Nic(key, f"network interface {key}", nic.model, new_mac() if new_macs or not nic.mac else nic.mac, nic.network)
        for key, nic in enumerate(ovf.nics, start=1)
    )
    vm = SourceVm(
        ref=next((file.name for file in used.values()), ovf.name)[:255],
        name=ovf.name,
        power=Power.OFF,
        guest_id=(ovf.os_type or ovf.os_description)[:64],
        guest_name=ovf.os_description,
        firmware=ovf.firmware,
        secure_boot=ovf.secure_boot,
        cpus=ovf.cpus,
        memory_bytes=ovf.memory_bytes,
        disks=disks,
        nics=nics,
        export_bytes=sum(file.size_bytes for file in used.values()),
    )
    return vm, used


def of_images(
    machine: Machine, files: Sequence[Announced], new_mac: Callable[[], str]
) -> tuple[SourceVm, Mapping[int, SourceFile]]:
    """The VM of images, the boot disk first. Raises InvalidArgumentError; FailedPreconditionError NOT_AN_IMAGE."""
    if not 1 <= len(files) <= MAX_DISKS:
        raise bad_field("files", f"must be 1 to {MAX_DISKS}", "INVALID_FILES")
    if len(machine.networks) > MAX_NICS:
        raise bad_field("machine.networks", f"must be at most {MAX_NICS}", "TOO_MANY_NICS")
    used = {key: _source_file(key, file) for key, file in enumerate(files, start=1)}
    vm = SourceVm(
        ref=files[0].name,
        name=machine.name,
        power=Power.OFF,
        guest_id=machine.guest_id[:64],
        firmware=machine.firmware,
        cpus=machine.cpus,
        memory_bytes=machine.memory_bytes,
        disks=tuple(
            Disk(key, f"disk {key} ({file.name})", file.capacity_bytes or file.size_bytes)
            for key, file in enumerate(files, start=1)
        ),
        nics=tuple(
            Nic(key, f"network interface {key}", "virtio", new_mac(), network)
            for key, network in enumerate(machine.networks, start=1)
        ),
        export_bytes=sum(file.size_bytes for file in files),
    )
    return vm, used


def _source_file(key: int, file: Announced) -> SourceFile:
    """Its name in the staging directory is Ostler's own: only the suffix is the stranger's, out of a short list."""
    suffix = PurePosixPath(file.name).suffix.lower()
    if suffix not in SUFFIXES:
        raise FailedPreconditionError(
            f"{file.name} is no disk image that can be imported: its name must end in {', '.join(SUFFIXES)}",
            "NOT_AN_IMAGE",
            {"file": file.name},
        )
    return SourceFile(file.name, f"disk{key}{suffix}", file.size_bytes, file.sha256)


def random_mac(random_bytes: Callable[[int], bytes]) -> str:
    """An address of QEMU's range."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in random_bytes(3))
