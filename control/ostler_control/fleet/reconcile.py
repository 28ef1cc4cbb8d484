"""What hosts say of VMs against what Ostler has written down. Pure: rows and sightings in, changes out.

Nothing here mends anything: a VM that stopped, vanished or appeared by other hands is shown to people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

EXECUTING = frozenset({"running", "paused"})
ABSENT = "absent"


@dataclass(frozen=True)
class Seen:
    """A VM as a host reports it. power_state: stopped | running | paused | crashed; managed: made by some Ostler."""

    vm_id: str
    name: str
    power_state: str
    cpus: int = 0
    memory_bytes: int = 0
    managed: bool = False
    detail: str = ""


@dataclass(frozen=True)
class HostView:
    """A host as the watcher has it. heard: its stream is alive, so `vms` (by id) is all there is on it.

    silent: it was tried and does not answer. Neither: it is being connected, and nothing can be said.
    """

    host_id: str
    name: str
    heard: bool = False
    silent: bool = False
    vms: Mapping[str, Seen] | None = None

    def seen(self, vm_id: str) -> Seen | None:
        return (self.vms or {}).get(vm_id)


@dataclass(frozen=True)
class VmRow:
    """A VM as the database has it.

    home: the host where it is placed, or, when placed nowhere, where its definition was last; "" for none.
    settled: no operation holds it and none has ended in the last moments.
    """

    vm_id: str
    name: str
    account_id: str
    state: str
    power_state: str
    attention: str
    home: str
    settled: bool


class Kind(StrEnum):
    """What is amiss with a VM; the last part of the event's type."""

    FINE = "settled"
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
    """What to write of a VM. event: type of the event to record ("vm.stopped"), "" for none; message: its text."""

    row: VmRow
    power_state: str
    attention: str
    event: str = ""
    message: str = ""


def reconcile(rows: Iterable[VmRow], hosts: Mapping[str, HostView]) -> list[Verdict]:
    """The verdicts that differ from what the rows say. hosts: every host of the fleet, by id."""
    executing: dict[str, list[HostView]] = {}
    for host in sorted(hosts.values(), key=lambda host: host.name):
        for seen in (host.vms or {}).values():
            if host.heard and seen.power_state in EXECUTING:
                executing.setdefault(seen.vm_id, []).append(host)
    verdicts = []
    for row in rows:
        if not row.settled or row.state not in ("running", "stopped", "failed"):
            continue  # an operation's business
        verdict = _judge(row, hosts.get(row.home), [h for h in executing.get(row.vm_id, []) if h.host_id != row.home])
        if verdict is not None and (verdict.power_state, verdict.attention) != (row.power_state, row.attention):
            verdicts.append(verdict)
    return verdicts


def unmanaged(host: HostView, known_vm_ids: frozenset[str]) -> dict[str, Seen]:
    """VMs on a host that no row speaks of, by id."""
    return {vm_id: seen for vm_id, seen in (host.vms or {}).items() if vm_id not in known_vm_ids}


def _judge(row: VmRow, home: HostView | None, elsewhere: list[HostView]) -> Verdict | None:
    """None when nothing can be said now."""
    if elsewhere:
        return _misplaced(row, home, elsewhere)
    if home is None:
        return _verdict(row, row.power_state, Kind.FINE, row.attention if row.state == "failed" else "")
    if home.silent and row.state == "running":
        return _verdict(row, "", Kind.SILENT, _SILENT)
    if not home.heard:
        return None
    seen = home.seen(row.vm_id)
    power_state = seen.power_state if seen else ABSENT
    kind, text = _at_home(row, power_state)
    return _verdict(row, power_state, kind, text, seen.detail if seen else "")


def _at_home(row: VmRow, power_state: str) -> tuple[Kind, str]:
    match row.state, power_state:
        case "running", "stopped":
            return Kind.STOPPED, "stopped outside Ostler"
        case "running", "paused":
            return Kind.PAUSED, "paused outside Ostler"
        case "running", "crashed":
            return Kind.CRASHED, "its guest crashed"
        case "running", "absent":
            return Kind.VANISHED, "vanished: its host no longer knows it"
        case "stopped", "running" | "paused":
            return Kind.STARTED, "started outside Ostler"
        case "stopped", "absent" if row.power_state == ABSENT:
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
    power_state = at_home.power_state if at_home else ABSENT if home and home.heard else ""
    if home and power_state in EXECUTING:
        hosts = " and ".join([home.name, *(host.name for host in elsewhere)])
        text = f"RUNS TWICE, on hosts {hosts}: both write its disks; stop one of the two at once"
        return _verdict(row, power_state, Kind.DOUBLED, text)
    if home and home.silent and row.state == "running":
        text = f"RUNS ON HOST {where}, and perhaps also on {home.name}, where Ostler placed it and which is silent"
        return _verdict(row, "", Kind.DOUBLED, text)
    placed = f"although Ostler placed it on {home.name}" if home else "although Ostler placed it nowhere"
    text = f"RUNS ON HOST {where}, {placed}: it was moved or started outside Ostler"
    return _verdict(row, power_state, Kind.MISPLACED, text)


_SILENT = "host is silent: the VM may well be running there, and is started nowhere else"


def _verdict(row: VmRow, power_state: str, kind: Kind, attention: str, detail: str = "") -> Verdict:
    """Silence and its end are told by events of the host; all else once when it begins and once when it ends."""
    if attention == row.attention or kind is Kind.SILENT:
        return Verdict(row, power_state, attention)
    if not attention:
        if row.attention == _SILENT:
            return Verdict(row, power_state, "")
        return Verdict(row, power_state, "", f"vm.{Kind.FINE}", "is again as Ostler has it")
    return Verdict(row, power_state, attention, f"vm.{kind}", f"{attention} ({detail})" if detail else attention)
