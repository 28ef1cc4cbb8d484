"""The file that shows an image for the memory of a VM."""

from __future__ import annotations

import os
from pathlib import Path

from ostler_agent.jobs import JobContext
from ostler_agent.memory_files import MemoryFiles
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools import qemu_img

from tests.host.conftest import need, new_key
from tests.host.volumes import reason

MIB = 1 << 20


def test_the_file_may_change_its_owner_and_stays_closed(tmp_path: Path) -> None:
    """As libvirt does it where QEMU is not root."""
    need("qemu-storage-daemon")
    ref = VolumeRef("pool", "memory", DiskFormat.QCOW2, new_key())
    qemu_img.create(tmp_path / "image", ref.format, MIB, key=ref.key)
    files = MemoryFiles(tmp_path / "shown")
    with files.shown(ref, tmp_path / "image", JobContext("chown")) as file:
        os.chown(file, 65534, 65534)
        assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (65534, 0o600)
        assert files.directory.stat().st_mode & 0o777 == 0o700
        with file.open("r+b") as opened:
            opened.write(b"x" * 4096)
    assert not list(files.directory.iterdir())
    assert b"xxxx" not in (tmp_path / "image").read_bytes()
    wrong = VolumeRef("pool", "memory", DiskFormat.QCOW2, new_key())

    def show() -> None:
        with files.shown(wrong, tmp_path / "image", JobContext("wrong")):
            pass

    assert reason(show) == "WRONG_KEY"
