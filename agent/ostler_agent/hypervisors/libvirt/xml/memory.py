"""Memory and its balloon."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element

STATS_PERIOD_S = 10


def memory(size_bytes: int) -> list[Element]:
    """Memory, all available from the start."""
    kib = str(size_bytes // 1024)
    return [element("memory", kib, unit="KiB"), element("currentMemory", kib, unit="KiB")]


def balloon() -> Element:
    """The balloon device, through which the guest reports its memory use."""
    return element("memballoon", element("stats", period=str(STATS_PERIOD_S)), model="virtio")
