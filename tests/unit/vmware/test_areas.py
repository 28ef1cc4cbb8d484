"""Areas of a disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_control.vmware.areas import Area, complement, merged, split, total_bytes

AREAS = st.lists(st.builds(Area, st.integers(-50, 250), st.integers(0, 60)), max_size=20)


@pytest.mark.parametrize(
    ("areas", "gap", "expected"),
    [
        ([], 0, []),
        ([Area(0, 10), Area(10, 10)], 0, [Area(0, 20)]),
        ([Area(20, 10), Area(0, 10)], 0, [Area(0, 10), Area(20, 10)]),
        ([Area(0, 10), Area(15, 10)], 5, [Area(0, 25)]),
        ([Area(0, 50), Area(10, 10)], 0, [Area(0, 50)]),
        ([Area(90, 50)], 0, [Area(90, 10)]),
        ([Area(-5, 10)], 0, [Area(0, 5)]),
        ([Area(100, 10), Area(5, 0)], 0, []),
    ],
)
def test_areas_are_merged(areas: list[Area], gap: int, expected: list[Area]) -> None:
    assert list(merged(areas, 100, gap)) == expected


@given(AREAS, st.integers(1, 200), st.integers(0, 20))
def test_areas_and_their_complement_are_the_disk(areas: list[Area], capacity: int, gap: int) -> None:
    found = merged(areas, capacity, gap)
    rest = complement(found, capacity)
    assert total_bytes(found) + total_bytes(rest) == capacity
    covered = {byte for area in found for byte in range(area.start, area.end)}
    wanted = {byte for area in areas for byte in range(max(0, area.start), min(area.end, capacity))}
    assert wanted <= covered
    assert covered.isdisjoint(byte for area in rest for byte in range(area.start, area.end))


def test_an_area_is_split() -> None:
    assert list(split(Area(5, 25), 10)) == [Area(5, 10), Area(15, 10), Area(25, 5)]
