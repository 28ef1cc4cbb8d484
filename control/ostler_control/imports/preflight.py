"""What stands against an import, found before anything is touched: facts in, findings out. Pure.

A finding has a reason code for programs, a severity, a sentence, and a remedy. One error makes the whole a no-go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ostler_control.imports import conversion_hosts, staging
from ostler_control.imports.conversion_hosts import HostFacts
from ostler_control.imports.mapping import wants_secure_boot
from ostler_control.imports.staging import PoolFacts
from ostler_control.vmware.inventory import DiskKind, Power, SourceVm, Tools

MAX_DISKS, MAX_NICS = 64, 16

# Rough rates on a 1 Gbit/s network and one disk; an estimate only has to tell minutes from hours.
_EXPORT_BYTES_PER_S, CONVERT_BYTES_PER_S = 80 << 20, 120 << 20
_FIXED_S, _FIXED_WITH_CLONE_S = 120, 180
# The part of that after the conversion.
START_S = 15


class Severity(StrEnum):
    """How much a finding weighs."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing found. remedy: what the operator can do, "" for nothing."""

    code: str
    severity: Severity
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class TargetPool:
    """A pool that disks of the VM go to. needed_bytes: of all that go there."""

    name: str
    free_bytes: int
    needed_bytes: int


@dataclass(frozen=True)
class Facts:
    """All that a preflight looks at.

    is_vcenter: whether the source can clone; shutdown: the guest may be shut down; warm: the disks are copied while
    it runs; kvm: the source is a KVM host; passphrases: keys of the disks that one was given for; bridges: of the
    networks that those of the source are mapped to, by the source's names; taken_macs: those of other VMs;
    fleet_bridges: of the hosts that the VM may run on; uefi_host: whether one of them boots UEFI;
    secure_boot_host: whether the host where it goes boots with secure boot; tpm: it gets a new TPM; hosts and pools:
    see `conversion_hosts` and `staging`; offering_cpus, offering_memory_bytes: its limits; placement_refusal: why
    no host takes the VM, "" when one does.
    """

    vm: SourceVm
    is_vcenter: bool = True
    shutdown: bool = False
    warm: bool = False
    kvm: bool = False
    passphrases: frozenset[int] = frozenset()
    bridges: Mapping[str, str] = field(default_factory=dict)
    taken_macs: frozenset[str] = frozenset()
    fleet_bridges: frozenset[str] = frozenset()
    uefi_host: bool = True
    secure_boot_host: bool = True
    tpm: bool = False
    offering_cpus: int = 0
    offering_memory_bytes: int = 0
    hosts: Sequence[HostFacts] = ()
    cluster_id: str = ""
    wanted_host_id: str = ""
    pools: Sequence[PoolFacts] = ()
    wanted_pool_id: str = ""
    targets: Sequence[TargetPool] = ()
    placement_refusal: str = ""

    @property
    def stages(self) -> bool:
        """Whether the disks go by way of a staging directory."""
        return not (self.warm or self.kvm)


