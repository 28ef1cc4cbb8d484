"""What the planner reads and what it answers. Values only; sizes are bytes and MHz, times seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from ostler_common.errors import InvalidArgumentError

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Host:
    """A hypervisor.

    reserved_*: kept for the host itself; other_*: given to what is not among the snapshot's VMs (a VM on its way in);
    state: connecting | up | disconnected; enabled: it and its cluster are; encryption: it has proved that it can open
    encrypted volumes; pools: ids of the storage pools it reaches; storage_free_bytes: room for disks that come along
    with a VM; cpu_models: CPUs it can give a guest; measured_*: smoothed load, None without enough samples;
    *_pressure: the share of time in which some task waited for it (PSI), 1.0 is always, None without samples;
    asleep: switched off to save power, or about to be: it is in maintenance, and counts as no failure;
    live_migration: its hypervisor moves VMs while they run; secure_boot: it can boot guests with it.
    """

    id: str
    name: str
    cpu_mhz: int
    memory_bytes: int
    reserved_cpu_mhz: int = 0
    reserved_memory_bytes: int = 0
    other_cpu_mhz: int = 0
    other_memory_bytes: int = 0
    state: str = "up"
    enabled: bool = True
    maintenance: bool = False
    encryption: bool = False
    uefi: bool = False
    hypervisor_type: str = ""
    cpu_models: frozenset[str] = NOTHING
    bridges: frozenset[str] = NOTHING
    nic_filter: bool = False
    tpm: bool = False
    secure_boot: bool = False
    pools: frozenset[str] = NOTHING
    storage_free_bytes: int = 0
    measured_cpu_mhz: int | None = None
    measured_memory_bytes: int | None = None
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    io_pressure: float | None = None
    asleep: bool = False
    live_migration: bool = True

    @property
    def in_service(self) -> bool:
        """Whether it takes VMs and is measured."""
        return self.state == "up" and self.enabled and not self.maintenance


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM and the host whose capacity it holds.

    Empty text and empty sets ask for nothing. pools: ids of the pools that its disks are in; disk_bytes: size of those
    disks; groups: ids; skip: its owner does not want it moved; movable: it runs and nothing else works on it;
    dirty_rate_bytes_per_s: how fast it writes its memory; moved_ago_s: since its last migration, None: never;
    recent_moves: how often DRS moved it within a day; protected: it restarts on another host when its own fails.
    """

    id: str
    name: str
    host_id: str
    cpu_mhz: int
    memory_bytes: int
    encrypted: bool = False
    uefi: bool = False
    hypervisor_type: str = ""
    cpu_model: str = ""
    bridges: frozenset[str] = NOTHING
    nic_filter: bool = False
    tpm: bool = False
    secure_boot: bool = False
    pools: frozenset[str] = NOTHING
    disk_bytes: int = 0
    groups: tuple[str, ...] = ()
    skip: bool = False
    movable: bool = True
    dirty_rate_bytes_per_s: int = 0
    moved_ago_s: float | None = None
    recent_moves: int = 0
    measured_cpu_mhz: int | None = None
    measured_memory_bytes: int | None = None
    protected: bool = False


class GroupKind(StrEnum):
    """What the VMs of a group want: one host, different hosts, only hosts of the group, or only others."""

    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti-affinity"
    RUN_ON = "run-on"
    NOT_RUN_ON = "not-run-on"

    @property
    def names_hosts(self) -> bool:
        """Whether the rule is about hosts rather than about other VMs."""
        return self in (GroupKind.RUN_ON, GroupKind.NOT_RUN_ON)


@dataclass(frozen=True, slots=True)
class Group:
    """VMs that want to be together, apart, on some hosts or off them. strict: must; otherwise: preferred; hosts: ids,
    for a rule that names hosts."""

    id: str
    name: str
    kind: GroupKind
    strict: bool = True
    hosts: frozenset[str] = NOTHING

    def allows_host(self, host_id: str) -> bool:
        """Whether the host itself is one for these VMs."""
        return not self.kind.names_hosts or (host_id in self.hosts) == (self.kind is GroupKind.RUN_ON)


