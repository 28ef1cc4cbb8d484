"""Reads the header of a disk image: pure, and never follows what a header points at.

qemu-img opens whatever a header refers to, so every image is read here before QEMU sees it. Layouts: QEMU's
docs/interop/qcow2.txt and the LUKS1 on-disk format specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ostler_common.errors import InvalidArgumentError

QCOW2_MAGIC = b"QFI\xfb"
LUKS_MAGIC = b"LUKS\xba\xbe"
SECTOR_BYTES = 512
# How much of the beginning of a file `check_image` reads: the header, its extensions and the backing file's name lie
# within the first cluster, and the default cluster size is 64 KiB.
HEAD_BYTES = 64 << 10

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_EXTERNAL_DATA_EXTENSION = 0x44415441
_CRYPTO_EXTENSION = 0x0537BE77

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_MIN_CLUSTER_BITS, _MAX_CLUSTER_BITS = 9, 21
_MAX_VIRTUAL_SIZE = 64 << 40
_CRYPT_LUKS = 2
_LUKS1_BYTES = 592
_LUKS1_PAYLOAD_OFFSET = slice(104, 108)
_LUKS1_DIGEST_ITERATIONS = struct.Struct(">I")
_LUKS1_DIGEST_ITERATIONS_OFFSET, _LUKS1_SLOTS_OFFSET, _LUKS1_SLOTS = 164, 208, 8
_LUKS1_SLOT = struct.Struct(">II40x")  # active, iterations, salt and the place of the key material
_LUKS1_SLOT_ACTIVE = 0x00AC71F3
# PBKDF2 iterations of all key slots together that QEMU may be asked for: about a minute of one CPU. Stretching for two
# seconds takes some 10 million.
MAX_ITERATIONS = 200_000_000

# The mark of the first volume descriptor, in sector 16 of 2048 bytes (ECMA-119, 8.1.2).
_ISO_MARK = slice(0x8001, 0x8006)

# Other containers that would pass as raw.
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
    LUKS_MAGIC: "an encrypted (LUKS) image",
}


@dataclass(frozen=True)
class Qcow2Header:
    """The fields of a qcow2 header that decide whether an image is usable. `complete`: the whole header was read."""

    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    virtual_size_bytes: int
    encryption_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    incompatible_features: int
    header_length: int
    complete: bool

    @property
    def is_known_version(self) -> bool:
        return self.version in (2, 3)

    @property
    def has_valid_cluster_size(self) -> bool:
        return _MIN_CLUSTER_BITS <= self.cluster_bits <= _MAX_CLUSTER_BITS

    @property
    def is_encrypted(self) -> bool:
        return self.encryption_method != 0

    @property
    def is_luks(self) -> bool:
        return self.encryption_method == _CRYPT_LUKS

    @property
    def has_backing_file(self) -> bool:
        return bool(self.backing_offset or self.backing_size)

    @property
    def has_external_data_file(self) -> bool:
        return bool(self.incompatible_features & _DATA_FILE)


def parse_qcow2(head: bytes) -> Qcow2Header | None:
    """The qcow2 header at the beginning of a file; None if there is none. Does not judge the values."""
    if not head.startswith(QCOW2_MAGIC) or len(head) < _V2.size:
        return None
    _, version, backing_offset, backing_size, cluster_bits, size, method, *tables = _V2.unpack_from(head)
    l1_entries, l1_offset, refcount_offset, *_ = tables
    incompatible, header_length, complete = 0, _V2.size, True
    if version == 3:
        complete = len(head) >= _V2.size + _V3.size
        if complete:
            incompatible, _, _, _, header_length = _V3.unpack_from(head, _V2.size)
    return Qcow2Header(
        version,
        backing_offset,
        backing_size,
        cluster_bits,
        size,
        method,
        l1_entries,
        l1_offset,
        refcount_offset,
        incompatible,
        header_length,
        complete,
    )


def luks1_payload_bytes(head: bytes, file_size_bytes: int) -> int | None:
    """The size of the disk inside a LUKS1 container (negative if the file was cut short); None if it is not one."""
    if len(head) < _LUKS1_BYTES or not head.startswith(LUKS_MAGIC) or head[6:8] != b"\0\x01":
        return None
    return file_size_bytes - SECTOR_BYTES * int.from_bytes(head[_LUKS1_PAYLOAD_OFFSET], "big")


def luks1_iterations(header: bytes) -> int | None:
    """How many PBKDF2 iterations it takes to try one passphrase on a LUKS1 header; None if it is not one.

    A hostile header may ask for billions, which would keep a host busy for hours.
    """
    if len(header) < _LUKS1_BYTES or not header.startswith(LUKS_MAGIC) or header[6:8] != b"\0\x01":
        return None
    (total,) = _LUKS1_DIGEST_ITERATIONS.unpack_from(header, _LUKS1_DIGEST_ITERATIONS_OFFSET)
    for slot in range(_LUKS1_SLOTS):
        active, iterations = _LUKS1_SLOT.unpack_from(header, _LUKS1_SLOTS_OFFSET + slot * _LUKS1_SLOT.size)
        if active == _LUKS1_SLOT_ACTIVE:
            total += iterations
    return int(total)


def luks_offset(head: bytes) -> int | None:
    """Where the LUKS header of an encrypted image begins in its file; None if the image has none.

    head: the beginning of the file, with all header extensions of a qcow2 image.
    """
    if head.startswith(LUKS_MAGIC):
        return 0
    header = parse_qcow2(head)
    offset = header.header_length if header is not None and header.is_luks else len(head)
    while offset + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, offset)
        if kind == _CRYPTO_EXTENSION and offset + _EXTENSION.size + 8 <= len(head):
            return int.from_bytes(head[offset + _EXTENSION.size :][:8], "big")
        if kind == 0:
            return None
        offset += _EXTENSION.size + (length + 7) // 8 * 8
    return None


def check_iterations(header: bytes) -> None:
    """Raises InvalidArgumentError STRETCHED_TOO_LONG for a LUKS1 header whose passphrase takes too long to try."""
    iterations = luks1_iterations(header)
    if iterations is not None and iterations > MAX_ITERATIONS:
        raise _refused(
            "STRETCHED_TOO_LONG",
            f"its LUKS header asks for {iterations:,} PBKDF2 iterations, and {MAX_ITERATIONS:,} are allowed "
            "(re-encrypt it with a smaller iter-time)",
        )


def detect_format(head: bytes) -> tuple[str, bool]:
    """The format that a file appears to have (qcow2 | raw) and whether it is encrypted; a guess, not a check."""
    if head.startswith(QCOW2_MAGIC):
        header = parse_qcow2(head)
        return "qcow2", header is not None and header.is_encrypted
    return "raw", head.startswith(LUKS_MAGIC)


@dataclass(frozen=True)
class Image:
    """What the header of an accepted image says. format: qcow2 | raw."""

    format: str
    virtual_size_bytes: int


def check_image(head: bytes, file_size_bytes: int, format: str, encrypted: bool = False) -> Image:
    """Checks an image that a user brings, of which `head` is the beginning (HEAD_BYTES, or the whole file).

    encrypted: whether it must be encrypted (LUKS in qcow2, or a LUKS1 container as raw). Raises InvalidArgumentError:
    NOT_AN_IMAGE, FORMAT_MISMATCH, BACKING_FILE, ENCRYPTED_IMAGE, NOT_ENCRYPTED, EXTERNAL_DATA_FILE, CORRUPT_IMAGE,
    UNSUPPORTED_IMAGE, STRETCHED_TOO_LONG (if the LUKS header is within `head`).
    """
    if encrypted and (offset := luks_offset(head)) is not None:
        check_iterations(head[offset:])
    if format == "qcow2":
        return _check_qcow2(head, file_size_bytes, encrypted)
    if encrypted:
        return _check_luks(head, file_size_bytes)
    if head.startswith(QCOW2_MAGIC):
        raise _refused("FORMAT_MISMATCH", "the file is a qcow2 image, not a raw one")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise _refused(
                "FORMAT_MISMATCH", f"the file is {what}, not a raw image; convert it first (qemu-img convert)"
            )
    if file_size_bytes == 0 or file_size_bytes % SECTOR_BYTES:
        raise _refused("NOT_AN_IMAGE", f"a raw image is a whole number of {SECTOR_BYTES}-byte sectors, and not empty")
    return Image("raw", file_size_bytes)


def check_iso(head: bytes, file_size_bytes: int) -> None:
    """Checks an ISO image that a user brings: ISO 9660, alone or beside UDF. Raises InvalidArgumentError like
    `check_image`."""
    if head[_ISO_MARK] != b"CD001":
        raise _refused("NOT_AN_IMAGE", "the file is not an ISO 9660 image, such as a CD-ROM or an installer has")
    check_image(head, file_size_bytes, "raw")


def _check_luks(head: bytes, file_size_bytes: int) -> Image:
    if not head.startswith(LUKS_MAGIC):
        raise _refused("NOT_ENCRYPTED", "a passphrase was given, but the file is not a LUKS container")
    size_bytes = luks1_payload_bytes(head, file_size_bytes)
    if size_bytes is None:
        raise _refused("UNSUPPORTED_IMAGE", "the file is not LUKS version 1, the only version that QEMU opens")
    if not _is_valid_size(size_bytes):
        raise _refused("CORRUPT_IMAGE", "the LUKS container was cut short")
    return Image("raw", size_bytes)


def _check_qcow2(head: bytes, file_size_bytes: int, encrypted: bool) -> Image:
    header = parse_qcow2(head)
    if header is None:
        raise _refused("FORMAT_MISMATCH", "the file is not a qcow2 image")
    if not header.is_known_version:
        raise _refused("UNSUPPORTED_IMAGE", f"qcow2 version {header.version} is unknown (convert it with qemu-img)")
    if not header.has_valid_cluster_size:
        raise _refused("CORRUPT_IMAGE", "the header's cluster size is out of range")
    if header.has_backing_file:
        raise _refused("BACKING_FILE", "the image has a backing file (flatten it with qemu-img convert)")
    if header.is_encrypted and not encrypted:
        raise _refused("ENCRYPTED_IMAGE", "the image is encrypted (decrypt it with qemu-img convert)")
    if encrypted and not header.is_encrypted:
        raise _refused("NOT_ENCRYPTED", "a passphrase was given, but the image is not encrypted")
    if encrypted and not header.is_luks:
        raise _refused("UNSUPPORTED_IMAGE", "the image is encrypted, but not with LUKS")
    if not _is_valid_size(header.virtual_size_bytes):
        raise _refused("CORRUPT_IMAGE", f"the header's disk size, {header.virtual_size_bytes} bytes, is out of range")
    for offset, extent in ((header.l1_offset, header.l1_entries * 8), (header.refcount_offset, 1)):
        if offset + extent > file_size_bytes:
            raise _refused("CORRUPT_IMAGE", "the header points past the end of the file; the file was cut short")
    if header.version == 3:
        _check_version_3(header, head, encrypted)
    return Image("qcow2", header.virtual_size_bytes)


def _check_version_3(header: Qcow2Header, head: bytes, encrypted: bool) -> None:
    if not header.complete:
        raise _refused("CORRUPT_IMAGE", "the header was cut short")
    if header.has_external_data_file:
        raise _refused("EXTERNAL_DATA_FILE", "the image stores its data in another file (use qemu-img convert)")
    if header.incompatible_features & _CORRUPT:
        raise _refused("CORRUPT_IMAGE", "the image is marked corrupt (repair it with qemu-img check -r)")
    if header.incompatible_features & ~_KNOWN_INCOMPATIBLE:
        raise _refused("UNSUPPORTED_IMAGE", "the image needs features that Ostler does not know")
    offset = header.header_length
    while offset + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, offset)
        if kind == 0:
            return
        if kind == _EXTERNAL_DATA_EXTENSION:
            raise _refused("EXTERNAL_DATA_FILE", "the image names an external data file (use qemu-img convert)")
        if kind == _CRYPTO_EXTENSION and not encrypted:
            raise _refused("ENCRYPTED_IMAGE", "the image has an encryption header (decrypt it with qemu-img convert)")
        offset += _EXTENSION.size + (length + 7) // 8 * 8
    raise _refused("CORRUPT_IMAGE", "the header has no end")


def _is_valid_size(size_bytes: int) -> bool:
    return 0 < size_bytes <= _MAX_VIRTUAL_SIZE and size_bytes % SECTOR_BYTES == 0


def _refused(reason: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the image is refused: {why}", reason)
