"""Reading the header of a disk image that a user brings: pure, and distrustful.

qemu-img would open whatever a header points at; this looks at the bytes only, so that nothing is followed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ostler_common.errors import InvalidArgumentError

QCOW2_MAGIC = b"QFI\xfb"
# As much of a file's beginning as `examine` wants: the header, its extensions and the backing file's name lie within
# the first cluster, and the smallest says least, so more than the common 64 KiB is never needed.
HEAD_BYTES = 64 << 10

_SECTOR = 512
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_EXTERNAL_DATA = 0x44415441
_CRYPTO = 0x0537BE77

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_SMALLEST_CLUSTER_BITS, _LARGEST_CLUSTER_BITS = 9, 21
_LARGEST_VIRTUAL_SIZE = 64 << 40

_CRYPT_LUKS = 2
_LUKS_MAGIC = b"LUKS\xba\xbe"
_LUKS1_BYTES = 592
_NOT_ENCRYPTED = ("NOT_ENCRYPTED", "a passphrase came with it, and it is not encrypted")

# Other containers that would pass as raw, and that somebody surely meant as what they are.
_FOREIGN = {
    b"KDMV": "a VMDK image",
    b"# Disk Descriptor": "a VMDK descriptor",
    b"vhdxfile": "a VHDX image",
    b"conectix": "a VHD image",
    b"<<< Oracle VM VirtualBox": "a VDI image",
    b"\x1f\x8b": "compressed by gzip",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"(\xb5/\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"PK\x03\x04": "a zip archive",
    _LUKS_MAGIC: "an encrypted (LUKS) image",
}


@dataclass(frozen=True)
class Image:
    """What an image's header says. format: qcow2 | raw."""

    format: str
    virtual_size_bytes: int


def examine(head: bytes, file_size_bytes: int, format: str, encrypted: bool = False) -> Image:
    """The image that a file of this size and beginning is, when it is an acceptable one of `format`.

    encrypted: whether it is to be (LUKS in qcow2, or a LUKS1 container as raw). Raises InvalidArgumentError:
    NOT_AN_IMAGE, FORMAT_MISMATCH, or the reason why it is refused (BACKING_FILE, ENCRYPTED_IMAGE, NOT_ENCRYPTED,
    EXTERNAL_DATA_FILE, CORRUPT_IMAGE, UNSUPPORTED_IMAGE).
    """
    if format == "qcow2":
        return _qcow2(head, file_size_bytes, encrypted)
    if encrypted:
        return _luks(head, file_size_bytes)
    if head.startswith(QCOW2_MAGIC):
        raise _refused("FORMAT_MISMATCH", "the file is a qcow2 image, not a raw one")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise _refused(
                "FORMAT_MISMATCH", f"the file is {what}, not a raw image; convert it first (qemu-img convert)"
            )
    if file_size_bytes == 0 or file_size_bytes % _SECTOR:
        raise _refused("NOT_AN_IMAGE", f"a raw image is a whole number of {_SECTOR}-byte sectors, and not empty")
    return Image("raw", file_size_bytes)


def _luks(head: bytes, file_size_bytes: int) -> Image:
    if not head.startswith(_LUKS_MAGIC):
        raise _refused("NOT_ENCRYPTED", "a passphrase came with it, and it is no LUKS container")
    if len(head) < _LUKS1_BYTES or head[6:8] != b"\0\x01":
        raise _refused("UNSUPPORTED_IMAGE", "it is not LUKS version 1, the only one that QEMU opens")
    size_bytes = file_size_bytes - _SECTOR * int.from_bytes(head[104:108], "big")
    if not 0 < size_bytes <= _LARGEST_VIRTUAL_SIZE or size_bytes % _SECTOR:
        raise _refused("CORRUPT_IMAGE", "the LUKS container was cut short")
    return Image("raw", size_bytes)


def _qcow2(head: bytes, file_size_bytes: int, encrypted: bool) -> Image:
    if not head.startswith(QCOW2_MAGIC) or len(head) < _HEADER.size:
        raise _refused("FORMAT_MISMATCH", "the file is no qcow2 image")
    _, version, backing_offset, backing_size, cluster_bits, size_bytes, crypt_method, *tables = _HEADER.unpack_from(
        head
    )
    l1_size, l1_offset, refcount_offset, *_ = tables
    if version not in (2, 3):
        raise _refused("UNSUPPORTED_IMAGE", f"qcow2 version {version} is not known (convert it with qemu-img)")
    if not _SMALLEST_CLUSTER_BITS <= cluster_bits <= _LARGEST_CLUSTER_BITS:
        raise _refused("CORRUPT_IMAGE", "the header's cluster size is out of range")
    if backing_offset or backing_size:
        raise _refused("BACKING_FILE", "the image leans on another file (flatten it with qemu-img convert)")
    if crypt_method and not encrypted:
        raise _refused("ENCRYPTED_IMAGE", "the image is encrypted (decrypt it with qemu-img convert)")
    if encrypted and crypt_method != _CRYPT_LUKS:
        reason, what = ("UNSUPPORTED_IMAGE", "its encryption is not LUKS") if crypt_method else _NOT_ENCRYPTED
        raise _refused(reason, what)
    if not 0 < size_bytes <= _LARGEST_VIRTUAL_SIZE or size_bytes % _SECTOR:
        raise _refused("CORRUPT_IMAGE", f"the header's disk size, {size_bytes} bytes, is out of range")
    for offset, extent in ((l1_offset, l1_size * 8), (refcount_offset, 1)):
        if offset + extent > file_size_bytes:
            raise _refused("CORRUPT_IMAGE", "the header points past the end of the file; the file was cut short")
    if version == 3:
        _check_version_3(head, encrypted)
    return Image("qcow2", size_bytes)


def _check_version_3(head: bytes, encrypted: bool) -> None:
    if len(head) < _HEADER.size + _V3.size:
        raise _refused("CORRUPT_IMAGE", "the header was cut short")
    incompatible, _, _, _, header_length = _V3.unpack_from(head, _HEADER.size)
    if incompatible & _DATA_FILE:
        raise _refused("EXTERNAL_DATA_FILE", "the image keeps its data in another file (use qemu-img convert)")
    if incompatible & _CORRUPT:
        raise _refused("CORRUPT_IMAGE", "the image is marked corrupt (repair it with qemu-img check -r)")
    if incompatible & ~_KNOWN_INCOMPATIBLE:
        raise _refused("UNSUPPORTED_IMAGE", "the image needs features that are not known here")
    offset = header_length
    while offset + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, offset)
        if kind == 0:
            return
        if kind == _EXTERNAL_DATA:
            raise _refused("EXTERNAL_DATA_FILE", "the image names an external data file (use qemu-img convert)")
        if kind == _CRYPTO and not encrypted:
            raise _refused("ENCRYPTED_IMAGE", "the image has an encryption header (decrypt it with qemu-img convert)")
        offset += _EXTENSION.size + (length + 7) // 8 * 8
    raise _refused("CORRUPT_IMAGE", "the header has no end")


def _refused(reason: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the image is refused: {why}", reason)
