"""Network interfaces."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import NicSpec


def nic(spec: NicSpec) -> Element:
    """One interface on a bridge of the host."""
    return element(
        "interface",
        element("mac", address=spec.mac),
        element("source", bridge=spec.bridge),
        element("model", type=spec.model),
        type="bridge",
    )
