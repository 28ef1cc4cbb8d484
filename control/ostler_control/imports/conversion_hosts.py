"""Which host converts an import: the one that was asked for, else the least loaded capable one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# The programs that a conversion needs, by the probe that looks for them, with Debian's and Ubuntu's package.
_PACKAGES = {
    "instance-conversion.virt-v2v": "virt-v2v",
    "instance-conversion.nbdkit": "nbdkit",
    "instance-conversion.qemu-storage-daemon": "qemu-system-common",
    "instance-conversion.supermin": "supermin",
    "instance-conversion.kernel": "linux-image-amd64",
}
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
    """Why a host does not convert. words: follow its name; remedy: what helps, "" for nothing."""

    host: str
    words: str
    remedy: str = ""


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
    missing = [package for probe, package in _PACKAGES.items() if probe in host.failed_probes]
    if missing:
        return Refusal(
            host.name, f"lacks {', '.join(missing)}", f"On Debian and Ubuntu: apt-get install {' '.join(missing)}."
        )
    if not host.can_convert:
        return Refusal(host.name, "is of a type of hypervisor that converts no guests")
    if not host.reaches_pools:
        return Refusal(host.name, "does not reach the pool that the volumes go to")
    if windows and _WINDOWS_PROBE in host.failed_probes:
        return Refusal(
            host.name,
            "lacks the drivers for Windows",
            "Install virtio-win in /usr/share/virtio-win, or set virtio_win in the agent's configuration; Debian and"
            " Ubuntu have no package of it.",
        )
    return None
