"""Which dirty bitmap a backup may use, and which it drops."""

from __future__ import annotations

import pytest
from ostler_agent import bitmaps

GOOD = {"recording": True, "persistent": True, "busy": False, "granularity": 65536, "count": 0}


def node(**flags: object) -> dict[str, object]:
    return {"node-name": "source", "dirty-bitmaps": [{"name": "ostler-1", **GOOD, **flags}]}


def test_a_whole_record_is_used() -> None:
    assert bitmaps.why_full(bitmaps.bitmaps_of(node()), "1") == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"inconsistent": True, "recording": False}, "was not saved"),
        ({"recording": False}, "does not record"),
        ({"persistent": False}, "does not record"),
        ({"busy": True}, "is in use"),
    ],
)
def test_any_other_is_not(flags: dict[str, object], words: str) -> None:
    assert words in bitmaps.why_full(bitmaps.bitmaps_of(node(**flags)), "1")


def test_without_one_the_disk_is_copied_whole() -> None:
    for since, found in (("2", bitmaps.bitmaps_of(node())), ("1", bitmaps.bitmaps_of({})), ("", [])):
        assert "no record" in bitmaps.why_full(found, since)


def test_a_broken_one_in_a_file_is_found() -> None:
    found = [
        {"name": "ostler-1", "flags": ["in-use", "auto"]}, {"name": "ostler-2", "flags": ["auto"]},
        {"name": "mine", "flags": ["in-use"]},
    ]  # fmt: skip
    assert bitmaps.broken_in_file({"format-specific": {"type": "qcow2", "data": {"bitmaps": found}}}) == ["ostler-1"]
    assert bitmaps.broken_in_file({"format-specific": {"type": "qcow2", "data": {}}}) == []
    assert bitmaps.broken_in_file({}) == []


def test_those_of_other_backups_are_dropped_and_those_of_others_are_left() -> None:
    found = [bitmaps.Bitmap(name) for name in ("ostler-1", "ostler-2", "backup-vda", "mine")]
    assert bitmaps.obsolete(found, "2") == ["ostler-1"]
    assert bitmaps.obsolete(found, "") == ["ostler-1", "ostler-2"]
