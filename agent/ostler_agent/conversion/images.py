"""What a staged disk image is, found out without trusting it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ostler_common.errors import FailedPreconditionError

from ostler_agent.conversion import vmdk
from ostler_agent.conversion.staging import IMAGE_SUFFIXES, is_regular
from ostler_agent.image_header import open_image, read_header
from ostler_agent.spec import DiskFormat, SourceFormat
from ostler_agent.tools import qemu_img

_QCOW2_MAGIC = b"QFI\xfb"
_LUKS1_MAGIC = b"LUKS\xba\xbe\0\x01"
_VHDX_MAGIC = b"vhdxfile"
_VDI_SIGNATURE = slice(64, 68)
_VDI_MAGIC = (0xBEDA107F).to_bytes(4, "little")
_BY_SUFFIX = {
    ".vmdk": SourceFormat.VMDK,
    ".qcow2": SourceFormat.QCOW2,
    ".raw": SourceFormat.RAW,
    ".vhdx": SourceFormat.VHDX,
    ".vdi": SourceFormat.VDI,
}


@dataclass(frozen=True)
class SourceImage:
    """A disk image that can be converted. file_size_bytes: with its extents; encrypted: by LUKS."""

    name: str
    format: SourceFormat
    virtual_size_bytes: int
    file_size_bytes: int
    encrypted: bool = False


def inspect(path: Path, disk_format: SourceFormat | None = None, encrypted: bool | None = None) -> SourceImage:
    """Inspects an image of a staging directory. disk_format: what it is to be; None: what name and content say.

    encrypted: whether a raw image is to be a LUKS1 container; None: as it looks (the guest may have made one).

    QEMU reads it under limits of time and memory, and only once it is proved to refer to nothing outside.
    Raises FailedPreconditionError (NOT_AN_IMAGE, BACKING_FILE_REFUSED), NotFoundError (VOLUME_NOT_FOUND).
    """
    found = disk_format or detect(path)
    size_bytes = _size(path)
    if found in (SourceFormat.RAW, SourceFormat.QCOW2):
        if encrypted is None:
            encrypted = _head(path).startswith(_LUKS1_MAGIC)
        header = read_header(path, DiskFormat(found), encrypted)
        if not header.encrypted and found is SourceFormat.QCOW2:
            qemu_img.info(path, found)  # a header may be right and the rest not
        return SourceImage(path.name, found, header.virtual_size_bytes, size_bytes, header.encrypted)
    if found is SourceFormat.VMDK:
        size_bytes += sum(_size(path.parent / name) for name in vmdk.extents_of(path))
    info = qemu_img.info(path, found)
    if info.backing_file:
        _refuse(path, "refers to another file", "BACKING_FILE_REFUSED")
    return SourceImage(path.name, found, info.virtual_size_bytes, size_bytes)


def image_names(directory: Path) -> list[str]:
    """The images of a staging directory that are whole, without those that are parts of another one."""
    names = [path.name for path in sorted(directory.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    names = [name for name in names if not name.startswith(".") and is_regular(directory / name)]
    parts: set[str] = set()
    for name in names:
        if _head(directory / name).startswith(vmdk.DESCRIPTOR_MAGIC):
            parts.update(vmdk.extents_of(directory / name))
    return [name for name in names if name not in parts]


def detect(path: Path) -> SourceFormat:
    """The format that name and content agree on; ".img" says nothing, so the content alone decides.

    Raises FailedPreconditionError (NOT_AN_IMAGE) when they do not agree.
    """
    by_content = _by_content(_head(path))
    by_suffix = _BY_SUFFIX.get(path.suffix.lower(), by_content)
    if by_suffix not in (by_content, SourceFormat.RAW):
        _refuse(path, f"is named like a {by_suffix} image and is none")
    return by_suffix


def _by_content(head: bytes) -> SourceFormat:
    if head.startswith((vmdk.SPARSE_MAGIC, vmdk.DESCRIPTOR_MAGIC)):
        return SourceFormat.VMDK
    if head.startswith(_QCOW2_MAGIC):
        return SourceFormat.QCOW2
    if head.startswith(_VHDX_MAGIC):
        return SourceFormat.VHDX
    if head[_VDI_SIGNATURE] == _VDI_MAGIC:
        return SourceFormat.VDI
    return SourceFormat.RAW


def _head(path: Path) -> bytes:
    with open(open_image(path), "rb") as file:
        return file.read(4096)


def _size(path: Path) -> int:
    return path.lstat().st_size if is_regular(path) else 0


def _refuse(path: Path, what: str, reason: str = "NOT_AN_IMAGE") -> NoReturn:
    raise FailedPreconditionError(f"{path.name} {what}", reason, {"file": path.name})
