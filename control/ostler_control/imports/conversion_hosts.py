"""Which host converts an import: the one that was asked for, else the least loaded capable one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# The probes of what every conversion needs begin with this. Their reasons name the package that is missing.
_FAMILY = "instance-conversion"
_WINDOWS_PROBE = "windows-conversion.virtio-win"


@dataclass(frozen=True)
class HostFacts:
    """A host. can_convert: whether its type and all its probes say so; failed_probes: reason by probe; reaches_pools:
    all those that the volumes go to; conversions: under way there now; cpu_load: share of its CPUs in use."""

    id: str
    name: str
    cluster_id: str
    up: bool = True
    can_convert: bool = True
    failed_probes: Mapping[str, str] = field(default_factory=dict)
    reaches_pools: bool = True
    has_ovftool: bool = False
    conversions: int = 0
    cpu_load: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """Why a host does not convert. words: follow its name."""

    host: str
    words: str


def choose(
    hosts: Sequence[HostFacts], cluster_id: str, *, windows: bool, wanted_id: str = ""
) -> tuple[HostFacts | None, tuple[Refusal, ...]]:
    """The host, or None and why each one does not convert.

    hosts: those of the zone; cluster_id: the destination's, whose hosts come first, "" for none.
    """
    asked = [host for host in hosts if wanted_id in ("", host.id)]
    refusals = []
    capable = []
    for host in asked:
        refusal = _refusal(host, windows)
        if refusal is None:
            capable.append(host)
        else:
            refusals.append(refusal)
    if not capable:
        return None, tuple(refusals)
    return min(capable, key=lambda h: (h.cluster_id != cluster_id, h.conversions, h.cpu_load, h.name)), ()


def _refusal(host: HostFacts, windows: bool) -> Refusal | None:
    if not host.up:
        return Refusal(host.name, "is not up and enabled")
    missing = [reason for probe, reason in host.failed_probes.items() if probe.startswith(_FAMILY)]
    if missing:
        return Refusal(host.name, f"cannot convert guests: {'; '.join(missing)}")
    if not host.can_convert:
        return Refusal(host.name, "is of a type of hypervisor that converts no guests")
    if not host.reaches_pools:
        return Refusal(host.name, "does not reach the pool that the volumes go to")
    if windows and _WINDOWS_PROBE in host.failed_probes:
        return Refusal(host.name, f"cannot convert Windows: {host.failed_probes[_WINDOWS_PROBE]}")
    return None
