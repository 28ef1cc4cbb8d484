"""What the driver of system containers works out by itself; what it does is in tests/host and tests/lab."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ostler_agent.files import write_file
from ostler_nspawn_driver import cgroups, images, machine
from ostler_nspawn_driver.definition import Definition, Disk, Nic, Store
from ostler_nspawn_driver.keeper import hostname

VM = "6e7d2f7a-6f0c-4a53-8d2a-3f6c1a7b9d10"
MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", "web"),
        ("web server_1", "web-server-1"),
        ("-a-", "a"),
        ("ünï", "n"),
        ("é", "container"),
        ("x" * 90, "x" * 63),
    ],
)
def test_a_host_name_is_made_of_the_vms_name(name: str, expected: str) -> None:
    assert hostname(name) == expected


def test_a_definition_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "vms", write_file)
    definition = Definition(VM, "web", 2, MIB, (Disk("a", "/pool/a"),), (Nic("52:54:00:c0:ff:01", "br0"),))
    store.write(definition)
    assert store.read(VM) == definition
    assert store.ids() == [VM]
    store.remove(VM)
    assert store.read(VM) is None
    assert store.ids() == []


def test_an_interface_has_a_name_that_linux_accepts() -> None:
    assert len(Nic("52:54:00:c0:ff:01", "br0").interface + "h") <= 15


def test_a_vms_group_has_its_limits_in_version_2(tmp_path: Path) -> None:
    """In a directory as the kernel would show it."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    entries = cgroups.create(VM, 2, 64 * MIB, tmp_path)
    group = tmp_path / "ostler" / VM
    assert (group / "memory.max").read_text() == str(64 * MIB)
    assert (group / "cpu.max").read_text() == "200000 100000"
    assert (group / "pids.max").read_text() == "8192"
    assert entries == [group / "container/cgroup.procs"]
    (group / "cpu.stat").write_text("usage_usec 1500\nuser_usec 1000\n")
    (group / "memory.current").write_text("4096\n")
    assert cgroups.usage(VM, tmp_path) == (1_500_000, 4096)


def test_a_vm_without_groups_uses_nothing(tmp_path: Path) -> None:
    assert cgroups.usage(VM, tmp_path) == (0, 0)


def test_a_keeper_is_a_unit_of_its_own_under_systemd(tmp_path: Path) -> None:
    plain = machine.start_command(Path("/vms") / VM, systemd=tmp_path / "none")
    assert plain[0] == sys.executable
    unit = machine.start_command(Path("/vms") / VM, systemd=tmp_path)
    assert unit[0] == "systemd-run"
    assert "--service-type=forking" in unit
    assert unit[unit.index("--") + 1 :] == plain


@pytest.mark.parametrize(
    ("table", "start"),
    [
        ("label: gpt\n- size=1M type=U\n- size=2M type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n- size=4M type=L", 2),
        ("label: gpt\n- size=1M type=U\n- size=2M type=L\n- size=4M type=L\n", 4),
        ("label: dos\n- size=1M type=c\n- size=2M type=83\n", 2),
    ],
)
def test_the_root_partition_is_found(tmp_path: Path, table: str, start: int) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["sfdisk", "-q", image], input=table.replace("- ", "").encode(), check=True)
    assert images._root_offset(str(image)) == start * MIB


def test_an_image_without_partitions_has_none(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    assert images._root_offset(str(image)) is None


def test_an_image_is_locked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_LOCK_TIMEOUT_S", 0.0)
    image = tmp_path / "image"
    image.write_bytes(b"\0" * 512)
    images.lock(str(image))
    with pytest.raises(images.DiskInUseError):
        images.lock(str(image))


def test_an_image_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"")
    (tmp_path / "link").symlink_to("image")
    with pytest.raises(OSError, match="link"):
        images.lock(str(tmp_path / "link"))
