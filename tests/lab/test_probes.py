"""What a host finds out of its real hypervisor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        yield lab.hosts[0]


def test_hypervisor_is_asked(host: Host) -> None:
    host.run("ip", "link", "add", "br-guests", "type", "bridge")
    argv = [sys.executable, "-m", "ostler_agent.main", "probe", "--json"]
    found = json.loads(host.run(*argv, env=host.agent_environment()))
    facts, probes = found["hypervisor"], {probe["name"]: probe for probe in found["probes"]}
    assert "qemu" in facts["domain_types"]
    assert any("q35" in machine for machine in facts["machine_types"])
    assert facts["cpus"] > 0
    assert facts["memory_bytes"] > 1 << 28
    assert facts["hypervisor_version"].count(".") == facts["libvirt_version"].count(".") == 2
    assert facts["cpu_model"]
    assert "br-guests" in found["bridges"]
    assert probes["domain-type"] == {"name": "domain-type", "ok": True, "reason": "", "detail": "qemu"}
    assert probes["uefi"]["detail"].endswith(".fd")
    assert (probes["secure-boot"]["ok"], probes["secure-boot"]["reason"]) == (True, "")
