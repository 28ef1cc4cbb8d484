"""The memory balloon."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element

STATS_PERIOD_S = 10


def balloon() -> Element:
    """The balloon device, through which the guest reports its memory use."""
    return element("memballoon", element("stats", period=str(STATS_PERIOD_S)), model="virtio")
