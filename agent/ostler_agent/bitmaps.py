"""Dirty bitmaps: what QEMU has recorded as written to a disk since a backup. Pure.

A backup makes a bitmap of its own in each qcow2 disk, at the moment that it copies; the next one copies what that has,
and makes another. The bitmap stays in the disk's file. QEMU saves it when it closes the file: after a crash the file
says that the bitmap is not what it should be, and QEMU never uses it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PREFIX = "ostler-"
NOT_QCOW2 = "the disk is not in the format qcow2, which alone can record what is written"


@dataclass(frozen=True)
class Bitmap:
    """A bitmap of an open disk. defect: why it cannot be used, "" if it can; broken: nobody can ever use it."""

    name: str
    defect: str = ""
    broken: bool = False


def name_of(backup_id: str) -> str:
    """The name of the bitmap of what was written since that backup."""
    return _PREFIX + backup_id


def is_ours(name: str) -> bool:
    """Whether a backup has made the bitmap of this name."""
    return name.startswith(_PREFIX)


def records(answer: object) -> list[Mapping[str, object]]:
    """A list in QEMU's JSON."""
    return [record for record in answer if isinstance(record, Mapping)] if isinstance(answer, list) else []


def bitmaps_of(node: Mapping[str, object]) -> list[Bitmap]:
    """The bitmaps of a disk, from what QEMU says of it (`query-named-block-nodes`, `query-block`)."""
    return [
        Bitmap(str(found["name"]), _defect(found), bool(found.get("inconsistent")))
        for found in records(node.get("dirty-bitmaps"))
    ]


def broken_in_file(info: Mapping[str, object]) -> list[str]:
    """The names of our broken bitmaps in an image that nobody has open, by `qemu-img info`."""
    specific = info.get("format-specific")
    data = specific.get("data") if isinstance(specific, Mapping) else None
    found = records(data.get("bitmaps")) if isinstance(data, Mapping) else []
    return [str(one["name"]) for one in found if is_ours(str(one["name"])) and "in-use" in str(one.get("flags"))]


def _defect(found: Mapping[str, object]) -> str:
    if found.get("inconsistent"):
        return "was not saved when the disk was last used (its host or QEMU crashed)"
    if not found.get("persistent") or not found.get("recording"):
        return "does not record every write"
    return "is in use" if found.get("busy") else ""


def why_full(found: Sequence[Bitmap], since: str) -> str:
    """Why a backup must copy the whole disk; "" if it can copy what was written since that backup."""
    for bitmap in found:
        if bitmap.name == name_of(since):
            return f"the record of what was written since the last backup {bitmap.defect}" if bitmap.defect else ""
    return "the disk's file has no record of what was written since the last backup"


def obsolete(found: Sequence[Bitmap], since: str) -> list[str]:
    """The names of the bitmaps of other backups, which no later one will ask for."""
    return [bitmap.name for bitmap in found if is_ours(bitmap.name) and bitmap.name != name_of(since)]
