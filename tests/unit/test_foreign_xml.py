"""Domains that other tools have defined: what maps, and what does not."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from ostler_agent.hypervisors.foreign import ForeignDisk, ForeignNic
from ostler_agent.hypervisors.libvirt.xml import disks, foreign, metadata
from ostler_agent.hypervisors.libvirt.xml.element import OSTLER_NS

DISK = """<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="/pool/web.qcow2"/>
  <backingStore/><target dev="vda" bus="virtio"/></disk>"""
NIC = """<interface type="bridge"><mac address="52:54:00:AA:00:01"/><source bridge="br0"/><model type="virtio"/>
  </interface>"""


def domain(devices: str = DISK + NIC, boot: str = '<os><type machine="pc-q35-7.2">hvm</type></os>') -> Element:
    return ElementTree.fromstring(
        f"<domain><name>web</name>{boot}<devices><emulator>/usr/bin/qemu</emulator>{devices}</devices></domain>"
    )


def codes(root: Element) -> list[str]:
    found = [*foreign.disks(root)[1], *foreign.nics(root)[1], *foreign.others(root)]
    return [problem.code for problem in found]


def test_disks_and_interfaces_map() -> None:
    root = domain()
    assert foreign.disks(root)[0] == (ForeignDisk(0, Path("/pool/web.qcow2"), "qcow2"),)
    assert foreign.nics(root)[0] == (ForeignNic("52:54:00:aa:00:01", "br0", "virtio"),)
    assert codes(root) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('bus="virtio"', 'bus="sata"', "DISK_BUS"),
        ('dev="vda"', 'dev="weird"', "DISK_BUS"),
        ('type="qcow2"', 'type="vmdk"', "DISK_FORMAT"),
        ('type="file" device="disk"', 'type="network" device="disk"', "DISK_TYPE"),
        ('device="disk"', 'device="lun"', "DISK_TYPE"),
        ("<backingStore/>", "<backingStore type='file'><source file='/x'/></backingStore>", "BACKING_FILE"),
        ("<backingStore/>", "<readonly/>", "DISK_SHARED"),
        ("<backingStore/>", "<shareable/>", "DISK_SHARED"),
        ("<backingStore/>", "<mirror/>", "DISK_BUSY"),
        ("<backingStore/>", "<encryption format='luks'/>", "DISK_ENCRYPTED"),
        ('<source bridge="br0"/>', '<source network="default"/>', "NIC_TYPE"),
        ('interface type="bridge"', 'interface type="user"', "NIC_TYPE"),
        ('model type="virtio"', 'model type="ne2k_pci"', "NIC_MODEL"),
    ],
)
def test_what_does_not_map_is_told(old: str, new: str, expected: str) -> None:
    text = DISK + NIC
    assert old in text
    assert codes(domain(text.replace(old, new, 1))) == [expected]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("<hostdev/>", "PASSTHROUGH"),
        ("<tpm/>", "TPM"),
        ("<filesystem/>", "FILESYSTEM"),
        ("<flux-capacitor/>", "UNKNOWN_DEVICE"),
        ('<disk device="cdrom"><source file="/x"/><target dev="sda" bus="sata"/></disk>', "REMOVABLE_MEDIUM"),
    ],
)  # fmt: skip
def test_further_devices_are_told(device: str, expected: str) -> None:
    assert codes(domain(DISK + device)) == [expected]


def test_an_empty_drive_and_what_ostler_has_too_are_no_loss() -> None:
    empty = '<disk type="file" device="cdrom"><target dev="sda" bus="sata"/></disk>'
    assert codes(domain(DISK + empty + "<graphics/><video/><rng/><channel/><input/><memballoon/>")) == []


def test_what_is_lost_at_the_next_start_does_not_refuse() -> None:
    boot = "<os firmware='efi'><type machine='pc-i440fx-7.2'>hvm</type></os><cputune/>"
    root = domain(boot=boot)
    problems = list(foreign.others(root))
    assert [problem.code for problem in problems] == ["MACHINE_TYPE", "UEFI_VARIABLES", "TUNING"]
    assert not any(problem.refuses for problem in problems)
    assert foreign.is_uefi(root)


def test_too_many_devices_are_not_read() -> None:
    assert "TOO_MANY_DISKS" in codes(domain(DISK * 65))
    assert "TOO_MANY_NICS" in codes(domain(NIC * 17))


def test_a_disk_of_an_adopted_vm_is_known_by_its_old_name() -> None:
    root = domain()
    mark = Element("metadata")
    mark.append(metadata.mark({Path("/pool/web.qcow2"): "11111111-0000-4000-8000-000000000001"}))
    mark[0].tag = f"{{{OSTLER_NS}}}vm"  # as libvirt does
    root.append(mark)
    assert [disk.volume_id for disk in disks.attached_disks(root)] == ["11111111-0000-4000-8000-000000000001"]
    assert metadata.is_managed(root)
