"""Small disks are full when they are filled, and have room again when they are freed or grown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.needs import need
from tests.small_disks import small_disk

BYTES = 1 << 20


def test_a_small_disk(tmp_path: Path) -> None:
    need(None if os.geteuid() == 0 else "only root can mount")
    with small_disk(tmp_path / "disk", BYTES) as disk:
        file = disk.directory / "file"
        disk.fill()
        with pytest.raises(OSError, match="No space"):
            file.write_bytes(bytes(BYTES // 2))
        disk.free()
        file.write_bytes(bytes(BYTES // 2))
        disk.fill()
        disk.grow(2 * BYTES)
        file.write_bytes(bytes(BYTES))
