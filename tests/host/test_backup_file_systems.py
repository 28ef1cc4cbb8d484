"""File systems that guests use beside ext4, read from a backup by the real libguestfs."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from ostler_agent.conversion import BackupFiles, GuestConverter
from ostler_agent.conversion.backup_files import Found, WantedFiles
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.disk_copies import Pair

from tests.host.conftest import Storage, job, need, new_key
from tests.host.imports import CACHE, guestfish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GIB, MIB = 1 << 30, 1 << 20
NAME = "Übersicht für Anna.txt"


class Disk:
    """A backup of a disk with one partition for each kind, and nothing that is an operating system."""

    def __init__(self, root: Path) -> None:
        storage = Storage(root / "storage")
        raw = root / "disk.raw"
        raw.write_bytes(b"")
        os.truncate(raw, GIB)
        _install(raw)
        source, self.copy = (storage.ref(DiskFormat.QCOW2, new_key()) for _ in range(2))
        qemu_img.convert(raw, DiskFormat.RAW, storage.path(source), DiskFormat.QCOW2, key=source.key)
        storage.volumes.disk_copies.copy(job(), "vm", [Pair(source, self.copy)])
        self.converter = GuestConverter(root / "work", CACHE, root / "virtio-win", lambda: True)
        self._files = BackupFiles(storage.pools, storage.volumes.locks, self.converter)

    def read(self, **wanted: object) -> list[Found]:
        chain: list[VolumeRef] = [self.copy]
        return list(self._files.read(job(), [chain], WantedFiles(**wanted)))  # type: ignore[arg-type]

    def content(self, file_system: str, path: str) -> bytes:
        return b"".join(part.data for part in self.read(file_system=file_system, path=path.encode(), content=True))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    need("guestfish", "mkfs.xfs", "mkfs.btrfs", "mkntfs")
    found = Disk(tmp_path_factory.mktemp("disk"))
    yield found
    found.converter.clear()


def _install(raw: Path) -> None:
    guestfish(
        raw,
        [
            "run", "part-init /dev/sda gpt", "part-add /dev/sda p 2048 821247", "part-add /dev/sda p 821248 1435647",
            "part-add /dev/sda p 1435648 -2048",
            "mkfs xfs /dev/sda1 label:data", "mount /dev/sda1 /", "mkdir /files", f'write "/files/{NAME}" of-xfs',
            "umount /", "mkfs btrfs /dev/sda2", "mount /dev/sda2 /", "btrfs-subvolume-create /home",
            f'write "/home/{NAME}" of-btrfs',
            "umount /", "mkfs ntfs /dev/sda3 label:Windows", "mount /dev/sda3 /", "mkdir /Users", "mkdir /Users/Anna",
            f'write "/Users/Anna/{NAME}" of-ntfs',
        ],
    )  # fmt: skip


def test_all_are_listed(disk: Disk) -> None:
    found = [(one.name, one.type, one.label) for part in disk.read() for one in part.file_systems]
    assert found == [
        ("/dev/sda1", "xfs", "data"),
        ("/dev/sda2", "btrfs", ""),
        ("btrfsvol:/dev/sda2/home", "btrfs", ""),
        ("/dev/sda3", "ntfs", "Windows"),
    ]


@pytest.mark.parametrize(
    ("file_system", "path", "expected"),
    [
        ("/dev/sda1", f"/files/{NAME}", b"of-xfs"),
        ("btrfsvol:/dev/sda2/home", f"/{NAME}", b"of-btrfs"),
    ],
)
def test_a_file_is_read(disk: Disk, file_system: str, path: str, expected: bytes) -> None:
    assert disk.content(file_system, path) == expected


def test_a_directory_of_windows_comes_as_an_archive(disk: Disk) -> None:
    with tarfile.open(fileobj=BytesIO(disk.content("/dev/sda3", "/Users"))) as archive:
        file = archive.extractfile(f"./Anna/{NAME}")
        assert file
        assert file.read() == b"of-ntfs"
