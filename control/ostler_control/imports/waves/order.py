"""Which VMs of a plan begin next: by order, dependencies and limits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ostler_control.states import ImportPlanVmState as State


@dataclass(frozen=True)
class Entry:
    """A VM of a plan. after: positions; esxi_host: "" when unknown."""

    position: int
    name: str
    state: State
    after: tuple[int, ...] = ()
    esxi_host: str = ""


@dataclass(frozen=True)
class Limits:
    """How many imports may be under way at once."""

    vms: int
    per_esxi_host: int
    per_vcenter: int
    per_conversion_host: int


@dataclass(frozen=True)
class Busy:
    """Imports under way, those of other plans and of none included. esxi_hosts: of the source, by name; source: from
    the source."""

    source: int = 0
    esxi_hosts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What to do now. begin: positions, in order; waiting: why others do not begin, by position."""

    begin: tuple[int, ...]
    waiting: Mapping[int, str]


def to_skip(entries: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    """Positions of VMs that never begin, because one that they come after was not imported, and why."""
    failed = {entry.position: entry for entry in entries if entry.state.is_over and entry.state is not State.IMPORTED}
    for entry in entries:
        first = next((failed[need] for need in entry.after if need in failed), None)
        if entry.state is State.WAITING and first is not None:
            yield entry.position, f"it comes after {first.name}, which was not imported"


def choose(entries: Sequence[Entry], limits: Limits, busy: Busy) -> Choice:
    """The VMs that may begin now, in the order of the list: one that waits holds up only those that come after it."""
    states = {entry.position: entry for entry in entries}
    running = sum(entry.state is State.RUNNING for entry in entries)
    source, hosts = busy.source, Counter(busy.esxi_hosts)
    begin: list[int] = []
    waiting: dict[int, str] = {}
    for entry in entries:
        if entry.state is not State.WAITING:
            continue
        needed = [states[need].name for need in entry.after if states[need].state is not State.IMPORTED]
        if needed:
            waiting[entry.position] = f"comes after {', '.join(needed)}"
        elif running >= limits.vms:
            waiting[entry.position] = f"{_imports(limits.vms)} of the plan at once (parallel.vms)"
        elif source >= limits.per_vcenter:
            waiting[entry.position] = f"{_imports(limits.per_vcenter)} from the source at once (parallel.per_vcenter)"
        elif entry.esxi_host and hosts[entry.esxi_host] >= limits.per_esxi_host:
            waiting[entry.position] = (
                f"{_imports(limits.per_esxi_host)} from {entry.esxi_host} at once (parallel.per_esxi_host)"
            )
        else:
            begin.append(entry.position)
            running, source = running + 1, source + 1
            hosts[entry.esxi_host] += 1
    return Choice(tuple(begin), waiting)


def _imports(count: int) -> str:
    return "1 import" if count == 1 else f"{count} imports"