@dataclass(frozen=True)
class Report:
    """What a preflight found. host_id, pool_id: where to convert and to stage, "" without a suitable one; has_ovftool:
    whether that host could download the disks; estimated_s: how long the import may take, seconds."""

    findings: tuple[Finding, ...]
    host_id: str
    pool_id: str
    has_ovftool: bool
    estimated_s: int

    @property
    def is_go(self) -> bool:
        """Whether the import may begin."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def check(facts: Facts) -> Report:
    """Checks everything, even after the first error, so that all can be fixed at once."""
    findings = [finding for part in _PARTS for finding in part(facts)]
    host, refusals = conversion_hosts.choose(
        facts.hosts, facts.cluster_id, windows=facts.vm.is_windows, wanted_id=facts.wanted_host_id
    )
    if host is None:
        findings.append(_no_host(refusals))
    pool, pool_refusals = staging.choose(
        facts.pools, host.id if host else "", staging.needed_bytes(facts.vm), wanted_id=facts.wanted_pool_id
    )
    if pool is None and facts.stages:
        findings.append(_no_pool(pool_refusals))
    return Report(
        findings=tuple(findings),
        host_id=host.id if host else "",
        pool_id=pool.id if pool and facts.stages else "",
        has_ovftool=host is not None and host.has_ovftool,
        estimated_s=estimate_s(facts.vm),
    )


def estimate_s(vm: SourceVm) -> int:
    """A rough guess at how long an import takes, seconds."""
    size_bytes = vm.used_bytes or vm.capacity_bytes
    fixed_s = _FIXED_WITH_CLONE_S if vm.power is Power.ON else _FIXED_S
    return fixed_s + size_bytes // _EXPORT_BYTES_PER_S + size_bytes // CONVERT_BYTES_PER_S


def _error(code: str, message: str, remedy: str = "") -> Finding:
    return Finding(code, Severity.ERROR, message, remedy)


def _warning(code: str, message: str, remedy: str = "") -> Finding:
    return Finding(code, Severity.WARNING, message, remedy)


def _check_access(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if not vm.accessible:
        yield _error("VM_NOT_ACCESSIBLE", "its ESXi host does not answer", "Bring the ESXi host back.")
    if vm.template:
        yield _error("VM_IS_TEMPLATE", "it is a template", "Convert it to a VM in vCenter.")
    if vm.fault_tolerant:
        yield _error("VM_FAULT_TOLERANT", "fault tolerance is on", "Turn fault tolerance off.")


def _check_power(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if vm.power is Power.SUSPENDED:
        yield _error("VM_SUSPENDED", "it is suspended", "Resume it and shut it down.")
    elif vm.power is Power.OFF or facts.warm or facts.kvm:
        return
    elif facts.shutdown:
        if vm.tools is not Tools.RUNNING:
            yield _error(
                "NO_TOOLS", "its guest cannot be asked to shut down: VMware Tools do not run", "Shut it down yourself."
            )
        else:
            yield Finding("WILL_SHUT_DOWN", Severity.INFO, "its guest is shut down before the export")
    elif vm.is_windows:
        yield _error(
            "WINDOWS_RUNNING",
            "it runs Windows, whose disks cannot be converted as they are while it runs",
            "Shut it down, or use --shutdown.",
        )
    elif not facts.is_vcenter:
        yield _error(
            "CLONE_NEEDS_VCENTER",
            "it runs, and a standalone ESXi host cannot clone it",
            "Shut it down, or use --shutdown, or import it through vCenter.",
        )
    else:
        yield _warning(
            "WILL_CLONE",
            "it runs: a clone is exported, with the disks as after a power failure, and what the VM writes later is"
            " not imported",
            "To import its last state use --shutdown.",
        )


def _check_warm(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if not facts.warm:
        return
    if vm.power is Power.OFF:
        yield _error(
            "WARM_VM_OFF", "it is off, so that there is nothing to gain by --warm", "Import it without --warm."
        )
    elif vm.tools is not Tools.RUNNING:
        yield _error(
            "NO_TOOLS",
            "its guest cannot be asked to shut down at the cut-over: VMware Tools do not run",
            "Start VMware Tools in the guest, or import it without --warm.",
        )
    else:
        yield Finding("WILL_CUT_OVER", Severity.INFO, "its guest is shut down at the cut-over, and stays off")
    if vm.snapshots or any(disk.has_parent for disk in vm.disks):
        yield _error("WARM_SNAPSHOTS", "it has snapshots", "Delete its snapshots, or import it without --warm.")
    if not vm.tracking_supported:
        yield _error(
            "WARM_NO_TRACKING",
            "its virtual hardware is too old for changed block tracking",
            "Upgrade its compatibility (version 7 or newer), or import it without --warm.",
        )
    elif not vm.change_tracking:
        yield Finding(
            "WILL_TRACK", Severity.INFO, "changed block tracking is turned on for the import, and off again afterwards"
        )
    for disk in vm.disks:
        if disk.kind is DiskKind.RDM_VIRTUAL:
            yield _error(
                "WARM_RAW_DEVICE", f"{disk.label} maps a raw device", "Import it without --warm, or detach the disk."
            )


def _check_kvm(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if not facts.kvm:
        return
    for problem in vm.problems:
        severity = Severity.ERROR if problem.refuses else Severity.WARNING
        yield Finding(problem.code, severity, problem.text, "" if problem.refuses else "The new VM is without it.")
    encrypted = [disk for disk in vm.disks if disk.needs_passphrase]
    if vm.power is Power.ON and encrypted:
        yield _error(
            "RUNNING_ENCRYPTED",
            "it runs and has encrypted disks: a copy would leave clear data at the source meanwhile",
            "Shut it down.",
        )
    elif vm.power is Power.ON:
        yield _warning(
            "WILL_COPY_RUNNING",
            "it runs: its disks are copied as of one moment, as after a power failure, and what the VM writes later is"
            " not imported",
            "To import its last state shut it down.",
        )
    for disk in encrypted:
        if disk.key not in facts.passphrases:
            yield _error(
                "PASSPHRASE_MISSING",
                f"disk {disk.label} is encrypted",
                f"Give its passphrase (--passphrase-file {disk.key}=FILE).",
            )
    for key in sorted(facts.passphrases - {disk.key for disk in encrypted}):
        yield _error("PASSPHRASE_NOT_NEEDED", f"disk {key} is not encrypted, and has a passphrase", "Leave it out.")
    for disk in vm.disks:
        if len(disk.images) > 1:
            names = ", ".join(image.path for image in disk.images)
            yield Finding("CHAIN_JOINED", Severity.INFO, f"disk {disk.label} is joined from {names}")


def _check_disks(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    running = vm.power is Power.ON and not facts.shutdown
    if not vm.disks:
        yield _error("NO_DISKS", "it has no disk")
    if len(vm.disks) > MAX_DISKS:
        yield _error("TOO_MANY_DISKS", f"it has {len(vm.disks)} disks; at most {MAX_DISKS} can be imported")
    if vm.encrypted or any(disk.encrypted for disk in vm.disks):
        yield _error(
            "VM_ENCRYPTED",
            "VMware encrypts it or one of its disks",
            "Change its storage policy to one without.",
        )
    for disk in vm.disks:
        if disk.kind in (DiskKind.RDM_PHYSICAL, DiskKind.OTHER):
            yield _error(
                "DISK_RAW_DEVICE",
                f"{disk.label} is a raw device, which no export contains",
                "Migrate it to a virtual disk, or detach it.",
            )
        elif disk.kind is DiskKind.RDM_VIRTUAL:
            yield _warning("DISK_RDM_VIRTUAL", f"{disk.label} maps a raw device; its content becomes a volume")
        if disk.shared:
            yield _error(
                "DISK_SHARED",
                f"{disk.label} is shared with other VMs",
                "Detach it, or end the sharing.",
            )
        if disk.independent and running:
            yield _error(
                "DISK_INDEPENDENT",
                f"{disk.label} is independent, so that it is in no clone of a running VM",
                "Shut the VM down, or use --shutdown.",
            )


def _check_snapshots(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if not facts.warm and (vm.snapshots or any(disk.has_parent for disk in vm.disks)):
        yield _warning("SNAPSHOTS", "it has snapshots; only its present state is imported")


def _check_devices(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if vm.firmware == "efi" and not facts.uefi_host:
        yield _error("NO_UEFI_HOST", "it boots with UEFI, and no host there can", "Install OVMF on a host.")
    if wants_secure_boot(vm) and facts.secure_boot_host:
        yield _warning(
            "SECURE_BOOT_KEYS",
            "it boots with secure boot, as before, with Microsoft's keys: keys that somebody enrolled are not imported",
            "If its boot loader needs other keys, give it the firmware uefi after the import (ostler vm set-firmware).",
        )
    elif wants_secure_boot(vm):
        yield _warning("SECURE_BOOT_OFF", "it boots with secure boot, and will boot without: its host here cannot")
    if vm.tpm:
        yield _warning(
            "TPM_LOST",
            "its TPM is not imported; what the guest sealed with it does not open"
            + (", and it gets a new, empty one" if facts.tpm else ""),
            "Have the recovery key at hand, or suspend BitLocker first."
            + ("" if facts.tpm else " --tpm gives the new VM a new, empty TPM."),
        )
    for label in vm.passthrough:
        yield _warning("PASSTHROUGH_LOST", f"{label} belongs to its ESXi host and is not imported")


def _check_nics(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if len(vm.nics) > MAX_NICS:
        yield _error("TOO_MANY_NICS", f"it has {len(vm.nics)} network interfaces; at most {MAX_NICS} can be imported")
    macs = Counter(nic.mac for nic in vm.nics)
    for nic in vm.nics:
        bridge = facts.bridges.get(nic.network)
        if bridge is None:
            yield _error(
                "NIC_NOT_MAPPED",
                f"{nic.label} is on the network {nic.network!r}, which is mapped to no network",
                f"Add --network '{nic.network}=NETWORK'.",
            )
        elif bridge not in facts.fleet_bridges:
            yield _error("NO_SUCH_BRIDGE", f"{nic.label}: no host there has the bridge {bridge}")
        if nic.mac in facts.taken_macs or macs[nic.mac] > 1:
            yield _error(
                "MAC_TAKEN",
                f"{nic.label}: another network interface has the MAC address {nic.mac}",
                "Delete the VM that has it, or change the address at the source.",
            )


def _check_offering(facts: Facts) -> Iterator[Finding]:
    vm = facts.vm
    if vm.cpus > facts.offering_cpus or vm.memory_bytes > facts.offering_memory_bytes:
        yield _error(
            "OFFERING_TOO_SMALL",
            f"it has {vm.cpus} CPUs and {vm.memory_bytes >> 20} MiB of memory; the offering has"
            f" {facts.offering_cpus} and {facts.offering_memory_bytes >> 20} MiB",
            "Choose a larger service offering.",
        )


def _check_placement(facts: Facts) -> Iterator[Finding]:
    if facts.placement_refusal:
        yield _error("NO_FEASIBLE_PLACE", facts.placement_refusal)


def _check_targets(facts: Facts) -> Iterator[Finding]:
    for target in facts.targets:
        if target.free_bytes < target.needed_bytes:
            yield _error(
                "TARGET_SPACE",
                f"the pool {target.name} has {target.free_bytes >> 20} MiB free, and the VM's disks need up to"
                f" {target.needed_bytes >> 20} MiB",
                "Free space, or choose another pool.",
            )


_PARTS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _check_access,
    _check_power,
    _check_warm,
    _check_kvm,
    _check_disks,
    _check_snapshots,
    _check_devices,
    _check_nics,
    _check_offering,
    _check_placement,
    _check_targets,
)


def _no_host(refusals: Sequence[conversion_hosts.Refusal]) -> Finding:
    said = "; ".join(f"{refusal.host} {refusal.words}" for refusal in refusals[:5]) or "there are no hosts"
    return _error(
        "NO_CONVERSION_HOST",
        f"no host can convert it: {said}",
        "Fix that on a host and probe it again (ostler host probe), or choose another host.",
    )


def _no_pool(refusals: Sequence[staging.Refusal]) -> Finding:
    said = "; ".join(f"{refusal.pool} {refusal.words}" for refusal in refusals[:5]) or "there are no pools"
    return _error(
        "NO_STAGING_POOL",
        f"no pool can hold the exported files: {said}",
        "Name an NFS or shared-mount-point pool of the cluster or the zone that the conversion host reaches.",
    )
