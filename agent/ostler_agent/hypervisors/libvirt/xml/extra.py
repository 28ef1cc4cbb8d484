"""Extra configuration, merged into the domain that Ostler makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ostler_common.errors import FailedPreconditionError
from ostler_common.scaled_size import parse_scaled_size
from ostler_common.xml_fragment import QEMU_NAMESPACE, Node, parse

# Devices of which a VM has one (or its first is Ostler's): what is given replaces it.
_REPLACED_DEVICES = frozenset({"video", "memballoon", "emulator", "watchdog", "tpm", "iommu", "vsock", "panic", "rng"})
# Elements of which there may be several: one that agrees in these attributes replaces the other, else it is added.
_KEYS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("cpu", "feature"): ("name",),
    ("cpu", "numa", "cell"): ("id",),
    ("cpu", "cache"): ("level",),
    ("clock", "timer"): ("name",),
    ("cputune", "vcpupin"): ("vcpu",),
    ("cputune", "iothreadpin"): ("iothread",),
    ("numatune", "memnode"): ("cellid",),
    ("memoryBacking", "hugepages", "page"): ("size", "unit", "nodeset"),
    ("devices", "controller"): ("type", "index"),
}
_LISTS = frozenset({("os", "boot"), ("cputune", "vcpusched"), ("seclabel",)})
# Ostler's own: whatever the fragments say, these stay.
_OWN = ("name", "uuid", "title", "metadata", "memory", "currentMemory", "maxMemory", "vcpu", "vcpus", "os/type")

_TPM = "devices/tpm"


def merge(domain: Element, fragments: Iterable[str]) -> None:
    """Merges fragments of domain XML into a domain, in order.

    An element that a domain has once is merged: its attributes and text are replaced, what is inside is merged in turn.
    Of lists (devices, CPU features, timers, ...) an element is added, or replaces the one with the same key.

    Raises InvalidArgumentError as `xml_fragment.parse` does, and FailedPreconditionError EXTRA_CONFIG_OWNED when the
    domain would no longer be the VM that Ostler accounts for.
    """
    before = _identity(domain)
    memory, own_tpm = _size(domain.find("memory")), _texts(domain, _TPM)
    replaced: set[str] = set()
    for fragment in fragments:
        for node in parse(fragment):
            _merge(domain, node, (), replaced)
    if _identity(domain) != before:
        raise _owned("its name, id, size and kind of machine are Ostler's to set")
    if own_tpm and _texts(domain, _TPM) != own_tpm:
        raise _owned("it has a TPM with a key of its own, which another would replace; remove <tpm>")
    cells = domain.findall("cpu/numa/cell")
    if cells and sum(map(_size, cells)) != memory:
        raise _owned(f"the memory of its NUMA cells must add up to {memory} bytes, the size of its service offering")


def merge_interfaces(domain: Element, fragments: Sequence[str]) -> None:
    """Merges fragments into each network interface of a domain."""
    for interface in domain.findall("devices/interface"):
        for fragment in fragments:
            for node in parse(fragment):
                _merge(interface, node, ("devices", "interface"), set())


def _merge(parent: Element, node: Node, path: tuple[str, ...], replaced: set[str]) -> None:
    tag = _tag(node.name)
    here = (*path, node.name)
    if path == ("devices",):
        _merge_device(parent, node, replaced)
        return
    key = _KEYS.get(here)
    if key is not None:
        _remove(parent, tag, [(name, node.attributes.get(name)) for name in key])
        parent.append(_element(node))
        return
    existing = parent.find(tag)
    if existing is None or _is_list(here):
        parent.append(_element(node))
        return
    existing.attrib.update(node.attributes)
    if node.text:
        existing.text = node.text
    for child in node.children:
        _merge(existing, child, here, replaced)


def _merge_device(devices: Element, node: Node, replaced: set[str]) -> None:
    if node.name in _REPLACED_DEVICES and node.name not in replaced:
        replaced.add(node.name)
        _remove(devices, node.name, [])
    key = _KEYS.get(("devices", node.name))
    if key is not None:
        _remove(devices, node.name, [(name, node.attributes.get(name)) for name in key])
    devices.append(_element(node))


def _is_list(path: tuple[str, ...]) -> bool:
    """Whether a domain may have several elements at this path; those with a key are not meant."""
    return path in _LISTS or (path[0].startswith("qemu:") and len(path) > 1)


def _remove(parent: Element, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
    for child in parent.findall(tag):
        if all(child.get(name) == value for name, value in attributes):
            parent.remove(child)


def _element(node: Node) -> Element:
    made = Element(_tag(node.name), dict(node.attributes))
    made.text = node.text or None
    made.extend(_element(child) for child in node.children)
    return made


def _tag(name: str) -> str:
    prefix, separator, local = name.partition(":")
    return f"{{{QEMU_NAMESPACE}}}{local}" if separator and prefix == "qemu" else name


def _identity(domain: Element) -> list[list[bytes]]:
    return [_texts(domain, path) for path in _OWN]


def _texts(domain: Element, path: str) -> list[bytes]:
    return [ElementTree.tostring(found) for found in domain.findall(path)]


def _size(item: Element | None) -> int:
    """The size that <memory> or a NUMA cell states, bytes."""
    if item is None:
        return 0
    number = (item.get("memory") if item.tag == "cell" else item.text) or ""
    try:
        return parse_scaled_size(number, item.get("unit"))
    except ValueError as error:
        raise _owned(f"the memory of its NUMA cells {error}") from None


def _owned(what: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"extra configuration changes the VM itself: {what}", "EXTRA_CONFIG_OWNED")
