"""CPUs and memory that running VMs get."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import MEMORY_STEP_BYTES

from ostler_agent.hypervisors.libvirt import domains
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import size
from ostler_agent.hypervisors.libvirt.xml.element import to_text

_BOTH = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG


def resize(session: Session, vm_id: str, cpus: int, memory_bytes: int) -> None:
    """Gives a running VM this size, and its definition. The caller holds the VM's lock."""
    domain = domains.get_active(session, vm_id)
    with translated(f"adding CPUs and memory to VM {vm_id}"):
        now = ElementTree.fromstring(domain.XMLDesc())
        problem = _problem(now, cpus, memory_bytes)
        if problem:
            raise FailedPreconditionError(
                f"VM {vm_id} {problem} (stop the VM and resize it then)", "RESIZE_NEEDS_STOP", {"vm": vm_id}
            )
        # Memory first: it is what a host may refuse.
        added_bytes = memory_bytes - size.memory_bytes(now)
        if added_bytes:
            domain.attachDeviceFlags(to_text(size.module(added_bytes)), _BOTH)
        if cpus != size.cpus(now):
            domain.setVcpusFlags(cpus, _BOTH)


def _problem(domain: Element, cpus: int, memory_bytes: int) -> str:
    """Why a running domain cannot get this size; "" if it can."""
    has_cpus, has_bytes = size.cpus(domain), size.memory_bytes(domain)
    if cpus < has_cpus or memory_bytes < has_bytes:
        return f"has {has_cpus} CPUs and {has_bytes >> 20} MiB of memory, and cannot lose any while it runs"
    if cpus > size.max_cpus(domain):
        return f"may have at most {size.max_cpus(domain)} CPUs while it runs"
    if memory_bytes > size.max_memory_bytes(domain):
        return f"may have at most {size.max_memory_bytes(domain) >> 20} MiB of memory while it runs"
    if memory_bytes == has_bytes:
        return ""
    if (memory_bytes - has_bytes) % MEMORY_STEP_BYTES:
        return f"gets memory in steps of {MEMORY_STEP_BYTES >> 20} MiB while it runs"
    if size.free_slots(domain) < 1:
        return f"has no slot left for memory: it got some {size.MEMORY_SLOTS} times since it started"
    if size.has_own_memory_layout(domain):
        return "has extra configuration of its memory, which cannot grow while it runs"
    return ""
