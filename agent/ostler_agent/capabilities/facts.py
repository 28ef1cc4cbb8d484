"""A host's capabilities as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.spec import CpuModel

DOMAIN_TYPE_PROBE = "domain-type"  # its detail is the domain type that VMs get

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Probe:
    """One capability that was tried. reason: why it failed; detail: e.g. the version found."""

    name: str
    ok: bool
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class HypervisorFacts:
    """What a driver reports about the hypervisor and the host. guest_cpu: what a VM gets whose CPU is like the host's,
    None if every host gives the same."""

    hypervisor_version: str = ""
    libvirt_version: str = ""
    domain_types: tuple[str, ...] = ()
    machine_types: tuple[str, ...] = ()
    cpu_model: str = ""
    guest_cpu: CpuModel | None = None
    cpus: int = 0
    cpu_mhz: int = 0
    memory_bytes: int = 0
    numa_nodes: int = 0
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """The results of all probes."""

    driver: DriverInfo
    hypervisor: HypervisorFacts
    bridges: tuple[str, ...]
    pool_types: tuple[str, ...]
    probes: tuple[Probe, ...]
    probe_time: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)

    def can(self, family: str) -> bool:
        """Whether a family ("volume-encryption") has probes and all of them passed."""
        members = [probe for probe in self.probes if probe.name == family or probe.name.startswith(f"{family}.")]
        return bool(members) and all(probe.ok for probe in members)

    @property
    def emulates(self) -> bool:
        """Whether VMs run by emulation here, without KVM, by configuration or because there is none."""
        return any(probe.name == DOMAIN_TYPE_PROBE and probe.detail == "qemu" for probe in self.probes)

    @property
    def volume_encryption(self) -> bool:
        return self._supports(Function.VOLUME_ENCRYPTION)

    @property
    def uefi(self) -> bool:
        return self._supports(Function.UEFI)

    @property
    def secure_boot(self) -> bool:
        """A driver without a probe of its own for it has its UEFI tell."""
        is_probed = any(probe.name == Function.SECURE_BOOT for probe in self.probes)
        is_proved = self.uefi and (not is_probed or self.can(Function.SECURE_BOOT))
        return Function.SECURE_BOOT in self.driver.functions and is_proved

    @property
    def nic_filter(self) -> bool:
        return self._supports(Function.NIC_FILTER)

    @property
    def tpm(self) -> bool:
        return self._supports(Function.TPM)

    @property
    def instance_conversion(self) -> bool:
        return self._supports(Function.INSTANCE_CONVERSION)

    def _supports(self, function: Function) -> bool:
        """Whether the driver states the function and its probes passed on this host."""
        return function in self.driver.functions and self.can(function)


def attempt(name: str, work: Callable[[], str]) -> Probe:
    """Runs a probe. work: returns the detail, or raises; the error is then the reason."""
    try:
        return Probe(name, ok=True, detail=work())
    except OstlerError as error:
        return Probe(name, ok=False, reason=error.message)
    except OSError as error:
        return Probe(name, ok=False, reason=str(error))
    except Exception as error:  # one broken probe must not hide the results of the others
        log.exception("a probe has a bug", probe=name)
        return Probe(name, ok=False, reason=f"the probe has a bug: {type(error).__name__}: {error}")
