"""Domain XML: golden files, and libvirt's own opinion of them (test driver, schema)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest
from ostler_agent.hypervisors.libvirt.xml import console, disks, metadata, secret, tpm
from ostler_agent.hypervisors.libvirt.xml.disks import DiskFile
from ostler_agent.hypervisors.libvirt.xml.domain import domain_xml
from ostler_agent.hypervisors.libvirt.xml.rewrite import for_destination
from ostler_agent.spec import (
    Cdrom,
    DiskFormat,
    DiskSpec,
    ExtraConfig,
    Firmware,
    Key,
    KeyUse,
    NicSpec,
    VhostUser,
    VmSpec,
    VolumeRef,
)
from ostler_common.errors import FailedPreconditionError
from ostler_common.io_limits import IoLimits

GOLDEN = Path(__file__).parent / "golden"
LOG = Path("/run/ostler/consoles/22222222-0000-4000-8000-000000000001.log")
POOL = "11111111-0000-4000-8000-000000000001"
VM = "22222222-0000-4000-8000-000000000001"
VOLUMES = [f"33333333-0000-4000-8000-00000000000{n}" for n in range(4)]
KEYS = [f"44444444-0000-4000-8000-00000000000{n}" for n in range(4)]
MACS = ["52:54:00:00:00:01", "52:54:00:00:00:02"]


def volume(n: int, layout: DiskFormat = DiskFormat.QCOW2, encrypted: bool = False) -> VolumeRef:
    return VolumeRef(POOL, VOLUMES[n], layout, Key(KEYS[n], None) if encrypted else None)


def spec(*disks: DiskSpec, nics: tuple[NicSpec, ...] = (), firmware: Firmware = Firmware.BIOS, cpus: int = 1) -> VmSpec:
    return VmSpec(VM, "web & mail", cpus, 256 << 20, firmware, disks, nics)


CASES = {
    "plain": (spec(DiskSpec(volume(0), 0, boot=True)), "kvm"),
    "emulated": (spec(DiskSpec(volume(0), 0, boot=True)), "qemu"),
    "diskless": (spec(), "kvm"),
    "limited": (
        spec(
            DiskSpec(volume(0), 0, boot=True, limits=IoLimits(500, 50 << 20, burst_iops=2000, burst_s=30)),
            DiskSpec(volume(1), 1, limits=IoLimits(bytes_per_s=1 << 20), ignore_discard=True),
        ),
        "kvm",
    ),
    "link-down": (spec(nics=(NicSpec("52:54:00:00:00:01", "br0", link_down=True),)), "kvm"),
    "growing": (
        replace(spec(DiskSpec(volume(0), 0, boot=True), cpus=2), max_cpus=4, max_memory_bytes=1 << 30),
        "kvm",
    ),
    "uefi": (spec(DiskSpec(volume(0), 0, boot=True), firmware=Firmware.UEFI, cpus=4), "kvm"),
    "encrypted": (
        spec(
            DiskSpec(volume(0, encrypted=True), 0, boot=True),
            DiskSpec(volume(1, DiskFormat.RAW, encrypted=True), 1),
            DiskSpec(volume(2, DiskFormat.RAW), 5),
        ),
        "kvm",
    ),
    "device": (spec(DiskSpec(volume(3, encrypted=True), 0, boot=True)), "kvm"),
    "extra": (
        replace(
            spec(DiskSpec(volume(0), 0, boot=True), cpus=2),
            extra=ExtraConfig(
                (
                    "<cpu><feature policy='require' name='vmx'/></cpu>",
                    "<devices><video><model type='qxl'/></video><watchdog model='i6300esb' action='reset'/></devices>",
                )
            ),
        ),
        "kvm",
    ),
    "dpdk": (
        replace(
            spec(DiskSpec(volume(0), 0, boot=True), nics=(NicSpec(MACS[0], "br0"), NicSpec(MACS[1], "br1"))),
            extra=ExtraConfig(
                (
                    "<cpu mode='host-passthrough'><numa>"
                    "<cell id='0' cpus='0' memory='256' unit='MiB' memAccess='shared'/></numa></cpu>",
                    "<memoryBacking><hugepages/></memoryBacking>",
                ),
                ("<driver name='vhost' queues='4'/>",),
                VhostUser.CLIENT,
            ),
        ),
        "kvm",
    ),
    "seed": (
        replace(spec(DiskSpec(volume(0), 0, boot=True)), cdrom=Path(f"/var/lib/ostler/seeds/{VM}.iso")),
        "kvm",
    ),
    "tpm": (
        replace(
            spec(DiskSpec(volume(0), 0, boot=True), firmware=Firmware.UEFI_SECURE_BOOT),
            tpm_key=Key(KEYS[3], None, use=KeyUse.TPM),
        ),
        "kvm",
    ),
    "secure-boot": (spec(DiskSpec(volume(0), 0, boot=True), firmware=Firmware.UEFI_SECURE_BOOT), "kvm"),
    "pinned": (replace(spec(DiskSpec(volume(0), 0, boot=True)), machine="pc-q35-6.2"), "kvm"),
    "isos": (
        replace(
            spec(DiskSpec(volume(0, encrypted=True), 0, boot=True)),
            cdroms=(
                Cdrom(VM, "", 2048, 0, path=Path("/var/lib/ostler/isos/drivers")),
                Cdrom(VM, "", 2048, 1, boot_first=True, path=Path("/var/lib/ostler/isos/rescue")),
            ),
        ),
        "kvm",
    ),
    "nics": (
        spec(
            DiskSpec(volume(0), 0, boot=True),
            nics=(NicSpec(MACS[0], "br0"), NicSpec(MACS[1], "br1", "e1000e")),
        ),
        "kvm",
    ),
    "networks": (
        spec(
            DiskSpec(volume(0), 0, boot=True),
            nics=(
                NicSpec(MACS[0], "br0v100", vlan=100, trunk="br0", mtu=9000, filter=True),
                NicSpec(MACS[1], "br1", filter=True, addresses=("192.0.2.7", "2001:db8::7")),
            ),
        ),
        "kvm",
    ),
}


def made(name: str) -> str:
    case, domain_type = CASES[name]
    # Volume 2 is on a file system without direct I/O.
    files = {v: DiskFile(Path("/pool", v), direct_io=v != VOLUMES[2]) for v in VOLUMES}
    files[VOLUMES[3]] = DiskFile(Path("/dev/ostler", VOLUMES[3]), device=True)
    return domain_xml(case, files, domain_type, LOG)


@pytest.mark.parametrize("name", CASES)
def test_domain_is_as_written_down(name: str, request: pytest.FixtureRequest) -> None:
    file = GOLDEN / f"domain-{name}.xml"
    if request.config.getoption("--regenerate"):
        file.write_text(made(name))
    assert made(name) == file.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.glob("domain-*.xml")} == {f"domain-{name}" for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_libvirt_takes_the_domain(name: str) -> None:
    """Defined on libvirt's test driver, against the schema; read back, it is the VM that was meant."""
    root = ElementTree.fromstring((GOLDEN / f"domain-{name}.xml").read_text())
    root.set("type", "test")  # all that the test driver runs
    kind = root.find("os/type")
    assert kind is not None
    kind.set("arch", "i686")
    connection = libvirt.open("test:///default")
    try:
        text = ElementTree.tostring(root, encoding="unicode")
        domain = connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        back = ElementTree.fromstring(domain.XMLDesc())
    finally:
        connection.close()
    case = CASES[name][0]
    assert domain.UUIDString() == VM
    assert back.findtext("title") == "web & mail"
    assert metadata.is_managed(back)
    attached = [(disk.volume_id, disk.target, disk.key_id) for disk in disks.attached_disks(back)]
    assert attached == [
        (d.volume.volume_id, disks.target(d.slot), d.volume.key.key_id if d.volume.key else None) for d in case.disks
    ]


