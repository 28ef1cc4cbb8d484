"""Areas of a disk: joined, complemented, cut into pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Area:
    """A part of a disk, bytes."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.length


def merged(areas: Iterable[Area], capacity_bytes: int, max_gap_bytes: int = 0) -> tuple[Area, ...]:
    """The areas in order, without overlaps and within the disk.

    max_gap_bytes: two areas with at most this between them become one: one request is cheaper than two.
    """
    found: list[Area] = []
    for area in sorted(areas):
        start, end = max(0, area.start), min(area.end, capacity_bytes)
        if start >= end:
            continue
        if found and start - found[-1].end <= max_gap_bytes:
            found[-1] = Area(found[-1].start, max(end, found[-1].end) - found[-1].start)
        else:
            found.append(Area(start, end - start))
    return tuple(found)


def complement(areas: Sequence[Area], capacity_bytes: int) -> tuple[Area, ...]:
    """What the areas leave out of the disk. areas: as `merged` returns them."""
    found, start = [], 0
    for area in areas:
        if area.start > start:
            found.append(Area(start, area.start - start))
        start = area.end
    if start < capacity_bytes:
        found.append(Area(start, capacity_bytes - start))
    return tuple(found)


def split(area: Area, max_bytes: int) -> Iterator[Area]:
    """The area in pieces of at most max_bytes."""
    for start in range(area.start, area.end, max_bytes):
        yield Area(start, min(max_bytes, area.end - start))


def total_bytes(areas: Iterable[Area]) -> int:
    """All of them together."""
    return sum(area.length for area in areas)
