"""The files of volumes in memory."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field

from ostler.types.v1 import volume_pb2 as types_volume_pb2


@dataclass
class File:
    """A volume's file. passphrase: b"" for a plain one; also: a second one that opens it; content: equal in copies.

    records: ids of the backups since which writes are recorded; record_id: of the backup that the file is part of;
    since: that of the one it builds on, "" if it has everything.
    """

    size_bytes: int
    format: int
    passphrase: bytes
    key_id: str = ""
    template_id: str = ""
    also: bytes = b""
    content: str = field(default_factory=lambda: str(uuid.uuid4()))
    records: list[str] = field(default_factory=list)
    record_id: str = ""
    since: str = ""


def bytes_of(file: File) -> bytes:
    """What is in a file, as far as its header tells it: an image of the right layout, and its content after that."""
    luks = file.passphrase != b""
    if file.format == types_volume_pb2.DISK_FORMAT_QCOW2:
        fields = (b"QFI\xfb", 3, 0, 0, 16, file.size_bytes, 2 if luks else 0, 1, 0, 0, 1, 0, 0)
        head = struct.pack(">4sIQIIQIIQQIIQ", *fields) + struct.pack(">QQQII", 0, 0, 0, 4, 104) + bytes(8)
    else:
        head = (b"LUKS\xba\xbe\0\1" + bytes(96) + (2).to_bytes(4, "big")).ljust(1024, b"\0") if luks else b""
    return (head + file.content.encode()).ljust(1536, b"\0")
