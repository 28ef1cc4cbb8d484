"""Sizes on an array, whatever is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_agent.pools.array import GIB, LUKS_HEADER_BYTES, STEP_BYTES, array_bytes, needed_bytes
from ostler_agent.spec import DiskFormat

SIZES = st.integers(1, 1 << 41).map(lambda sectors: sectors * 512)
FORMATS = st.sampled_from(DiskFormat)


@pytest.mark.parametrize(
    ("size_gib", "disk_format", "encrypted", "array_gib"),
    [
        (1, DiskFormat.RAW, False, 8),
        (8, DiskFormat.RAW, False, 8),
        (8.5, DiskFormat.RAW, False, 16),
        (8, DiskFormat.RAW, True, 16),  # its header has to go somewhere
        (8, DiskFormat.QCOW2, False, 16),
        (7.9, DiskFormat.QCOW2, True, 8),
        (500, DiskFormat.QCOW2, True, 504),
    ],
)
def test_known_sizes(size_gib: float, disk_format: DiskFormat, encrypted: bool, array_gib: int) -> None:
    assert array_bytes(disk_format, encrypted, int(size_gib * GIB)) == array_gib * GIB


@given(FORMATS, st.booleans(), SIZES)
def test_a_guest_has_what_it_asked_for_and_no_step_is_wasted(disk_format: DiskFormat, key: bool, size: int) -> None:
    found = array_bytes(disk_format, key, size)
    assert found % STEP_BYTES == 0
    assert found - STEP_BYTES < needed_bytes(disk_format, key, size) <= found
    assert size <= found - (LUKS_HEADER_BYTES if key else 0)


@given(FORMATS, st.booleans(), SIZES)
def test_qcow2_has_room_for_all_its_tables(disk_format: DiskFormat, key: bool, size: int) -> None:
    """Counted by hand: clusters of 64 KiB, each with an entry of 8 bytes in a table and a count of 2."""
    clusters = -(-size // 65536)
    tables = -(-clusters * 8 // 65536) + -(-clusters * 2 // 65536)
    top = -(-tables * 8 // 65536) * 2
    luks = 32 if key else 0
    assert needed_bytes(DiskFormat.QCOW2, key, size) >= (clusters + tables + top + luks + 2) * 65536


@given(FORMATS, st.booleans(), SIZES, SIZES)
def test_a_larger_volume_never_needs_less(disk_format: DiskFormat, key: bool, one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert array_bytes(disk_format, key, small) <= array_bytes(disk_format, key, large)
