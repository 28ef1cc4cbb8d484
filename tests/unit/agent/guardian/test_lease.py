"""The lease's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler_agent.guardian import lease
from ostler_agent.guardian.lease import Lease

from tests.unit.agent.guardian.place import pool


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place = pool(tmp_path / "pool").place
    assert lease.read(place) is None
    for number in (1, 2):
        lease.write(place, Lease("term", number))
        assert lease.read(place) == Lease("term", number)
    lease.write(place, Lease("term", 3, released=True))
    assert lease.read(place) == Lease("term", 3, released=True)


def test_a_directory_without_the_pools_mark_takes_no_lease(tmp_path: Path) -> None:
    """Below a pool that is not mounted any more there is a directory of the host's own, which no other host sees."""
    place = pool(tmp_path / "pool").place
    (tmp_path / "pool").rename(tmp_path / "unmounted")
    (tmp_path / "pool").mkdir()
    with pytest.raises(FileNotFoundError):
        lease.write(place, Lease("term", 1))
    (tmp_path / "pool/.ostler-pool").write_text("another\n")
    with pytest.raises(OSError, match="its mark is another"):
        lease.write(place, Lease("term", 1))
    with pytest.raises(OSError, match="its mark is another"):
        lease.read(place)
    assert [path.name for path in (tmp_path / "pool").iterdir()] == [".ostler-pool"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"term": "x"}', b'{"term": "x", "number": "y", "released": 0}'])
def test_a_lease_that_makes_no_sense_is_none(tmp_path: Path, text: bytes) -> None:
    place = pool(tmp_path / "pool").place
    (place.directory / place.name).write_bytes(text.ljust(4096, b"\0"))
    assert lease.read(place) is None
