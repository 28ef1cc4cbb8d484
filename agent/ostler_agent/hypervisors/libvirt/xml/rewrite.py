"""Adapts a domain's XML to another host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from ostler_agent.hypervisors.libvirt.xml import disks, metadata
from ostler_agent.hypervisors.libvirt.xml.element import to_text

DEVICES = Path("/dev")  # paths below it, and only those, are devices on every host


def for_destination(xml: str, paths: Mapping[str, Path], keys: Mapping[str, str], bridges: Mapping[str, str]) -> str:
    """Replaces files (by volume id), key ids (by volume id) and bridges (by MAC address) in the XML.

    Changes nothing else: the guest must see the same machine on the destination.
    """
    root = ElementTree.fromstring(xml)
    names = metadata.old_names(root)
    for disk in root.findall("devices/disk"):
        source = disk.find("source")
        path_here = disks.path_of(source) or ""
        volume_id = names.get(path_here) or disks.volume_of(path_here)
        if source is None or volume_id is None:
            continue
        if volume_id in paths:
            path = paths[volume_id]
            disks.set_path(disk, source, path, device=path.is_relative_to(DEVICES))
        if volume_id in keys:
            for secret in disk.iterfind(".//encryption/secret"):
                secret.set("uuid", keys[volume_id])
    for nic in root.findall("devices/interface"):
        mac, source = nic.find("mac"), nic.find("source")
        on_bridge = nic.get("type") == "bridge"
        if on_bridge and mac is not None and source is not None and mac.get("address") in bridges:
            source.set("bridge", bridges[mac.get("address", "")])
    return to_text(root)
