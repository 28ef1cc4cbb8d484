"""VMs as recorded against VMs as hosts list them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ostler_control.check.findings import RESTORE, Finding, Reason
from ostler_control.states import PowerState, VmState


@dataclass(frozen=True)
class VmRecord:
    """A VM's row. home: id of the host where it is placed, "" for none; held: an operation works on it."""

    id: str
    name: str
    state: VmState
    home: str
    held: bool


@dataclass(frozen=True)
class Domain:
    """A VM that a host lists. managed: some Ostler created it."""

    vm_id: str
    name: str
    power_state: PowerState
    managed: bool


def unknown_ids(rows: Sequence[VmRecord], domains: Mapping[str, Sequence[Domain]]) -> set[str]:
    """Ids of Ostler's VMs on hosts that have no row."""
    listed = {domain.vm_id for found in domains.values() for domain in found if domain.managed}
    return listed - {row.id for row in rows}


def compare_vms(
    rows: Sequence[VmRecord],
    domains: Mapping[str, Sequence[Domain]],
    host_names: Mapping[str, str],
    deleted: Collection[str] = (),
) -> Iterator[Finding]:
    """domains: by id of every host that answered; a host that is not in it may run anything; deleted: ids of VMs
    without a row of which the audit log has the deletion."""
    executing: dict[str, list[str]] = {}
    seen: dict[tuple[str, str], PowerState] = {}
    for host_id, listed in domains.items():
        for domain in listed:
            seen[host_id, domain.vm_id] = domain.power_state
            if domain.power_state.is_executing:
                executing.setdefault(domain.vm_id, []).append(host_id)
    for row in rows:
        if not row.held and row.state.is_stable:
            yield from _compare(row, executing.get(row.id, []), domains, seen, host_names)
    unknown = unknown_ids(rows, domains)
    for host_id, listed in domains.items():
        for domain in listed:
            if domain.vm_id in unknown:
                yield _unknown(domain, host_names[host_id], domain.vm_id in deleted)


def _unknown(domain: Domain, host_name: str, is_deleted: bool) -> Finding:
    name = f"VM {domain.name}"
    if is_deleted and not domain.power_state.is_executing:
        return Finding(
            Reason.VM_DEFINITION_LEFT,
            name,
            f"host {host_name} has its definition, and it was deleted while the host was silent; the command is for "
            "that host",
            f"virsh -c qemu:///system undefine --nvram {domain.vm_id}",
        )
    return Finding(
        Reason.VM_UNKNOWN,
        name,
        f"host {host_name} has it ({domain.power_state}), the database does not know it: it was created after the "
        "backup, or belongs to another fleet",
        RESTORE,
    )


def _compare(
    row: VmRecord,
    runs_on: Sequence[str],
    domains: Mapping[str, Sequence[Domain]],
    seen: Mapping[tuple[str, str], PowerState],
    host_names: Mapping[str, str],
) -> Iterator[Finding]:
    name = f"VM {row.name}"
    elsewhere = [host_id for host_id in runs_on if host_id != row.home]
    if len(runs_on) > 1:
        hosts = " and ".join(sorted(host_names[host_id] for host_id in runs_on))
        stop = elsewhere[0]
        yield Finding(
            Reason.VM_RUNS_TWICE,
            name,
            f"it runs on hosts {hosts}, and both write its disks; the command is for host {host_names[stop]}",
            f"virsh -c qemu:///system destroy {row.id}",
        )
    elif elsewhere:
        recorded = f"on {host_names.get(row.home, row.home)}" if row.home else "nowhere"
        yield Finding(
            Reason.VM_RUNS_ELSEWHERE,
            name,
            f"it runs on host {host_names[elsewhere[0]]}, and the database has it {recorded}; the command is for that "
            "host",
            f"virsh -c qemu:///system shutdown {row.id}",
        )
    elif row.state is VmState.RUNNING and not runs_on and row.home in domains:
        found = seen.get((row.home, row.id), PowerState.ABSENT)
        command = f"ostler vm stop {row.name}" if found is PowerState.ABSENT else f"ostler vm start {row.name}"
        yield Finding(Reason.VM_NOT_RUNNING, name, f"it is {found} on host {host_names[row.home]}", command)
    elif row.state is VmState.STOPPED and runs_on:
        where = host_names[runs_on[0]]
        yield Finding(
            Reason.VM_RUNNING, name, f"it runs on host {where}, recorded as stopped", f"ostler vm stop {row.name}"
        )
