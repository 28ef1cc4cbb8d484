"""Refusals counted, and as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ostler_control.placement.facts import Refusal

# The text for one host and for several, in the order of the filters.
WORDS: Mapping[str, tuple[str, str]] = {
    "EXCLUDED_BY_REQUEST": ("is excluded by the request", "are excluded by the request"),
    "OTHER_ZONE": ("is in another zone than the VM's network", "are in another zone than the VM's network"),
    "ALREADY_THERE": ("has it already", "have it already"),
    "NOT_UP": ("is not up", "are not up"),
    "DISABLED": ("is disabled", "are disabled"),
    "IN_MAINTENANCE": ("is in maintenance", "are in maintenance"),
    "OTHER_HYPERVISOR_TYPE": ("is of another hypervisor type", "are of another hypervisor type"),
    "HYPERVISOR_NOT_ALLOWED": ("is of a type that may not be used", "are of a type that may not be used"),
    "OTHER_CPU_MODEL": ("cannot give the guest its CPU", "cannot give the guest its CPU"),
    "LACKS_FORMAT": ("cannot use the disks' format", "cannot use the disks' format"),
    "LACKS_VOLUME_ENCRYPTION": ("lacks volume encryption", "lack volume encryption"),
    "LACKS_UEFI": ("lacks UEFI", "lack UEFI"),
    "LACKS_SECURE_BOOT": ("lacks secure boot", "lack secure boot"),
    "LACKS_BRIDGE": ("lacks a bridge", "lack a bridge"),
    "LACKS_TPM": ("lacks a TPM", "lack a TPM"),
    "LACKS_NIC_FILTER": ("cannot filter spoofed frames", "cannot filter spoofed frames"),
    "LACKS_POOL": ("does not reach the storage pool", "do not reach the storage pool"),
    "ANTI_AFFINITY": ("has a VM that anti-affinity keeps apart", "have a VM that anti-affinity keeps apart"),
    "AFFINITY": (
        "does not have the VMs that affinity keeps together",
        "do not have the VMs that affinity keeps together",
    ),
    "RUN_ON": ("is none of the hosts it must run on", "are none of the hosts it must run on"),
    "NOT_RUN_ON": ("is a host it must not run on", "are hosts it must not run on"),
    "LACKS_CPUS": ("lacks CPUs", "lack CPUs"),
    "LACKS_MEMORY": ("lacks memory", "lack memory"),
    "RESERVED": (
        "keeps its capacity for VMs of failed hosts (ha.reserve.hosts)",
        "keep their capacity for VMs of failed hosts (ha.reserve.hosts)",
    ),
    "LACKS_ENCRYPTION": ("cannot hold encrypted volumes", "cannot hold encrypted volumes"),
    "LACKS_SPACE": ("lacks space", "lack space"),
}


def count(codes: Iterable[str]) -> dict[str, int]:
    """How often each code occurs, in the order of WORDS."""
    counted = Counter(codes)
    return {code: counted[code] for code in WORDS if counted[code]}


def in_words(counts: Mapping[str, int]) -> str:
    """ "3 lack volume encryption, 2 lack memory": hosts that the request excludes are left out, unless all are."""
    told = {code: number for code, number in counts.items() if code != "EXCLUDED_BY_REQUEST"} or counts
    return ", ".join(f"{number} {WORDS[code][number > 1]}" for code, number in told.items())


def in_one_word(refusal: Refusal) -> str:
    """ "it lacks memory": the text for one host."""
    return f"it {WORDS[refusal.code][0]}" if refusal.code in WORDS else refusal.explanation
