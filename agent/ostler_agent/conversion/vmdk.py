"""Reads what a VMDK refers to, before QEMU does: QEMU opens whatever a descriptor names.

Layout: VMware's "Virtual Disk Format 5.0" and QEMU's block/vmdk.c, which is what will read the image. A line of a
descriptor that is not understood here is refused, for QEMU might understand it.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NoReturn

from ostler_common.errors import FailedPreconditionError

from ostler_agent.conversion.staging import is_regular, is_staged_name
from ostler_agent.image_header import open_image

SPARSE_MAGIC = b"KDMV"
DESCRIPTOR_MAGIC = b"# Disk DescriptorFile"
MAX_EXTENTS = 128
_MAX_DESCRIPTOR_BYTES = 64 << 10
_HEADER = struct.Struct("<4sIIQ")  # magic, version, flags, capacity in sectors
_EXTENT = re.compile(r'RW [0-9]{1,15} (?:(?P<type>FLAT|SPARSE|VMFS) "(?P<name>[^"]*)"(?: [0-9]{1,15})?|ZERO)')
_ACCESS = ("RW", "RDONLY", "NOACCESS")
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_.]* ?= ?.*")
_NO_PARENT = "ffffffff"


def extents_of(path: Path) -> tuple[str, ...]:
    """Names of the files beside a VMDK that hold its data; none when it holds them itself.

    Raises FailedPreconditionError (NOT_AN_IMAGE; BACKING_FILE_REFUSED for one that needs another disk, or a file that
    is not beside it).
    """
    head = _head(path)
    if head.startswith(SPARSE_MAGIC):
        _check_sparse(path, head)
        return ()
    if not head.startswith(DESCRIPTOR_MAGIC):
        _refuse(path, "is not a VMDK image")
    extents = _parse(path, head)
    for _, name in extents:
        if not is_staged_name(name) or name == path.name or not is_regular(path.parent / name):
            _refuse(path, f"needs the file {name[:100]!r}, which is not in its directory", "BACKING_FILE_REFUSED")
    for kind, name in extents:
        if kind == "SPARSE":
            extent = path.parent / name
            extent_head = _head(extent)
            if not extent_head.startswith(SPARSE_MAGIC):
                _refuse(extent, "is not a sparse VMDK extent")
            _check_sparse(extent, extent_head)
    return tuple(name for _, name in extents)


def _check_sparse(path: Path, head: bytes) -> None:
    """Refuses a sparse file that needs others: by a descriptor in the place of data, or by a parent."""
    if len(head) < _HEADER.size or not _HEADER.unpack_from(head)[3]:
        _refuse(path, "is a VMDK without data of its own", "BACKING_FILE_REFUSED")
    if b"parentFileNameHint" in head:
        _refuse(path, "is a snapshot of another disk (export it merged)", "BACKING_FILE_REFUSED")


def _parse(path: Path, head: bytes) -> list[tuple[str, str]]:
    """The extents of a descriptor that have files: type and name."""
    if len(head) == _MAX_DESCRIPTOR_BYTES:
        _refuse(path, f"has a descriptor of more than {_MAX_DESCRIPTOR_BYTES} bytes")
    try:
        text = head.partition(b"\0")[0].decode("ascii")
    except UnicodeDecodeError:
        _refuse(path, "has a descriptor that is not ASCII text")
    extents = []
    for line in re.split(r"\r?\n", text):
        found = _EXTENT.fullmatch(line)
        if found and found["name"] is not None:
            extents.append((found["type"], found["name"]))
        elif found is None:
            _check_setting(path, line)
    if not extents or len(extents) > MAX_EXTENTS:
        _refuse(path, f"has {len(extents)} extents, not 1 to {MAX_EXTENTS}")
    return extents


def _check_setting(path: Path, line: str) -> None:
    """Refuses a line of a descriptor that is neither a comment nor a setting without consequence."""
    if not line or line.startswith("#"):
        return
    if not _SETTING.fullmatch(line) or line.startswith(_ACCESS):
        _refuse(path, f"has a descriptor with the line {line[:100]!r}, which is not understood")
    name, value = (part.strip() for part in line.split("=", 1))
    if name == "parentFileNameHint" or (name == "parentCID" and value.lower() != _NO_PARENT):
        _refuse(path, "is a snapshot of another disk (export it merged)", "BACKING_FILE_REFUSED")


def _head(path: Path) -> bytes:
    with open(open_image(path), "rb") as file:
        return file.read(_MAX_DESCRIPTOR_BYTES)


def _refuse(path: Path, what: str, reason: str = "NOT_AN_IMAGE") -> NoReturn:
    raise FailedPreconditionError(f"{path.name} {what}", reason, {"file": path.name})
