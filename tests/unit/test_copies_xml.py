"""What libvirt is told of copies and mirrors, and what it tells."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from ostler_agent.hypervisors.libvirt.xml.copies import (
    BackupDisk,
    backup_targets,
    backup_xml,
    checkpoint_xml,
    mirror_xml,
)
from ostler_agent.hypervisors.libvirt.xml.disks import DiskFile, Mirror, attached_disks
from ostler_agent.spec import DiskFormat, Key, VolumeRef

DISK, TARGET, KEY = (f"33333333-0000-4000-8000-00000000000{n}" for n in range(3))
SECRET = VolumeRef("p", TARGET, DiskFormat.QCOW2, Key(KEY, None))


def domain(mirror: str = "") -> ElementTree.Element:
    source = f"<source file='/pool/{DISK}' index='1'/>"
    disk = f"<disk type='file' device='disk'>{source}<backingStore/>{mirror}<target dev='vda'/></disk>"
    return ElementTree.fromstring(f"<domain><devices>{disk}</devices></domain>")


def mirror_as_libvirt_tells(ready: str) -> str:
    key = f"<encryption format='luks' engine='qemu'><secret type='passphrase' uuid='{KEY}'/></encryption>"
    source = f"<source file='/pool/{TARGET}' index='4'>{key}</source>"
    return f"<mirror type='file' file='/pool/{TARGET}' job='copy' {ready}><format type='qcow2'/>{source}</mirror>"


def test_a_disk_without_a_mirror() -> None:
    (disk,) = attached_disks(domain())
    assert (disk.mirror, disk.volume_ids, disk.key_ids) == (None, {DISK}, set())


def test_the_key_of_a_mirror_is_not_the_disks() -> None:
    (disk,) = attached_disks(domain(mirror_as_libvirt_tells("")))
    assert disk.mirror == Mirror(TARGET, f"/pool/{TARGET}", KEY, ready=False)
    assert disk.key_id is None
    assert (disk.volume_ids, disk.key_ids) == ({DISK, TARGET}, {KEY})


def test_a_mirror_is_ready_when_libvirt_says_yes() -> None:
    for word, ready in (("yes", True), ("abort", False), ("pivot", False)):
        (disk,) = attached_disks(domain(mirror_as_libvirt_tells(f"ready='{word}'")))
        assert disk.mirror
        assert disk.mirror.ready is ready


def test_a_backup_takes_one_disk_and_leaves_out_the_others() -> None:
    xml = backup_xml([BackupDisk("vdb", SECRET, DiskFile(Path("/pool/.x.part")))], ["vda", "vdc"])
    root = ElementTree.fromstring(xml)
    assert (root.tag, root.get("mode")) == ("domainbackup", "push")
    taken = {disk.get("name"): disk.get("backup") for disk in root.iter("disk")}
    assert taken == {"vdb": "yes", "vda": "no", "vdc": "no"}
    assert [secret.get("uuid") for secret in root.iter("secret")] == [KEY]
    assert backup_targets(xml) == [Path("/pool/.x.part")]


def test_an_increment_names_what_it_builds_on() -> None:
    [disk] = ElementTree.fromstring(
        backup_xml([BackupDisk("vda", SECRET, DiskFile(Path("/store/a")), "ostler-1")], [])
    ).iter("disk")
    assert (disk.get("backupmode"), disk.get("incremental")) == ("incremental", "ostler-1")


def test_a_checkpoint_has_a_bitmap_of_its_name_in_each_disk() -> None:
    new = ElementTree.fromstring(checkpoint_xml("ostler-1", ["vda", "vdc"]))
    assert (new.findtext("name"), new.find("creationTime")) == ("ostler-1", None)
    assert [(disk.get("name"), disk.get("bitmap")) for disk in new.iter("disk")] == [
        ("vda", "ostler-1"), ("vdc", "ostler-1"),
    ]  # fmt: skip
    assert ElementTree.fromstring(checkpoint_xml("ostler-1", ["vda"], existing=True)).find("creationTime") is not None


def test_one_backup_takes_several_disks_each_under_its_own_key() -> None:
    other = VolumeRef("p", DISK, DiskFormat.RAW)
    xml = backup_xml(
        [BackupDisk("vda", SECRET, DiskFile(Path("/store/a"))), BackupDisk("vdb", other, DiskFile(Path("/store/b")))],
        ["vdc"],
    )
    root = ElementTree.fromstring(xml)
    taken = {disk.get("name"): disk.get("backup") for disk in root.iter("disk")}
    assert taken == {"vda": "yes", "vdb": "yes", "vdc": "no"}
    assert [secret.get("uuid") for secret in root.iter("secret")] == [KEY]
    assert backup_targets(xml) == [Path("/store/a"), Path("/store/b")]


def test_a_target_may_be_a_device_and_plain() -> None:
    plain = VolumeRef("p", TARGET, DiskFormat.RAW)
    device = DiskFile(Path("/dev/ostler", TARGET), device=True)
    disk = ElementTree.fromstring(mirror_xml(plain, device))
    assert disk.get("type") == "block"
    source = disk.find("source")
    assert source is not None
    assert source.attrib == {"dev": f"/dev/ostler/{TARGET}"}
    assert len(source) == 0
    assert backup_targets(backup_xml([BackupDisk("vda", plain, device)], [])) == [Path("/dev/ostler", TARGET)]
