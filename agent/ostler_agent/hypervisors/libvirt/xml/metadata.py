"""Metadata that marks a domain as Ostler's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import OSTLER_NS, element
from ostler_agent.spec import VmSpec


def identity(spec: VmSpec) -> list[Element]:
    """Name, UUID, title. The name is the UUID, because names for people are not unique and may change."""
    return [element("name", spec.vm_id), element("uuid", spec.vm_id), element("title", spec.name)]


def metadata() -> Element:
    """The marker element."""
    return element("metadata", element(f"{{{OSTLER_NS}}}vm"))


def mark(volumes: Mapping[Path, str]) -> Element:
    """The marker element of an adopted domain, as libvirt takes it, which adds the namespace to the outermost element.

    volumes: ids by path, of files whose names are no volume ids.
    """
    return element("vm", *(element("file", path=str(path), volume=id) for path, id in volumes.items()))


def old_names(domain: Element) -> dict[str, str]:
    """Volume ids by path, as an adopted domain's marker has them."""
    found = domain.findall(f"metadata/{{{OSTLER_NS}}}vm/{{*}}file")
    return {item.get("path", ""): item.get("volume", "") for item in found}


def is_managed(domain: Element) -> bool:
    """Whether the domain has the marker element."""
    return domain.find(f"metadata/{{{OSTLER_NS}}}vm") is not None
