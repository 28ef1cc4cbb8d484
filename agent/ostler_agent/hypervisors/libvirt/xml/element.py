"""Creates XML elements in one expression."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

OSTLER_NS = "urn:ostler:vm:1"
ElementTree.register_namespace("ostler", OSTLER_NS)
ElementTree.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")


def element(tag: str, *content: Element | str | None, **attributes: str) -> Element:
    """Creates an element with children or text; skips a None child, removes a trailing "_" of an attribute."""
    created = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for part in content:
        if isinstance(part, str):
            created.text = part
        elif part is not None:
            created.append(part)
    return created


def to_text(root: Element) -> str:
    """The element as indented text; deterministic."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
