"""Virtual CPUs."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element


def vcpu(cpus: int) -> Element:
    """The number of virtual CPUs."""
    return element("vcpu", str(cpus), placement="static")


def model(cpus: int, domain_type: str) -> Element:
    """One socket (some guests license or limit sockets); the host's model with kvm, QEMU's own if emulated."""
    topology = element("topology", sockets="1", dies="1", cores=str(cpus), threads="1")
    if domain_type == "kvm":
        return element("cpu", topology, mode="host-model", check="partial")
    return element("cpu", element("model", "qemu64", fallback="forbid"), topology, mode="custom", match="exact")
