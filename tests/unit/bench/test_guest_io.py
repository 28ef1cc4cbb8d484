"""What the measurement of a guest's I/O changes of a domain, makes of figures, and writes into the page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ostler_agent.hypervisors.libvirt.xml.disks import DiskFile, disk
from ostler_agent.spec import DiskFormat, DiskSpec, VolumeRef

from tests.bench import guest_io
from tests.bench.guest_io import KINDS, OSTLER, PROXMOX, THREAD, WAYS, Disk, Found, arrange, section
from tests.bench.page import replaced


def test_a_domain_gets_its_disks_attached_in_other_ways() -> None:
    domain, serials = Element("domain"), [f"{number}" * 20 for number in range(1, 5)]
    devices = SubElement(domain, "devices")
    for slot, serial in enumerate(serials):
        volume = VolumeRef("pool", serial, DiskFormat.QCOW2, None)
        devices.append(disk(DiskSpec(volume, slot), DiskFile(Path(f"/pool/{serial}"))))
    ours = ElementTree.tostring(devices[0])
    arrange(domain, dict(zip(serials[1:], (OSTLER, PROXMOX, THREAD), strict=True)))
    root, same, scsi, blk = devices.findall("disk")
    assert ElementTree.tostring(root) == ours
    assert driver(same) == driver(root)
    assert driver(scsi) == {**driver(root), **PROXMOX.driver}
    assert target(scsi)["bus"] == "scsi"
    controller = devices.find("controller")
    address = scsi.find("address")
    assert controller is not None
    assert address is not None
    assert controller.attrib == {"type": "scsi", "index": address.get("controller"), "model": "virtio-scsi"}
    assert driver(controller) == {"iothread": "1"}
    assert driver(blk) == {**driver(root), "iothread": "2"}
    assert target(blk) == {"bus": "virtio", "dev": "vdd"}
    assert domain.findtext("iothreads") == "2"


def driver(item: Element) -> dict[str, str]:
    found = item.find("driver")
    return {} if found is None else found.attrib


def target(item: Element) -> dict[str, str]:
    found = item.find("target")
    return {} if found is None else found.attrib


def test_ratios_are_of_the_same_round() -> None:
    assert guest_io.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == "2.00"


def test_the_section_compares_each_way_with_ostlers() -> None:
    rates = {Disk(way, kind): [10.0 * (1 + number)] * 3 for number, way in enumerate(WAYS) for kind in KINDS.values()}
    answers = {Disk(OSTLER, "plain"): [1.0] * 99 + [50.0]}
    text = section(Found({"reading": rates}, answers))
    lines = text.splitlines()
    assert "| reading | 10.0 MB/s | 30.0 MB/s | 0.33 | 10.0 MB/s | 30.0 MB/s | 0.33 | 1.00 |" in lines
    assert "| reading | 2.00 | 3.00 | 4.00 | 5.00 | 6.00 | 7.00 |" in lines
    assert "| reading | 2.00 | 3.00 | 4.00 |" in lines
    assert "| plain, Ostler | 1.0 ms | 49.5 ms |" in lines


def test_a_measurement_writes_its_own_section_only() -> None:
    page = "# All\n\nhead\n\n## Fleet\n\nby hand\n"
    assert replaced(page, "", "# New\n\nhead") == "# New\n\nhead\n\n## Fleet\n\nby hand\n"
    both = replaced(page, "## Disks", "a table")
    assert both == "# All\n\nhead\n\n## Disks\n\na table\n\n## Fleet\n\nby hand\n"
    assert replaced(both, "## Disks", "another") == both.replace("a table", "another")
