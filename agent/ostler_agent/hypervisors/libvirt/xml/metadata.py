"""Metadata that marks a domain as Ostler's."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import OSTLER_NS, element
from ostler_agent.spec import VmSpec


def identity(spec: VmSpec) -> list[Element]:
    """Name, UUID, title. The name is the UUID, because names for people are not unique and may change."""
    return [element("name", spec.vm_id), element("uuid", spec.vm_id), element("title", spec.name)]


def metadata() -> Element:
    """The marker element."""
    return element("metadata", element(f"{{{OSTLER_NS}}}vm"))


def is_managed(domain: Element) -> bool:
    """Whether the domain has the marker element."""
    return domain.find(f"metadata/{{{OSTLER_NS}}}vm") is not None