@dataclass(frozen=True)
class Snapshot:
    """A cluster at one moment. Raises InvalidArgumentError when it does not fit together."""

    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        hosts = _unique("host", (host.id for host in self.hosts))
        groups = _unique("group", (group.id for group in self.groups))
        _unique("VM", (vm.id for vm in self.vms))
        for vm in self.vms:
            if vm.host_id not in hosts:
                raise InvalidArgumentError(f'VM "{vm.name}" is on unknown host "{vm.host_id}"', "UNKNOWN_HOST")
            for group in vm.groups:
                if group not in groups:
                    raise InvalidArgumentError(f'VM "{vm.name}" is in unknown group "{group}"', "UNKNOWN_GROUP")


def _unique(what: str, ids: Iterable[str]) -> set[str]:
    counted = Counter(ids)
    twice = [id for id, count in counted.items() if count > 1]
    if twice:
        raise InvalidArgumentError(f'{what} "{twice[0]}" is there twice', "DUPLICATE_ID", {"id": twice[0]})
    return set(counted)


class Mode(StrEnum):
    """What a plan is for."""

    BALANCE = "balance"  # what drs.algorithm wants
    REPAIR = "repair"  # repair broken affinity rules, nothing else
    EVACUATE = "evacuate"  # move every VM off some hosts


class Verdict(StrEnum):
    """What came of it."""

    MOVES = "moves"  # there is something to do
    SATISFIED = "satisfied"  # balanced (or packed, whole, empty) already
    NOTHING_HELPS = "nothing-helps"  # it should be better, and no move that is allowed makes it so
    NO_HOSTS = "no-hosts"  # fewer than two hosts take part


@dataclass(frozen=True)
class Considered:
    """Another move that could have been made instead."""

    vm_name: str
    destination_name: str
    gain: float
    cost: float


@dataclass(frozen=True)
class Move:
    """One live migration of a plan.

    imbalance_*: of the cluster just before and just after it, in plan order; gain: what it brings towards the aim of
    the algorithm, in imbalance; cost_bytes: memory, sent again as it is dirtied, and disks; cost: that as a share of
    the cluster's memory, which is what drs.cost.weight weighs against the gain; needs: positions in the plan of the
    moves that must be over before this one begins; swap: its id ties two moves that only gain together.
    """

    vm_id: str
    vm_name: str
    source_id: str
    source_name: str
    destination_id: str
    destination_name: str
    imbalance_before: float
    imbalance_after: float
    gain: float
    cost: float
    cost_bytes: int
    storage_motion: bool
    reason: str
    considered: tuple[Considered, ...] = ()
    needs: tuple[int, ...] = ()
    swap: int | None = None


@dataclass(frozen=True)
class LeftOut:
    """A VM or host that took no part, and why. code: for machines."""

    id: str
    name: str
    code: str
    explanation: str


@dataclass(frozen=True)
class HostLoad:
    """How full a host is before and after, 1.0 is all of it: what is allocated of what may be, or with drs.source
    measured what is used of what there is.

    value_*: what the algorithm measures; counted: whether the host is measured at all.
    """

    id: str
    name: str
    counted: bool
    vms_before: int
    vms_after: int
    cpu_before: float
    cpu_after: float
    memory_before: float
    memory_after: float
    value_before: float
    value_after: float


@dataclass(frozen=True)
class BrokenRule:
    """A group whose rule does not hold. pairs: how many pairs of its VMs are together or apart that should not be, or
    how many VMs are on hosts where they should not be."""

    group_id: str
    group_name: str
    kind: GroupKind
    strict: bool
    pairs: int
    explanation: str


@dataclass(frozen=True)
class Plan:
    """The answer. explanation: verdict and end in a sentence; refused: what stood in the way, by code, counted as
    VM-host pairs at the start."""

    mode: Mode
    algorithm: str
    verdict: Verdict
    explanation: str
    imbalance_before: float
    imbalance_after: float
    moves: tuple[Move, ...] = ()
    left_vms: tuple[LeftOut, ...] = ()
    left_hosts: tuple[LeftOut, ...] = ()
    refused: dict[str, int] = field(default_factory=dict)
    broken_before: tuple[BrokenRule, ...] = ()
    broken_after: tuple[BrokenRule, ...] = ()
    loads: tuple[HostLoad, ...] = ()
