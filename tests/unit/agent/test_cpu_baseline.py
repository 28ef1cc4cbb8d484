"""CPUs of guests: as libvirt describes the host's, and as a domain gets what several hosts have in common."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from ostler.types.v1 import vm_pb2
from ostler_agent.hypervisors.libvirt import baseline
from ostler_agent.hypervisors.libvirt.xml import cpu
from ostler_agent.services import convert
from ostler_agent.spec import CpuModel, Firmware, VmSpec
from ostler_common.errors import InvalidArgumentError

CAPABILITIES = """
<domainCapabilities><cpu>
  <mode name='host-passthrough' supported='yes'/>
  <mode name='host-model' supported='{supported}'>
    <model fallback='forbid'>Skylake-Client-IBRS</model>
    <vendor>Intel</vendor>
    <feature policy='require' name='ss'/>
    <feature policy='require' name='vmx'/>
    <feature policy='require' name='vmx-ins-outs'/>
    <feature policy='disable' name='hle'/>
  </mode>
</cpu></domainCapabilities>
"""
SKYLAKE = CpuModel("Skylake-Client-IBRS", "Intel", ("ss",), ("hle",))
SPEC = VmSpec("11111111-2222-4333-8444-555555555555", "guest", 2, 1 << 30, Firmware.BIOS, ())


def test_what_a_host_gives_is_read_without_virtualization_in_guests() -> None:
    assert baseline.of_host(CAPABILITIES.format(supported="yes")) == SKYLAKE
    assert baseline.of_host(CAPABILITIES.format(supported="no")) is None


def test_a_domain_gets_the_cpu_of_its_cluster_and_else_its_hosts() -> None:
    def made(spec: VmSpec, domain_type: str) -> ElementTree.Element:
        return cpu.model(spec, domain_type)

    own = made(SPEC, "kvm")
    assert own.get("mode") == "host-model"
    common = made(replace(SPEC, cluster_cpus=(SKYLAKE,)), "kvm")
    assert (common.get("mode"), common.get("match"), common.findtext("model")) == ("custom", "exact", SKYLAKE.model)
    policies = {feature.get("name"): feature.get("policy") for feature in common.findall("feature")}
    assert policies == {"ss": "require", "hle": "disable", "vmx": "disable", "svm": "disable"}
    assert made(replace(SPEC, cluster_cpus=(SKYLAKE,)), "qemu").findtext("model") == "qemu64"


@pytest.mark.parametrize(
    "cpus",
    [
        [vm_pb2.CpuModel(model="")],
        [vm_pb2.CpuModel(model="x<y")],
        [vm_pb2.CpuModel(model="Haswell", features=["ss", "a b"])],
        [vm_pb2.CpuModel(model="Haswell", features=["ss"] * 500)],
        [vm_pb2.CpuModel(model="Haswell")] * 65,
    ],
)
def test_what_is_no_cpu_is_refused(cpus: list[vm_pb2.CpuModel]) -> None:
    spec = vm_pb2.VmSpec(vm_id=SPEC.vm_id, name="guest", cpus=1, memory_bytes=1 << 30, firmware=vm_pb2.FIRMWARE_BIOS)
    spec.cluster_cpus.extend(cpus)
    with pytest.raises(InvalidArgumentError) as caught:
        convert.vm_spec(spec, "spec")
    assert "cluster_cpus" in caught.value.message
    del spec.cluster_cpus[:]
    spec.cluster_cpus.append(convert.to_cpu(SKYLAKE))
    assert convert.vm_spec(spec, "spec").cluster_cpus == (SKYLAKE,)
