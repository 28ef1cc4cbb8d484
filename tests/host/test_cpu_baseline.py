"""CPUs of guests, as a real libvirtd sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import libvirt
import pytest
from ostler_agent.hypervisors.libvirt import baseline
from ostler_agent.hypervisors.libvirt.xml import cpu
from ostler_agent.spec import CpuModel
from ostler_common.errors import FailedPreconditionError

from tests.lab.lab import Lab
from tests.lab.machines import MIB, spec

pytestmark = pytest.mark.host
HASWELL = CpuModel("Haswell-noTSX", "Intel", ("ss",), ("erms",))
SKYLAKE = CpuModel("Skylake-Client-noTSX-IBRS", "Intel", ("ss",))
DOMAIN = (
    "<domain type='qemu'><name>guest</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
)


@pytest.fixture(scope="module")
def connection() -> Iterator[libvirt.virConnect]:
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        with contextlib.closing(libvirt.open(lab.hosts[0].libvirt_uri)) as found:
            yield found


@pytest.mark.parametrize("domain_type", ["qemu", "kvm"])
def test_what_two_cpus_have_in_common(connection: libvirt.virConnect, domain_type: str) -> None:
    found = baseline.of_all(connection, (HASWELL, SKYLAKE), domain_type)
    assert found.vendor == "Intel"
    assert "ss" in found.features
    assert "erms" not in found.features
    assert found == baseline.of_all(connection, (SKYLAKE, HASWELL), domain_type)


def test_cpus_of_two_vendors_have_nothing_in_common(connection: libvirt.virConnect) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        baseline.of_all(connection, (HASWELL, CpuModel("EPYC", "AMD")), "qemu")
    assert caught.value.reason == "CPU_NO_BASELINE"
    assert "AMD EPYC, Intel Haswell-noTSX" in caught.value.message


def test_a_vm_starts_with_what_hosts_have_in_common(connection: libvirt.virConnect) -> None:
    """With what this emulator gives, and the same without a feature: a VM of another host would get no more."""
    own = baseline.of_host(connection.getDomainCapabilities(None, "x86_64", "q35", "qemu"))
    assert own is not None
    assert own.features
    lacking = own.features[-1]
    other = replace(own, features=own.features[:-1], lacks=(*own.lacks, lacking))
    common = baseline.of_all(connection, (own, other), "qemu")
    assert lacking not in common.features
    domain = ElementTree.fromstring(DOMAIN)
    machine = replace(spec(), cpus=1, memory_bytes=128 * MIB, cluster_cpus=(common,))
    domain.append(cpu.model(machine, "kvm"))
    text = ElementTree.tostring(domain, encoding="unicode")
    running = connection.createXML(text, libvirt.VIR_DOMAIN_START_VALIDATE)
    try:
        shown = ElementTree.fromstring(running.XMLDesc())
        assert shown.find("cpu").get("mode") == "custom"  # type: ignore[union-attr]
        assert shown.findtext("cpu/model") == common.model
    finally:
        running.destroy()