def test_a_foreign_domain_is_not_managed() -> None:
    connection = libvirt.open("test:///default")
    try:
        assert not metadata.is_managed(ElementTree.fromstring(connection.lookupByName("test").XMLDesc()))
    finally:
        connection.close()


def test_no_tcp_port_is_opened() -> None:
    root = ElementTree.fromstring(made("plain"))
    assert [listen.get("type") for listen in root.findall("devices/graphics/listen")] == ["socket"]
    assert not [item for item in root.iter() if item.get("port", "0") not in ("0",) or item.get("autoport")]


@pytest.mark.parametrize(("slot", "name"), [(0, "vda"), (25, "vdz"), (26, "vdaa"), (27, "vdab"), (701, "vdzz")])
def test_target_names(slot: int, name: str) -> None:
    assert disks.target(slot) == name


@pytest.mark.parametrize(
    ("path", "volume_id"),
    [
        (f"/pool/{VOLUMES[0]}", VOLUMES[0]),
        (f"/pool/{VOLUMES[0]}.qcow2", None),
        (f"/pool/{VOLUMES[0].replace('-', '')}", None),
        ("/pool/root.img", None),
        ("", None),
    ],
)
def test_only_files_named_by_a_uuid_are_volumes(path: str, volume_id: str | None) -> None:
    assert disks.volume_of(path) == volume_id


