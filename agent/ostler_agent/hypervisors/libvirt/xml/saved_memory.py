"""The memory of a VM in a file."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element, to_text


def snapshot_xml(domain_xml: str, memory: Path) -> str:
    """A snapshot of the memory in a file, and of no disk."""
    names = [target.get("dev", "") for target in ElementTree.fromstring(domain_xml).findall("devices/disk/target")]
    disks = element("disks", *(element("disk", name=name, snapshot="no") for name in names))
    return to_text(element("domainsnapshot", element("memory", snapshot="external", file=str(memory)), disks))


def vm_of(saved_xml: str) -> str:
    """The id of the VM whose memory is in a file."""
    return ElementTree.fromstring(saved_xml).findtext("uuid", "")


def for_definition(saved_xml: str, defined_xml: str) -> str:
    """The VM of a file, as libvirt wrote it there, with the files, keys and bridges of its present definition.

    Changes nothing else: the guest must see the machine that it had.
    """
    root, defined = ElementTree.fromstring(saved_xml), ElementTree.fromstring(defined_xml)
    for path, name, attribute in (("devices/disk", "target", "dev"), ("devices/interface", "mac", "address")):
        now = {_named(device, name, attribute): device for device in defined.findall(path)}
        for device in root.findall(path):
            if (other := now.get(_named(device, name, attribute))) is not None:
                _replace_source(device, other)
    return to_text(root)


def _named(device: Element, name: str, attribute: str) -> str:
    found = device.find(name)
    return "" if found is None else found.get(attribute, "")


def _replace_source(device: Element, other: Element) -> None:
    old, new = device.find("source"), other.find("source")
    place = 0
    if old is not None:
        place = list(device).index(old)
        device.remove(old)
    if new is not None:
        device.insert(place, new)
    device.set("type", other.get("type", "file"))
