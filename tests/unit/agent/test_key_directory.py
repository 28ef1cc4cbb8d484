"""The probe of libvirt's key directory withdraws volume encryption where keys could reach a disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler_agent.hypervisors.libvirt import key_directory
from ostler_common.errors import FailedPreconditionError

HEADER = "Filename Type Size Used Priority\n"
DISK = "/dev/sda2 partition 1048572 0 -2\n"
ZRAM = "/dev/zram0 partition 1048572 0 100\n"


def probe(tmp_path: Path, mounted: str, swaps: str = "") -> str:
    (tmp_path / "mountinfo").write_text(mounted)
    (tmp_path / "swaps").write_text(HEADER + swaps)
    return key_directory.probe(Path("/q"), tmp_path / "mountinfo", tmp_path / "swaps")


def line(fs_type: str, options: str = "rw", path: str = "/q") -> str:
    return f"36 35 0:50 / {path} rw,nosuid - {fs_type} none {options}\n"


@pytest.mark.parametrize(
    ("mounted", "swaps"),
    [
        (line("tmpfs"), ""),
        (line("tmpfs"), ZRAM),
        (line("tmpfs", "rw,noswap"), DISK),
        (line("ramfs"), DISK),
        (line("ext4") + line("tmpfs"), ""),
    ],
)
def test_memory_that_is_not_swapped_to_a_disk_will_do(tmp_path: Path, mounted: str, swaps: str) -> None:
    assert probe(tmp_path, mounted, swaps) in ("tmpfs", "ramfs")


@pytest.mark.parametrize(
    ("mounted", "swaps"),
    [
        ("", ""),
        (line("ext4"), ""),
        (line("tmpfs", path="/"), ""),
        (line("tmpfs"), DISK),
        (line("tmpfs") + line("ext4"), ""),
    ],
)
def test_a_disk_will_not(tmp_path: Path, mounted: str, swaps: str) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        probe(tmp_path, mounted, swaps)
    assert error.value.reason == "KEYS_ON_DISK"
    assert "ostler-libvirt-keys.service" in error.value.message


def test_running_vms_keep_the_directory_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("")
    pids = tmp_path / "pids"
    pids.mkdir()
    (pids / "web-1.pid").write_text("1")
    with pytest.raises(FailedPreconditionError, match="web-1"):
        key_directory.protect(tmp_path / "q", tmp_path / "p", mountinfo=tmp_path / "mountinfo", pids=pids)
