"""The model of the virtual CPUs."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml import size
from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import VmSpec

# Virtualization within a guest, of Intel's and of AMD's CPUs.
NESTED = ("vmx", "svm")


def model(spec: VmSpec, domain_type: str) -> Element:
    """One socket (some guests license or limit sockets). With kvm the host's model, or what all hosts of the cluster
    give (`spec.cluster_cpus`, of one element by now); QEMU's own if emulated."""
    cores = str(max(spec.cpus, spec.max_cpus))
    topology, numa = element("topology", sockets="1", dies="1", cores=cores, threads="1"), size.numa(spec)
    if domain_type == "kvm":
        # No virtualization within a guest, unless extra configuration asks for it: guests that use it do not migrate.
        nested = [element("feature", policy="disable", name=name) for name in NESTED]
        if spec.cluster_cpus:
            (cpu,) = spec.cluster_cpus
            return element(
                "cpu",
                element("model", cpu.model, fallback="forbid"),
                element("vendor", cpu.vendor) if cpu.vendor else None,
                topology,
                *(element("feature", policy="require", name=name) for name in cpu.features),
                *(element("feature", policy="disable", name=name) for name in cpu.lacks),
                *nested,
                numa,
                mode="custom",
                match="exact",
                check="partial",
            )
        return element("cpu", topology, numa, *nested, mode="host-model", check="partial")
    return element("cpu", element("model", "qemu64", fallback="forbid"), topology, numa, mode="custom", match="exact")
