"""Compares what hosts report of VMs with what Ostler has recorded. Pure: rows and reports in, changes out.

Nothing here repairs anything: a VM that stopped, vanished or appeared outside Ostler is shown to people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from ostler_control.agents.looks import Look
from ostler_control.states import PowerState, VmState

_NOWHERE: frozenset[str] = frozenset()


class PauseReason(StrEnum):
    """Why a hypervisor paused a VM by itself; the values are what `attention` says."""

    NO_SPACE = "paused: no space for its disks; it continues by itself once there is space in their pools"
    IO_ERROR = "paused: a write to its disks fails; its host tries to resume it"


@dataclass(frozen=True)
class Seen:
    """A VM as a host reports it. managed: created by some Ostler; look: a moment after it was seen so."""

    vm_id: str
    name: str
    power_state: PowerState
    cpus: int = 0
    memory_bytes: int = 0
    managed: bool = False
    detail: str = ""
    pause_reason: PauseReason | None = None
    look: Look | None = field(default=None, compare=False)


# Asked for some VMs: by VM and host the last moment at which the host answered that the VM does not run there.
Absences = Callable[[Set[str]], Mapping[tuple[str, str], Look]]


@dataclass(frozen=True)
class HostView:
    """A host as the watcher has it. heard: its stream is alive, so `vms` (by id) are all the VMs on it.

    silent: it was tried and does not answer. Neither: it is being connected, and nothing is known.
    """

    host_id: str
    name: str
    heard: bool = False
    silent: bool = False
    vms: Mapping[str, Seen] | None = None

    def seen(self, vm_id: str) -> Seen | None:
        return (self.vms or {}).get(vm_id)

    @cached_property
    def executing(self) -> frozenset[str]:
        """Ids of the VMs that run there, or did when it was last heard."""
        return frozenset(vm_id for vm_id, seen in (self.vms or {}).items() if seen.power_state.is_executing)

    @cached_property
    def idle(self) -> tuple[str, ...]:
        """Ids of the managed VMs that are defined there and do not run."""
        vms = (self.vms or {}).items()
        return tuple(sorted(id for id, seen in vms if seen.managed and seen.power_state is PowerState.STOPPED))


class VmRow(NamedTuple):
    """A VM as the database has it. A tuple, because all of them are read every few seconds.

    home: the host where it is placed, or, when placed nowhere, where its definition was last; "" for none.
    quiet: no operation holds it and none has ended in the last seconds.
    seen_on: ids of the hosts other than home where it was last seen running.
    """

    vm_id: str
    name: str
    account_id: str
    state: VmState
    power_state: PowerState
    attention: str
    home: str
    quiet: bool
    seen_on: frozenset[str] = _NOWHERE


class Kind(StrEnum):
    """What is wrong with a VM; the last part of the event's type."""

    FINE = "recovered"
    STOPPED = "stopped"
    STARTED = "started"
    PAUSED = "paused"
    CRASHED = "crashed"
    VANISHED = "vanished"
    MISPLACED = "misplaced"
    DOUBLED = "doubled"
    SILENT = "silent"


@dataclass(frozen=True)
class Verdict:
    """What to record of a VM. event: type of the event to record ("vm.stopped"), "" for none; message: its text."""

    row: VmRow
    power_state: PowerState
    attention: str
    event: str = ""
    message: str = ""
    seen_on: frozenset[str] = _NOWHERE


