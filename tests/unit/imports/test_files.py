"""What files say of a VM, and what they may not say."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from ostler_common.errors import OstlerError
from ostler_control.imports import files
from ostler_control.imports.archive import find_descriptor
from ostler_control.imports.files import Announced, Machine
from ostler_control.imports.ovf import Ovf, OvfDisk, OvfNic, parse
from ostler_control.imports.wanted import SourceFile

from tests.unit.common.ova_archives import archive
from tests.unit.imports.ovf_documents import GOOD

MIB = 1 << 20
DISK = OvfDisk("web-disk1.vmdk", 8 * MIB)
NICS = (OvfNic("lan", "vmxnet3", "00:0c:29:01:02:03"), OvfNic("lan", "e1000"))
WEB = Ovf("web 1", 2, 512 * MIB, "debian10_64Guest", firmware="efi", disks=(DISK,), nics=NICS)
ANNOUNCED = [Announced("notes.txt", 10), Announced("web-disk1.vmdk", 5 * MIB, "ab" * 32)]


def macs() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"52:54:00:00:00:{next(numbers):02x}"


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as error:
        call()
    return error.value.reason


def test_a_descriptor_becomes_a_vm_that_is_off() -> None:
    vm, used = files.of_descriptor(WEB, ANNOUNCED, macs())
    assert (vm.name, vm.cpus, vm.memory_bytes, vm.firmware, vm.power) == ("web 1", 2, 512 * MIB, "efi", "off")
    assert [(disk.key, disk.capacity_bytes) for disk in vm.disks] == [(1, 8 * MIB)]
    assert used == {1: SourceFile("web-disk1.vmdk", "disk1.vmdk", 5 * MIB, "ab" * 32)}
    assert vm.export_bytes == 5 * MIB, "files that no disk names are not sent"


def test_interfaces_keep_their_addresses_unless_new_ones_are_wanted() -> None:
    kept, _ = files.of_descriptor(WEB, ANNOUNCED, macs())
    assert [nic.mac for nic in kept.nics] == ["00:0c:29:01:02:03", "52:54:00:00:00:01"]
    new, _ = files.of_descriptor(WEB, ANNOUNCED, macs(), new_macs=True)
    assert [nic.mac for nic in new.nics] == ["52:54:00:00:00:01", "52:54:00:00:00:02"]


def test_windows_is_known_by_virtualboxs_words_too() -> None:
    vm, _ = files.of_descriptor(Ovf("w", 1, MIB, "", "Windows10_64", disks=(DISK,)), ANNOUNCED, macs())
    assert vm.is_windows


@pytest.mark.parametrize(
    ("disks", "expected"),
    [
        ((OvfDisk("missing.vmdk", MIB),), "OVF_FILE_MISSING"),
        ((OvfDisk("", MIB),), "OVF_EMPTY_DISK"),
        ((OvfDisk("notes.txt", MIB),), "NOT_AN_IMAGE"),
        ((DISK, DISK), "NOT_AN_OVF"),
    ],
)
def test_a_descriptor_whose_disks_have_no_files_is_refused(disks: tuple[OvfDisk, ...], expected: str) -> None:
    ovf = Ovf("web", 1, MIB, disks=disks)
    assert reason(lambda: files.of_descriptor(ovf, ANNOUNCED, macs())) == expected


@pytest.mark.parametrize(
    ("announced", "expected"),
    [
        (Announced("../x.vmdk", 1), "INVALID_FILE_NAME"),
        (Announced("/etc/passwd", 1), "INVALID_FILE_NAME"),
        (Announced(".hidden.vmdk", 1), "INVALID_FILE_NAME"),
        (Announced("x.vmdk", 0), "INVALID_SIZE"),
        (Announced("x.vmdk", 1 << 63), "INVALID_SIZE"),
        (Announced("x.vmdk", 1, capacity_bytes=-1), "INVALID_SIZE"),
        (Announced("x.vmdk", 1, "AB" * 32), "INVALID_DIGEST"),
    ],
)
def test_a_file_that_cannot_be_is_refused(announced: Announced, expected: str) -> None:
    assert reason(lambda: files.check_announced([announced])) == expected


def test_a_name_is_announced_once() -> None:
    assert reason(lambda: files.check_announced([Announced("a.raw", 1)] * 2)) == "INVALID_FILES"


def test_images_become_a_vm_with_the_first_as_its_boot_disk() -> None:
    machine = Machine("web", "bios", 2, MIB, networks=("br0", "br1"))
    vm, used = files.of_images(
        machine, [Announced("b.QCOW2", 5, capacity_bytes=3 * MIB), Announced("a.raw", 9)], macs()
    )
    assert [(disk.key, disk.capacity_bytes) for disk in vm.disks] == [(1, 3 * MIB), (2, 9)]
    assert [file.staged_name for file in used.values()] == ["disk1.qcow2", "disk2.raw"]
    assert [nic.network for nic in vm.nics] == ["br0", "br1"]


def test_images_are_checked() -> None:
    image = [Announced("a.raw", 9)]
    assert reason(lambda: files.of_images(Machine("w", "bios", 1, 1), [], macs())) == "INVALID_FILES"
    assert reason(lambda: files.of_images(Machine("w", "bios", 1, 1), [Announced("a.sh", 9)], macs())) == "NOT_AN_IMAGE"
    bad = Machine("w", "bios", 1, 1, networks=("br0",) * 17)
    assert reason(lambda: files.of_images(bad, image, macs())) == "TOO_MANY_NICS"


def test_the_descriptor_is_found_at_the_beginning_of_an_archive() -> None:
    data = archive({"web.ovf": GOOD.encode(), "disk.vmdk": bytes(100_000)})
    assert parse(find_descriptor(data[:65536])).disks[0].file_bytes == 10


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (archive({"disk.vmdk": b"x", "web.ovf": b"x"}), "NOT_AN_OVA"),
        (archive({"web.ovf": bytes(70_000)})[:65536], "OVF_TOO_LARGE"),
        (archive({"../web.ovf": b"x"}), "OVA_UNSAFE"),
        (bytes(65536), "NOT_AN_OVA"),
    ],
)
def test_an_archive_that_does_not_begin_with_its_descriptor_is_refused(head: bytes, expected: str) -> None:
    assert reason(lambda: find_descriptor(head)) == expected
