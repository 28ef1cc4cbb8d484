"""What placement reads and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class HostFacts(NamedTuple):
    """A host as placement sees it. A tuple, because a thousand are made for every placement.

    state: connecting | up | disconnected; enabled: it and its cluster are; usable_*: what VMs may be given in all, with
    overcommit and without the memory kept for the host; free_*: what is left of that, below 0 when the overcommit was
    lowered; pools: ids of those it reaches, of the ones that the demand speaks of; cluster_type: the hypervisor type
    that its hosts are to have, "" when it has none yet; template_formats: of disks, empty when it has not reported.
    """

    id: str
    name: str
    cluster_id: str
    zone_id: str
    hypervisor_type: str
    state: str
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

    def with_vm(self, cpus: int, memory_bytes: int) -> HostFacts:
        """The host once it has taken this much more."""
        return self._replace(free_cpus=self.free_cpus - cpus, free_memory_bytes=self.free_memory_bytes - memory_bytes)


@dataclass(frozen=True)
class AffinityRules:
    """Ids of hosts, as a VM's affinity groups see them.

    apart: it must not be there; together: it must be on one of each of these sets; shunned and liked: it rather would
    not, or would.
    """

    apart: frozenset[str] = frozenset()
    together: tuple[frozenset[str], ...] = ()
    avoid: frozenset[str] = frozenset()
    prefer: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Demand:
    """What is to be placed. Empty text and empty sets ask for nothing.

    name: of the VM or volume, for messages; cpus and memory_bytes 0 for volume work; allowed_types: of hypervisor, any
    of which would do; formats: of all its disks; pool_choices: for each disk the pools that would do, best first: the
    host must reach one of each; excluded_host_id: where it is and must not stay; preferred_host_id: taken whenever it
    fits; company: where the VMs are that it wants to be with, or apart from.
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
    pool_choices: tuple[tuple[str, ...], ...] = ()
    excluded_host_id: str = ""
    preferred_host_id: str = ""
    company: AffinityRules | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a host will not do: a word for machines, a sentence for people."""

    code: str
    explanation: str


@dataclass(frozen=True)
class Candidate:
    """A host and what placement says of it. score: the larger the better; 0 for one that does not fit."""

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
