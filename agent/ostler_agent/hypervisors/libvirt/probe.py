"""Probes libvirt, the hypervisor and the host."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import libvirt
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_agent.capabilities.facts import DOMAIN_TYPE_PROBE, HypervisorFacts, attempt
from ostler_agent.hypervisors.libvirt import baseline, filters, key_directory
from ostler_agent.spec import CpuModel

# What libvirt calls to create the state of a TPM, and to emulate it.
_TPM_PROGRAMS = ("swtpm", "swtpm_setup", "swtpm_ioctl")


def probe(uri: str, domain_type: str, key_directory_path: Path) -> HypervisorFacts:
    """Runs the probes. domain_type: as configured; key_directory_path: where libvirt keeps keys of running VMs.

    Never raises: a failure is a failed probe.
    """
    found: list[HypervisorFacts] = []

    def ask() -> str:
        try:
            with closing(libvirt.open(uri)) as connection:
                found.append(_facts(connection, domain_type))
        except libvirt.libvirtError as error:
            raise FailedPreconditionError(f"libvirt at {uri}: {error}", "LIBVIRT") from error
        return found[0].libvirt_version

    outcome = attempt("libvirt", ask)
    facts = found[0] if found else HypervisorFacts()
    keys = attempt("volume-encryption.key-directory", lambda: key_directory.probe(key_directory_path))
    return replace(facts, probes=(outcome, *facts.probes, keys))


def _facts(connection: libvirt.virConnect, domain_type: str) -> HypervisorFacts:
    capabilities = ElementTree.fromstring(connection.getCapabilities())
    architecture = capabilities.findtext("host/cpu/arch") or ""
    guest = next(
        (
            arch
            for candidate in capabilities.findall("guest")
            for arch in candidate.findall("arch")
            if candidate.findtext("os_type") == "hvm" and arch.get("name") == architecture
        ),
        None,
    )
    model, memory_mib, cpus, mhz, nodes, *_ = connection.getInfo()
    types = {element.get("type", "") for element in guest.findall("domain")} if guest is not None else set()
    machines = {element.text or "" for element in guest.iter("machine")} if guest is not None else set()
    preferred = domain_type if domain_type != "auto" else ("kvm" if "kvm" in types else "qemu")
    return HypervisorFacts(
        hypervisor_version=_dotted(connection.getVersion()),
        libvirt_version=_dotted(connection.getLibVersion()),
        domain_types=tuple(sorted(types)),
        machine_types=tuple(sorted(machines)),
        cpu_model=capabilities.findtext("host/cpu/model") or str(model),
        guest_cpu=_guest_cpu(connection, architecture) if preferred == "kvm" and "kvm" in types else None,
        cpus=int(cpus),
        cpu_mhz=int(mhz),
        memory_bytes=int(memory_mib) << 20,
        numa_nodes=int(nodes),
        probes=(
            attempt(DOMAIN_TYPE_PROBE, lambda: _domain_type(preferred, types)),
            attempt(filters.PROBE, lambda: filters.probe(connection)),
            attempt(Function.UEFI, lambda: _uefi(connection, architecture, preferred)),
            attempt(Function.SECURE_BOOT, lambda: _secure_boot(connection, architecture, preferred)),
            attempt(Function.TPM, lambda: _tpm(connection, architecture, preferred)),
        ),
    )


def _guest_cpu(connection: libvirt.virConnect, architecture: str) -> CpuModel | None:
    return baseline.of_host(connection.getDomainCapabilities(None, architecture, None, "kvm"))


def _domain_type(wanted: str, types: set[str]) -> str:
    if wanted not in types:
        raise FailedPreconditionError(
            f"libvirt does not support domains of type {wanted} here, only: {', '.join(sorted(types)) or 'none'}",
            "DOMAIN_TYPE",
        )
    return wanted


def _uefi(connection: libvirt.virConnect, architecture: str, domain_type: str) -> str:
    """The firmware image with which libvirt would boot UEFI guests."""
    domain = _domain_capabilities(connection, architecture, domain_type)
    automatic = [value.text for value in domain.findall("os/enum[@name='firmware']/value")]
    loaders = [value.text or "" for value in domain.findall("os/loader/value")]
    present = [path for path in loaders if Path(path).exists()]
    if "efi" not in automatic or not present:
        raise FailedPreconditionError("libvirt finds no UEFI firmware (install ovmf)", "UEFI_MISSING")
    return present[0]


def _secure_boot(connection: libvirt.virConnect, architecture: str, domain_type: str) -> str:
    """What keeps a guest from its firmware's variables; libvirt says whether it finds a firmware that has it."""
    domain = _domain_capabilities(connection, architecture, domain_type)
    if "yes" not in [value.text for value in domain.findall("os/loader/enum[@name='secure']/value")]:
        raise FailedPreconditionError(
            "libvirt finds no UEFI firmware with secure boot (on Debian and Ubuntu: apt-get install ovmf)",
            "UEFI_MISSING",
        )
    return "smm"


def _tpm(connection: libvirt.virConnect, architecture: str, domain_type: str) -> str:
    """The program with which libvirt emulates TPMs."""
    missing = [program for program in _TPM_PROGRAMS if shutil.which(program) is None]
    if missing:
        raise FailedPreconditionError(
            f"{' and '.join(missing)} not found (on Debian and Ubuntu: apt-get install swtpm swtpm-tools)",
            "TPM_MISSING",
        )
    domain = _domain_capabilities(connection, architecture, domain_type)
    backends = [value.text for value in domain.findall("devices/tpm/enum[@name='backendModel']/value")]
    if "emulator" not in backends:
        raise FailedPreconditionError(
            "libvirt emulates no TPMs, although swtpm is installed (restart libvirtd: it looks for it once)",
            "TPM_MISSING",
        )
    return "swtpm"


def _domain_capabilities(connection: libvirt.virConnect, architecture: str, domain_type: str) -> ElementTree.Element:
    machine = "q35" if architecture == "x86_64" else None
    return ElementTree.fromstring(connection.getDomainCapabilities(None, architecture, machine, domain_type))


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