def reconcile(
    rows: Iterable[VmRow], hosts: Mapping[str, HostView], absences: Absences = lambda vm_ids: {}
) -> list[Verdict]:
    """The verdicts that differ from what the rows say. hosts: every host of the fleet, by id; absences: asked for those
    few VMs that are seen running where their rows do not say so.

    What a host reported before it answered to a job that the VM does not run there is out of date: the report of the
    VM's end is still on its way, or the host was cut off meanwhile.
    """
    judged = [row for row in rows if row.quiet and row.state.is_stable]  # of the others an operation decides
    executing = _executing({row.vm_id for row in judged}, hosts.values())
    judged = [row for row in judged if not _is_settled(row, hosts.get(row.home), executing.get(row.vm_id, []))]
    judged.sort()
    outdated = _outdated(judged, executing, absences)
    verdicts = []
    for row in judged:
        elsewhere = [
            host
            for host in executing.get(row.vm_id, [])
            if host.host_id != row.home and (row.vm_id, host.host_id) not in outdated
        ]
        unheard = [hosts[id] for id in sorted(row.seen_on - {row.home}) if id in hosts and not hosts[id].heard]
        home = hosts.get(row.home)
        if (row.vm_id, row.home) in outdated and home is not None:
            home = replace(home, heard=False)  # nothing is known of the VM there now
        verdict = _judge(row, home, elsewhere, unheard)
        if verdict is None:
            continue
        seen_on = frozenset(host.host_id for host in (*elsewhere, *unheard))
        if (verdict.power_state, verdict.attention, seen_on) != (row.power_state, row.attention, row.seen_on):
            verdicts.append(replace(verdict, seen_on=seen_on))
    return verdicts


def _is_settled(row: VmRow, home: HostView | None, running_on: list[HostView]) -> bool:
    """Whether the VM runs at home and nowhere else, as its row says: then there is no verdict. So do nearly all."""
    if home is None or len(running_on) != 1 or running_on[0] is not home or row.attention or row.seen_on:
        return False
    seen = home.seen(row.vm_id)
    is_running = seen is not None and seen.power_state is PowerState.RUNNING
    return is_running and row.state is VmState.RUNNING and row.power_state is PowerState.RUNNING


def _executing(vm_ids: Set[str], hosts: Iterable[HostView]) -> dict[str, list[HostView]]:
    """By VM the hosts that run it, by their names. Few VMs are asked for at a time, so the work is per host, not per VM
    of the fleet."""
    found: dict[str, list[HostView]] = {}
    for host in hosts:
        if host.heard:
            for vm_id in vm_ids & host.executing:
                found.setdefault(vm_id, []).append(host)
    for running in found.values():
        running.sort(key=lambda host: host.name)
    return found


def _outdated(
    judged: Iterable[VmRow], executing: Mapping[str, list[HostView]], absences: Absences
) -> set[tuple[str, str]]:
    """The VMs and hosts of which the host's last report is older than its answer that the VM does not run there."""
    doubtful = {
        (row.vm_id, host.host_id): host
        for row in judged
        for host in executing.get(row.vm_id, ())
        if host.host_id != row.home or row.state is not VmState.RUNNING
    }
    if not doubtful:
        return set()
    ended = absences({vm_id for vm_id, _ in doubtful})
    found = set()
    for (vm_id, host_id), host in doubtful.items():
        seen, absence = host.seen(vm_id), ended.get((vm_id, host_id))
        if seen is not None and seen.look is not None and absence is not None and seen.look.is_before(absence):
            found.add((vm_id, host_id))
    return found


def unmanaged(host: HostView, known_vm_ids: frozenset[str]) -> dict[str, Seen]:
    """VMs on a host that have no row, by id."""
    if known_vm_ids.issuperset(host.vms or ()):
        return {}
    return {vm_id: seen for vm_id, seen in (host.vms or {}).items() if vm_id not in known_vm_ids}


