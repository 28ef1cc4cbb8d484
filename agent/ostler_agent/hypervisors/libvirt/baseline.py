"""CPUs that guests can have on several hosts: libvirt's description of what a host gives, and what all of some give."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt
from ostler_common.errors import FailedPreconditionError

from ostler_agent.hypervisors.libvirt.xml.cpu import NESTED
from ostler_agent.hypervisors.libvirt.xml.element import element, to_text
from ostler_agent.spec import CpuModel


def of_host(domain_capabilities: str) -> CpuModel | None:
    """What a VM gets whose CPU is like the host's; None where libvirt does not say.

    domain_capabilities: as virConnectGetDomainCapabilities returns them
    (https://libvirt.org/formatdomaincaps.html#cpu-configuration).
    """
    mode = ElementTree.fromstring(domain_capabilities).find("cpu/mode[@name='host-model'][@supported='yes']")
    return None if mode is None or not mode.findtext("model") else _read(mode)


def of_all(connection: libvirt.virConnect, cpus: tuple[CpuModel, ...], domain_type: str) -> CpuModel:
    """The most that all of these give, as far as a live migration can keep it.

    Raises FailedPreconditionError CPU_NO_BASELINE, e.g. for CPUs of two vendors.
    """
    try:
        found = connection.baselineHypervisorCPU(
            None,
            "x86_64",
            None,
            domain_type,
            [to_text(_write(cpu)) for cpu in cpus],
            libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE,
        )
    except libvirt.libvirtError as error:
        models = ", ".join(sorted({f"{cpu.vendor} {cpu.model}".strip() for cpu in cpus}))
        raise FailedPreconditionError(
            f"the CPUs of the cluster's hosts have nothing in common that a guest can use ({models}): {error}; put "
            "hosts of each kind into a cluster of their own",
            "CPU_NO_BASELINE",
        ) from None
    return _read(ElementTree.fromstring(found))


def _read(cpu: Element) -> CpuModel:
    """Leaves out virtualization within guests, which is off, and its parts."""
    every = {feature.get("name", ""): feature.get("policy", "require") for feature in cpu.findall("feature")}
    features = {name: policy for name, policy in every.items() if name not in NESTED and not name.startswith("vmx-")}
    return CpuModel(
        cpu.findtext("model") or "",
        cpu.findtext("vendor") or "",
        tuple(sorted(name for name, policy in features.items() if policy in ("require", "force"))),
        tuple(sorted(name for name, policy in features.items() if policy in ("disable", "forbid"))),
    )


def _write(cpu: CpuModel) -> Element:
    return element(
        "cpu",
        element("model", cpu.model, fallback="forbid"),
        element("vendor", cpu.vendor) if cpu.vendor else None,
        *(element("feature", policy="require", name=name) for name in cpu.features),
        *(element("feature", policy="disable", name=name) for name in cpu.lacks),
        mode="custom",
        match="exact",
    )
