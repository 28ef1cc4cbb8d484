"""How many CPUs and how much memory a domain has, and may get while it runs."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import VmSpec

MEMORY_SLOTS = 16  # how often a VM can get memory before it stops


def has_growing_memory(spec: VmSpec) -> bool:
    """Whether the VM may get more memory while it runs."""
    return spec.max_memory_bytes > spec.memory_bytes


def vcpu(spec: VmSpec) -> Element:
    """The number of virtual CPUs; with `current` the rest of them can be plugged in."""
    if spec.max_cpus > spec.cpus:
        return element("vcpu", str(spec.max_cpus), placement="static", current=str(spec.cpus))
    return element("vcpu", str(spec.cpus), placement="static")


def memory(spec: VmSpec) -> list[Element]:
    """Memory, all available from the start, and slots for more."""
    kib = str(spec.memory_bytes // 1024)
    most = (
        [element("maxMemory", str(spec.max_memory_bytes // 1024), slots=str(MEMORY_SLOTS), unit="KiB")]
        if has_growing_memory(spec)
        else []
    )
    return [*most, element("memory", kib, unit="KiB"), element("currentMemory", kib, unit="KiB")]


def numa(spec: VmSpec) -> Element | None:
    """The NUMA node that memory is plugged into; None where none is."""
    if not has_growing_memory(spec):
        return None
    last = max(spec.cpus, spec.max_cpus) - 1
    cpus = f"0-{last}" if last else "0"
    kib = str(spec.memory_bytes // 1024)
    return element("numa", element("cell", id="0", cpus=cpus, memory=kib, unit="KiB"))


def module(size_bytes: int) -> Element:
    """A memory module to plug in."""
    target = element("target", element("size", str(size_bytes // 1024), unit="KiB"), element("node", "0"))
    return element("memory", target, model="dimm")


def cpus(domain: Element) -> int:
    """The virtual CPUs that the guest has."""
    vcpus = domain.find("vcpu")
    return 0 if vcpus is None else int(vcpus.get("current") or vcpus.text or 0)


def max_cpus(domain: Element) -> int:
    """The virtual CPUs that it may get while it runs."""
    return int(domain.findtext("vcpu") or 0)


def memory_bytes(domain: Element) -> int:
    """Its memory with all modules."""
    return int(domain.findtext("memory") or 0) * 1024  # libvirt always reports KiB


def max_memory_bytes(domain: Element) -> int:
    """The memory that it may get while it runs."""
    return int(domain.findtext("maxMemory") or 0) * 1024 or memory_bytes(domain)


def free_slots(domain: Element) -> int:
    """How many memory modules can still be plugged in."""
    most = domain.find("maxMemory")
    return 0 if most is None else int(most.get("slots", "0")) - len(domain.findall("devices/memory"))


def has_own_memory_layout(domain: Element) -> bool:
    """Whether extra configuration has laid its memory out: backing, or several NUMA nodes."""
    return domain.find("memoryBacking") is not None or len(domain.findall("cpu/numa/cell")) > 1
