"""The input of placement and its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ostler_control.states import HostState


class HostFacts(NamedTuple):
    """A host as placement sees it. A tuple, because every placement creates a thousand.

    enabled: it and its cluster are; usable_*: what all its VMs together may have, with overcommit and without the
    memory reserved for the host; free_*: the part not allocated, below 0 after the overcommit was lowered; pools: ids
    of the demand's pools that it reaches; cluster_type: the hypervisor type of its cluster, "" when that has none yet;
    template_formats: disk formats that it supports, empty when it has not reported; nic_filter: it can drop spoofed
    frames; tpm: it can emulate TPMs; secure_boot: it boots guests with it; headroom: CPUs and memory in bytes that may
    still be placed in its cluster before the reserve for failed hosts is touched, None without a reserve.
    """

    id: str
    name: str
    cluster_id: str
    zone_id: str
    hypervisor_type: str
    state: HostState
    enabled: bool
    maintenance: bool
    volume_encryption: bool
    uefi: bool
    bridges: frozenset[str]
    usable_cpus: int
    usable_memory_bytes: int
    free_cpus: int
    free_memory_bytes: int
    pools: frozenset[str] = frozenset()
    cluster_type: str = ""
    template_formats: frozenset[str] = frozenset()
    nic_filter: bool = False
    tpm: bool = False
    secure_boot: bool = False
    headroom: tuple[int, int] | None = None

    def with_vm(self, cpus: int, memory_bytes: int) -> HostFacts:
        """The host with this much more allocated."""
        return self._replace(free_cpus=self.free_cpus - cpus, free_memory_bytes=self.free_memory_bytes - memory_bytes)


@dataclass(frozen=True)
class AffinityRules:
    """Ids of hosts, as a VM's affinity groups see them.

    apart: the VM must not be there; together: it must be on one of each of these sets; avoid, prefer: it should not, or
    should, be there; forbidden, required: as apart and together, of groups that name hosts.
    """

    apart: frozenset[str] = frozenset()
    together: tuple[frozenset[str], ...] = ()
    avoid: frozenset[str] = frozenset()
    prefer: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    required: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True)
class Demand:
    """What to place. Empty text and empty sets demand nothing.

    name: of the VM or volume, for messages; cpus and memory_bytes 0 for volume work; allowed_types:
    hypervisor types that may be used; formats: of all its disks; bridges, network_zones, nic_filter: what its networks
    need, namely bridges, hosts of their zones, and a filter of spoofed frames; pool_choices: for each disk the eligible
    pools, best first: the host must reach one of each; excluded_host_id: its present host; preferred_host_id: chosen
    whenever it fits; affinity: the hosts that its affinity groups require, forbid, prefer and avoid; cpu_hosts: those
    that can give it the CPU that its guest sees already, None for all; reserve_of: id of the cluster whose reserve it
    may use, for it is in that cluster already or its host there has failed.
    """

    name: str
    cpus: int = 0
    memory_bytes: int = 0
    volume_encryption: bool = False
    uefi: bool = False
    hypervisor_type: str = ""
    allowed_types: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    zone_id: str = ""
    cluster_id: str = ""
    host_id: str = ""
    bridges: frozenset[str] = frozenset()
    network_zones: frozenset[str] = frozenset()
    nic_filter: bool = False
    tpm: bool = False
    secure_boot: bool = False
    pool_choices: tuple[tuple[str, ...], ...] = ()
    excluded_host_id: str = ""
    preferred_host_id: str = ""
    affinity: AffinityRules | None = None
    cpu_hosts: frozenset[str] | None = None
    reserve_of: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a host is not eligible: a code for programs, a sentence for people."""

    code: str
    explanation: str


@dataclass(frozen=True)
class Candidate:
    """A host as ranked by placement. score: larger is better; 0 for one that is not eligible."""

    host_id: str
    host_name: str
    refusal: Refusal | None
    score: float


@dataclass(frozen=True)
class Placement:
    """The host chosen, and for each of the demand's disks the pool chosen."""

    host_id: str
    host_name: str
    pool_ids: tuple[str, ...]
    score: float


class PoolFacts(NamedTuple):
    """A pool as placement sees it. encryption: encrypted volumes can live in it."""

    id: str
    name: str
    shared: bool
    encryption: bool
    available_bytes: int
