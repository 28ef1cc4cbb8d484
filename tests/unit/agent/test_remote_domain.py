"""Definitions of another host's domains: what maps, what is told, and what a hostile one cannot do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_agent.hypervisors.libvirt.xml import reader, remote
from ostler_agent.hypervisors.libvirt.xml.remote import Definition, RemoteDisk, RemoteNic
from ostler_agent.spec import DiskFormat
from ostler_common.errors import OstlerError

DISK = """<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="/images/web.qcow2"/>
  <target dev="vda" bus="virtio"/></disk>"""
NIC = """<interface type="network"><mac address="52:54:00:AA:00:01"/><source network="default"/>
  <model type="virtio"/></interface>"""
OS = '<os><type machine="pc-q35-7.2">hvm</type></os>'


def definition(devices: str = DISK + NIC, boot: str = OS, rest: str = "") -> Definition:
    head = '<name>web</name><memory unit="MiB">512</memory><vcpu>2</vcpu>'
    return remote.describe(reader.read(f"<domain>{head}{boot}{rest}<devices>{devices}</devices></domain>"))


def codes(found: Definition) -> list[tuple[str, bool]]:
    return [(problem.code, problem.refuses) for problem in found.problems]


def test_a_definition_maps() -> None:
    found = definition()
    assert (found.cpus, found.memory_bytes, found.uefi, found.secure_boot) == (2, 512 << 20, False, False)
    assert found.disks == (RemoteDisk("vda", "/images/web.qcow2", DiskFormat.QCOW2),)
    assert found.nics == (RemoteNic("52:54:00:aa:00:01", "default", "virtio"),)
    assert found.problems == ()


def test_the_guest_system_and_its_firmware_are_read() -> None:
    ids = 'xmlns:l="http://libosinfo.org/xmlns/libvirt/domain/1.0"'
    metadata = f'<metadata><l:libosinfo {ids}><l:os id="http://debian.org/debian/12"/></l:libosinfo></metadata>'
    boot = '<os firmware="efi"><type machine="q35">hvm</type><loader secure="yes" type="pflash">/x</loader></os>'
    found = definition(boot=boot, rest=metadata)
    assert (found.os_id, found.uefi, found.secure_boot) == ("http://debian.org/debian/12", True, True)


def test_a_luks_disk_is_told_as_such() -> None:
    encrypted = DISK.replace("<target", '<encryption format="luks"><secret type="passphrase"/></encryption><target')
    assert [disk.luks for disk in definition(encrypted).disks] == [True]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('bus="virtio"', 'bus="sata"', ("DISK_BUS", False)),
        ('type="qcow2"', 'type="vmdk"', ("DISK_FORMAT", True)),
        ('<driver name="qemu" type="qcow2"/>', "", ("DISK_FORMAT", True)),
        ('disk type="file"', 'disk type="network"', ("DISK_TYPE", True)),
        ('disk type="file"', 'disk type="block"', ("DISK_TYPE", True)),
        ('device="disk"', 'device="lun"', ("DISK_TYPE", True)),
        ('dev="vda"', 'dev="../vda"', ("DISK_TYPE", True)),
        ("<target", "<shareable/><target", ("DISK_SHARED", True)),
        ("<target", "<mirror/><target", ("DISK_BUSY", True)),
        ('interface type="network"', 'interface type="user"', ("NIC_TYPE", False)),
        ("<model", "<filterref/><model", ("NIC_OPTION", False)),
        ("<disk", '<tpm model="tpm-crb"/><disk', ("TPM", False)),
        ("<disk", "<hostdev/><disk", ("PASSTHROUGH", False)),
        ("<disk", "<warp-drive/><disk", ("UNKNOWN_DEVICE", False)),
    ],
)
def test_what_does_not_map_is_told(old: str, new: str, expected: tuple[str, bool]) -> None:
    text = DISK + NIC
    assert old in text
    assert codes(definition(text.replace(old, new, 1))) == [expected]


def test_sizes_that_make_no_sense_refuse_the_vm() -> None:
    text = "<domain><memory unit='parsec'>1</memory><vcpu>-3</vcpu><devices/></domain>"
    assert {("CPUS", True), ("MEMORY", True)} <= set(codes(remote.describe(reader.read(text))))


def test_there_is_a_limit_to_disks_and_interfaces() -> None:
    found = definition(DISK * 65 + NIC * 17)
    assert (len(found.disks), len(found.nics)) == (64, 16)
    assert {("TOO_MANY_DISKS", True), ("TOO_MANY_INTERFACES", True)} <= set(codes(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/shadow">]><domain>&x;</domain>', "UNSAFE_DEFINITION"),
        ('<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><domain>&b;</domain>', "UNSAFE_DEFINITION"),
        ("<!DOCTYPE domain><domain/>", "UNSAFE_DEFINITION"),
        ('<?xml-stylesheet href="x"?><domain/>', "UNSAFE_DEFINITION"),
        ("<domain>&unknown;</domain>", "UNSAFE_DEFINITION"),
        ("<domain>", "UNSAFE_DEFINITION"),
        ("", "UNSAFE_DEFINITION"),
        (f"<domain>{'<a>' * 40}{'</a>' * 40}</domain>", "DEFINITION_TOO_LARGE"),
        (f"<domain>{'<a/>' * 10_001}</domain>", "DEFINITION_TOO_LARGE"),
        ("<domain " + " ".join(f"a{n}='1'" for n in range(65)) + "/>", "DEFINITION_TOO_LARGE"),
        (f"<domain>{'a' * (1 << 20)}</domain>", "DEFINITION_TOO_LARGE"),
    ],
)
def test_hostile_xml_is_refused(text: str, expected: str) -> None:
    with pytest.raises(OstlerError) as caught:
        reader.read(text)
    assert caught.value.reason == expected


@given(st.text(alphabet='<>/="& abdomainsk', max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert outcome(text) in ("read", "UNSAFE_DEFINITION", "DEFINITION_TOO_LARGE")


def outcome(text: str) -> str:
    try:
        remote.describe(reader.read(text))
    except OstlerError as error:
        return error.reason
    return "read"