def test_secret_is_private_ephemeral_and_ours() -> None:
    text = secret.secret_xml(VM, KEYS[0])
    root = ElementTree.fromstring(text)
    assert (root.get("private"), root.get("ephemeral"), root.findtext("uuid")) == ("yes", "yes", KEYS[0])
    usage = root.findtext("usage/volume")
    assert usage is not None
    assert secret.owner(usage) == VM
    of_tpm = ElementTree.fromstring(secret.secret_xml(VM, KEYS[3], KeyUse.TPM)).find("usage[@type='vtpm']/name")
    assert of_tpm is not None
    assert secret.owner(of_tpm.text or "") == VM
    for foreign in ("", "/var/lib/libvirt/images/a", "ostler", "ostler:a", "ceph:a:b", "ostler:a:b:c"):
        assert secret.owner(foreign) is None


def test_destination_differs_only_in_what_is_named() -> None:
    case = spec(
        DiskSpec(volume(0, encrypted=True), 0, boot=True),
        DiskSpec(volume(1, encrypted=True), 1),
        nics=(NicSpec(MACS[0], "br0"), NicSpec(MACS[1], "br0")),
    )
    files = {v: DiskFile(Path("/pool", v)) for v in VOLUMES}
    before = domain_xml(case, files, "kvm", LOG)
    other_key = "55555555-0000-4000-8000-000000000000"
    after = for_destination(before, {VOLUMES[0]: Path("/there", VOLUMES[0])}, {VOLUMES[0]: other_key}, {MACS[1]: "br9"})
    changed = [(a.strip(), b.strip()) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert changed == [
        (f'<source file="/pool/{VOLUMES[0]}">', f'<source file="/there/{VOLUMES[0]}">'),
        (f'<secret type="passphrase" uuid="{KEYS[0]}" />', f'<secret type="passphrase" uuid="{other_key}" />'),
        ('<source bridge="br0" />', '<source bridge="br9" />'),
    ]
    assert for_destination(before, {}, {}, {}) == before


def test_another_tpm_does_not_replace_one_with_a_key() -> None:
    device = "<devices><tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm></devices>"
    extra = replace(spec(), extra=ExtraConfig((device,)))
    assert "tpm-tis" in domain_xml(extra, {}, "kvm", LOG)
    with pytest.raises(FailedPreconditionError) as refused:
        domain_xml(replace(extra, tpm_key=Key(KEYS[3], None, use=KeyUse.TPM)), {}, "kvm", LOG)
    assert refused.value.reason == "EXTRA_CONFIG_OWNED"


def test_the_keys_of_a_domain_are_those_of_its_tpm_and_its_disks() -> None:
    root = ElementTree.fromstring((GOLDEN / "domain-tpm.xml").read_text())
    assert tpm.key_ids(root) == {KEYS[3]}
    assert tpm.is_in(root)
    assert not tpm.is_in(ElementTree.fromstring((GOLDEN / "domain-plain.xml").read_text()))


def test_a_file_becomes_a_device_where_it_is_one() -> None:
    before = domain_xml(
        spec(DiskSpec(volume(0, encrypted=True), 0)), {VOLUMES[0]: DiskFile(Path("/a", VOLUMES[0]))}, "kvm", LOG
    )
    device = Path("/dev/ostler/pool", VOLUMES[0])
    there = for_destination(before, {VOLUMES[0]: device}, {}, {})
    root = ElementTree.fromstring(there)
    assert [disk.get("type") for disk in root.findall("devices/disk[@device='disk']")] == ["block"]
    assert [(disk.volume_id, disk.path) for disk in disks.attached_disks(root)] == [(VOLUMES[0], str(device))]
    assert for_destination(there, {VOLUMES[0]: Path("/a", VOLUMES[0])}, {}, {}) == before


def test_a_disk_keeps_its_serial_number_when_its_file_is_another() -> None:
    with_serial = DiskSpec(volume(1), 0, serial=VOLUMES[0])
    first, then = (disks.disk(disk, DiskFile(Path("/pool/x"))) for disk in (DiskSpec(volume(0), 0), with_serial))
    assert first.findtext("serial") == then.findtext("serial") == disks.serial(VOLUMES[0])


def test_a_domain_that_is_handed_back_keeps_no_log() -> None:
    root = ElementTree.fromstring((GOLDEN / "domain-plain.xml").read_text())
    assert console.drop_log(root)
    assert root.find("devices/serial[@type='pty']/target") is not None
    assert root.find("devices/serial/log") is None
    assert not console.drop_log(root)
