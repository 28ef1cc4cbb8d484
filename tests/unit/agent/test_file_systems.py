"""What libguestfs lists, read into names that stay the same."""

from __future__ import annotations

from ostler_agent.conversion.file_systems import parse


def names(*lines: str) -> list[tuple[str, str, str]]:
    return [(one.name, one.device, one.subvolume) for one in parse(lines)]


def test_a_subvolume_is_named_after_its_disk_whatever_the_kernel_calls_it() -> None:
    expected = [
        ("/dev/sda1", "/dev/sda1", ""),
        ("/dev/sda2", "/dev/sda2", ""),
        ("btrfsvol:/dev/sda2/home", "/dev/sda2", "home"),
        ("btrfsvol:/dev/sda2/home/deep", "/dev/sda2", "home/deep"),
        ("/dev/sdb", "/dev/sdb", ""),
        ("btrfsvol:/dev/sdb/root", "/dev/sdb", "root"),
    ]
    for first, second in (("sda", "sdb"), ("sdb", "sdc"), ("sdb", "sda")):
        listed = (
            "/dev/sda1: xfs", "/dev/sda2: btrfs", f"btrfsvol:/dev/{first}2/home: btrfs",
            f"btrfsvol:/dev/{first}2/home/deep: btrfs", "/dev/sdb: btrfs", f"btrfsvol:/dev/{second}/root: btrfs",
        )  # fmt: skip
        assert names(*listed) == expected
    assert [one.raw_name for one in parse(listed)] == [
        line.removesuffix(": btrfs").removesuffix(": xfs") for line in listed
    ]


def test_a_logical_volume_has_its_own_name() -> None:
    assert names("/dev/vg/data: btrfs", "btrfsvol:/dev/vg/data/home: btrfs") == [
        ("/dev/vg/data", "/dev/vg/data", ""),
        ("btrfsvol:/dev/vg/data/home", "/dev/vg/data", "home"),
    ]


def test_what_is_no_file_system_is_left_out() -> None:
    assert names("btrfsvol:/dev/sda1/lost: btrfs", "sda1: ext4", "/dev/sda1", "") == []