def _judge(row: VmRow, home: HostView | None, elsewhere: list[HostView], unheard: list[HostView]) -> Verdict | None:
    """elsewhere: other hosts that run it now; unheard: others where it ran when they were last heard. None when nothing
    is known now."""
    if elsewhere:
        return _misplaced(row, home, elsewhere)
    if unheard:
        return _maybe_misplaced(row, home, unheard)
    if home is None:
        return _verdict(row, row.power_state, Kind.FINE, row.attention if row.state is VmState.FAILED else "")
    if home.silent and row.state is VmState.RUNNING:
        return _verdict(row, PowerState.UNKNOWN, Kind.SILENT, _SILENT)
    if not home.heard:
        return None
    seen = home.seen(row.vm_id)
    power_state = seen.power_state if seen else PowerState.ABSENT
    kind, text = _at_home(row, power_state, seen.pause_reason if seen else None)
    return _verdict(row, power_state, kind, text, seen.detail if seen else "")


def _at_home(row: VmRow, power_state: PowerState, pause_reason: PauseReason | None) -> tuple[Kind, str]:
    match row.state, power_state:
        case "running", "stopped":
            return Kind.STOPPED, "stopped outside Ostler"
        case "running", "paused":
            return Kind.PAUSED, str(pause_reason or "paused outside Ostler")
        case "running", "crashed":
            return Kind.CRASHED, "its guest crashed"
        case "running", "absent":
            return Kind.VANISHED, "vanished: its host no longer knows it"
        case "stopped", "running" | "paused":
            return Kind.STARTED, "started outside Ostler"
        case "stopped", "absent" if row.power_state is PowerState.ABSENT:
            return Kind.VANISHED, row.attention
        case "stopped", "absent" if row.power_state:
            return Kind.VANISHED, "its definition is gone from its host; starting the VM writes it again"
        case "failed", _:
            return Kind.FINE, row.attention  # says what failed
        case _:
            return Kind.FINE, ""


def _misplaced(row: VmRow, home: HostView | None, elsewhere: list[HostView]) -> Verdict:
    where = " and ".join(host.name for host in elsewhere)
    at_home = home.seen(row.vm_id) if home and home.heard else None
    power_state = at_home.power_state if at_home else _not_at_home(home)
    if home and power_state.is_executing:
        hosts = " and ".join([home.name, *(host.name for host in elsewhere)])
        text = f"RUNS TWICE, on hosts {hosts}: both write its disks; stop one of the two at once"
        return _verdict(row, power_state, Kind.DOUBLED, text)
    if home and home.silent and row.state is VmState.RUNNING:
        text = f"RUNS ON HOST {where}, and perhaps also on {home.name}, where Ostler placed it and which is silent"
        return _verdict(row, PowerState.UNKNOWN, Kind.DOUBLED, text)
    placed = f"although Ostler placed it on {home.name}" if home else "although Ostler placed it nowhere"
    text = f"RUNS ON HOST {where}, {placed}: it was moved or started outside Ostler"
    return _verdict(row, power_state, Kind.MISPLACED, text)


def _maybe_misplaced(row: VmRow, home: HostView | None, unheard: list[HostView]) -> Verdict:
    where = " and ".join(host.name for host in unheard)
    at_home = home.seen(row.vm_id) if home and home.heard else None
    power_state = at_home.power_state if at_home else _not_at_home(home)
    text = f"was last seen running on host {where}, where Ostler did not place it and which does not answer"
    return _verdict(row, power_state, Kind.MISPLACED, text)


def _not_at_home(home: HostView | None) -> PowerState:
    return PowerState.ABSENT if home and home.heard else PowerState.UNKNOWN


_SILENT = "its host is silent: the VM may still run there, and is started nowhere else"


def _verdict(row: VmRow, power_state: PowerState, kind: Kind, attention: str, detail: str = "") -> Verdict:
    """Events of the host tell of its silence; everything else gets one event when it begins and one when it ends."""
    if attention == row.attention or kind is Kind.SILENT:
        return Verdict(row, power_state, attention)
    if not attention:
        if row.attention == _SILENT:
            return Verdict(row, power_state, "")
        return Verdict(row, power_state, "", f"vm.{Kind.FINE}", "is as Ostler recorded it again")
    return Verdict(row, power_state, attention, f"vm.{kind}", f"{attention} ({detail})" if detail else attention)
